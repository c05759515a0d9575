"""The rules and alerts: promtool reads and plays them, and a real Herald has what they name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability.conftest import Seen
from tests.observability.promql import RULES, RUNBOOK, names, run_promtool
from tests.observability.vocabulary import check_names

TESTS = Path(__file__).parent / "rules_test.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(RULES.read_text())
ALL: list[dict[str, Any]] = [rule for group in DOCUMENT["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL if "alert" in rule}
RECORDS = {rule["record"]: rule for rule in ALL if "record" in rule}
PLAYED: list[dict[str, Any]] = yaml.safe_load(TESTS.read_text())["tests"]

alerts = pytest.mark.parametrize("name", ALERTS)


def test_promtool_finds_nothing_to_say() -> None:
    done = run_promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"{len(ALL)} rules found" in done.stdout


def test_what_the_chart_makes_of_it_is_good_as_well(tmp_path: Path) -> None:
    text = RULES.read_text().replace('namespace=~".*"', 'namespace="a-b"')
    text = text.replace("RUNBOOK_URL", "https://example.com/runbook.md")
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    done = run_promtool("check", "rules", "--lint=all", "--lint-fatal", str(path))
    assert done.returncode == 0, done.stderr + done.stdout
    for rule in yaml.safe_load(text)["groups"][0]["rules"]:
        assert 'namespace="a-b"' in rule["expr"]


def test_each_alert_fires_and_does_not_fire_as_it_should() -> None:
    done = run_promtool("test", "rules", str(TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


@alerts
def test_each_alert_is_played_both_ways(name: str) -> None:
    fires = silent = False
    for test in PLAYED:
        about, _, _ = test["name"].partition(":")
        assert about in ALERTS, test["name"]
        for asked in test["promql_expr_test"]:
            told = [sample["labels"] for sample in asked["exp_samples"]]
            fires |= any(f'alertname="{name}"' in labels for labels in told)
            silent |= about == name and not told
    assert fires, "no test makes it fire"
    assert silent, "no test expects it not to fire"


@alerts
def test_each_alert_says_what_an_operator_needs(name: str) -> None:
    alert = ALERTS[name]
    assert name.startswith("Herald")
    assert re.fullmatch(r"\d+[sm]", alert["for"])
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["labels"]["severity"] in ("warning", "critical")
    said = alert["annotations"]
    assert set(said) == {"threshold", "summary", "description", "runbook_url"}
    assert re.search(rf"(?:>|==) {re.escape(said['threshold'])}(?![\d.])", alert["expr"]) or (
        name == "HeraldDown"
    )
    assert len(said["summary"]) <= 90
    assert not said["summary"].endswith(".")
    assert said["description"].endswith(".")
    assert said["runbook_url"] == f"RUNBOOK_URL#{name.lower()}"


@alerts
def test_the_runbook_has_a_chapter_of_each_alert(name: str) -> None:
    chapter = RUNBOOK.read_text().split(f"\n### {name}\n")
    assert len(chapter) == 2
    text = chapter[1].split("\n#")[0]
    severity = ALERTS[name]["labels"]["severity"]
    assert text.lstrip().startswith(f"*{severity.capitalize()}.*")
    for part in ("**Confirm.**", "**Do.**"):
        assert part in text, part


def test_the_runbook_has_no_chapter_of_an_alert_that_is_none() -> None:
    assert set(re.findall(r"^### (Herald\w+)$", RUNBOOK.read_text(), re.MULTILINE)) == set(ALERTS)


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_real_herald_has_every_metric_and_label(rule: dict[str, Any], seen: Seen) -> None:
    check_names(rule["expr"], seen, set(RECORDS))
    for selector in names(rule["expr"]).selectors:
        assert ("namespace", "=~", ".*") in selector.matchers, selector


@alerts
def test_labels_in_an_alerts_text_are_there(name: str) -> None:
    alert = ALERTS[name]
    used = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
    assert used <= names(alert["expr"]).groupings


def test_texts_are_filled_in(tmp_path: Path) -> None:
    """Of every alert that the tests make fire: promtool shows what it would send."""
    tests = []
    for test in PLAYED:
        about = test["name"].partition(":")[0]
        times = [
            asked["eval_time"]
            for asked in test["promql_expr_test"]
            if any(f'alertname="{about}"' in sample["labels"] for sample in asked["exp_samples"])
        ]
        asked = [{"alertname": about, "eval_time": time, "exp_alerts": []} for time in times[:1]]
        kept = {key: test[key] for key in ("name", "interval", "input_series")}
        if asked:
            tests.append({**kept, "alert_rule_test": asked})
    path = tmp_path / "texts.yaml"
    document = {"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": tests}
    path.write_text(yaml.safe_dump(document))
    done = run_promtool("test", "rules", str(path))
    assert done.returncode == 1  # each of them fires, and none is expected to
    told = done.stdout + done.stderr
    sent = re.findall(r'Annotations:\{(description=.*?threshold="[^"]*")\}', told, re.DOTALL)
    found = {re.search(r"RUNBOOK_URL#(\w+)", one)[1] for one in sent}  # type: ignore[index]
    assert found == {name.lower() for name in ALERTS}
    for one in sent:
        assert "error expanding" not in one
        assert "<no value>" not in one
        assert "{{" not in one
        assert not re.search(r"Herald  |  ", one), one
