"""`python helm/observability`: writes helm/herald/dashboards/herald.json from `panels.py`.

With `--check`, says whether it is up to date instead.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent))

import panels
from grafana import Rules, dashboard

CHART = Path(__file__).parents[1] / "herald"
RULES = CHART / "rules/herald.yaml"
DASHBOARD = CHART / "dashboards/herald.json"


def generate() -> str:
    """The JSON, as it is to be written."""
    rules = Rules(yaml.safe_load(RULES.read_text()))
    document = dashboard(panels.TITLE, panels.TEXT, panels.rows(rules), rules)
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    text = generate()
    if sys.argv[1:] == ["--check"]:
        if DASHBOARD.read_text() != text:
            sys.exit(f"{DASHBOARD} is not up to date: run `python helm/observability`")
    else:
        DASHBOARD.write_text(text)
