"""Results as files: one JSON a scenario, with when, where and how it was measured."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import describe, engine_version

DOCS = Path(__file__).parents[1] / "docs"
FOLDER = "performance"


def save(docs: Path, scenario: str, found: dict[str, Any], **more: Any) -> Path:
    """Write a scenario's result below `docs`."""
    whole = {
        "scenario": scenario,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": describe(),
        "engine": engine_version(),
        **more,
        **found,
    }
    path = docs / FOLDER / f"{scenario}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    return path


def load(docs: Path) -> dict[str, dict[str, Any]]:
    """All results that are there, by scenario."""
    found = (json.loads(path.read_text()) for path in sorted((docs / FOLDER).glob("*.json")))
    return {result["scenario"]: result for result in found if "scenario" in result}
