"""The dashboard: written from its description, and every query has an answer from a real Herald."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.observability.conftest import Seen
from tests.observability.promql import DASHBOARD, ROOT, RULES, run_promtool
from tests.observability.test_rules import ALERTS, RECORDS
from tests.observability.vocabulary import check_names

DOCUMENT: dict[str, Any] = json.loads(DASHBOARD.read_text())
PANELS = [panel for panel in DOCUMENT["panels"] if panel["type"] != "row"]
ROWS = [panel["title"] for panel in DOCUMENT["panels"] if panel["type"] == "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
OBJECTIVE = 0.25
NO_LINE = {
    "HeraldDown": "says that there is nothing to draw",
    "HeraldDeliveryStalled": "a stat that is red below 100 %",
    "HeraldNothingWritten": "two lines to compare",
    "HeraldReplicasMissing": "two lines to compare",
    "HeraldFull": "one of several reasons",
    "HeraldNoKeys": "one of several reasons",
    "HeraldNoRoom": "one of several reasons",
}
"""Alerts that a panel explains without their threshold, and why."""

panels = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def test_it_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "helm/observability", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_change_of_an_alert_is_noticed(tmp_path: Path) -> None:
    """Its threshold is on the dashboard, so the JSON is not up to date any more."""
    chart = tmp_path / "helm/herald"
    for path in (RULES, DASHBOARD):
        copy = chart / path.relative_to(ROOT / "helm/herald")
        copy.parent.mkdir(parents=True)
        copy.write_text(path.read_text())
    scripts = tmp_path / "helm/observability"
    scripts.mkdir()
    for path in (ROOT / "helm/observability").glob("*.py"):
        (scripts / path.name).write_text(path.read_text())
    rules = chart / "rules/herald.yaml"
    check = [sys.executable, "helm/observability", "--check"]
    before = subprocess.run(check, cwd=tmp_path, capture_output=True, check=False)
    assert before.returncode == 0, before.stderr
    changed = rules.read_text().replace("> 0.85", "> 0.8").replace('"0.85"', '"0.8"')
    rules.write_text(changed)
    after = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert after.returncode == 1
    assert "python helm/observability" in after.stderr


def test_it_can_be_chosen_what_is_shown() -> None:
    variables = {one["name"]: one for one in DOCUMENT["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "pod"]
    assert variables["datasource"]["type"] == "datasource"
    for name in ("namespace", "pod"):
        assert variables[name]["datasource"]["uid"] == "${datasource}"
        assert variables[name]["includeAll"]
        assert variables[name]["multi"]
    assert 'namespace=~"$namespace"' in variables["pod"]["definition"]


def test_it_answers_the_questions() -> None:
    assert ROWS == [
        "At a glance",
        "Are people receiving their events?",
        "How fast?",
        "Who is dropped, and why?",
        "Is a rollout going well?",
        "Is the engine the limit?",
        "Is a process the limit?",
    ]


@panels
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert len(panel["description"]) >= 20
    assert panel["description"].split("\n")[0].endswith(".")
    assert panel["datasource"]["uid"] == "${datasource}"
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in {"short", "s", "ops", "bytes", "Bps", "percentunit"}
    steps = defaults["thresholds"]["steps"]
    assert steps[0]["value"] is None
    values = [step["value"] for step in steps[1:]]
    assert values == sorted(values)
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert target["legendFormat"]
        assert re.search(r'namespace=~"\$namespace"', target["expr"])


@panels
def test_what_a_legend_names_is_there(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            assert label == "namespace" or any(label in one for one in grouped), target


def test_panels_do_not_overlap_and_fill_the_width() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DOCUMENT["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len(taken) == 24 * max(y + 1 for _, y in taken)
    ids = [panel["id"] for panel in DOCUMENT["panels"]]
    assert len(ids) == len(set(ids))


def _steps(panel: dict[str, Any]) -> set[tuple[str, float]]:
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]
    return {(step["color"], step["value"]) for step in steps}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_on_the_dashboard_with_its_threshold(name: str) -> None:
    link = f"[{name}](RUNBOOK_URL#{name.lower()})"
    explained = [panel for panel in PANELS if link in panel["description"]]
    assert explained
    if name in NO_LINE:
        return
    colour = {"warning": "orange", "critical": "red"}[ALERTS[name]["labels"]["severity"]]
    threshold = float(ALERTS[name]["annotations"]["threshold"])
    drawn = [step for panel in explained for step in _steps(panel)]
    assert any(c == colour and abs(value - threshold) < 1e-5 for c, value in drawn), drawn


def test_the_objective_is_the_rules() -> None:
    assert f'le="{OBJECTIVE}"' in RECORDS["herald:slow_writes:ratio_rate5m"]["expr"]
    for title in ("p99 to the socket", "From acceptance to the socket"):
        (panel,) = [panel for panel in PANELS if panel["title"] == title]
        assert ("red", OBJECTIVE) in _steps(panel)


@pytest.mark.parametrize(("title", "expr"), QUERIES)
def test_a_real_herald_has_every_metric_and_label(title: str, expr: str, seen: Seen) -> None:
    check_names(expr, seen, set(RECORDS))


def test_every_query_has_an_answer_from_what_was_scraped(seen: Seen, tmp_path: Path) -> None:
    """Promtool is given the scrapes as if they were a minute apart, and is asked everything."""
    path = tmp_path / "queries.yaml"
    queries = [expr for _, expr in QUERIES] + list(RECORDS)
    asked = [
        {
            "expr": f"clamp_max(count({_chosen(expr)}), 1)",
            "eval_time": f"{len(seen.scrapes) - 1}m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for expr in queries
    ]
    test = {"interval": "1m", "input_series": list(_series(seen)), "promql_expr_test": asked}
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}
    path.write_text(yaml.safe_dump(document))
    done = run_promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def _chosen(expr: str) -> str:
    """What Grafana makes of it where everything is chosen."""
    expr = expr.replace("$__rate_interval", "5m")
    return expr.replace("$namespace", ".*").replace("$pod", ".*")


def _series(seen: Seen) -> Iterator[dict[str, str]]:
    values: dict[str, list[str]] = {}
    for index, text in enumerate(seen.scrapes):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = {**sample.labels, "namespace": "n", "pod": "p", "instance": "i"}
                inside = ",".join(f'{k}="{v}"' for k, v in sorted(labels.items()))
                row = values.setdefault(f"{sample.name}{{{inside}}}", ["_"] * len(seen.scrapes))
                row[index] = repr(float(sample.value))
    for series, row in values.items():
        yield {"series": series, "values": " ".join(row)}
