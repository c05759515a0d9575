"""What a PromQL expression names, read without a parser: promtool checks its grammar."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm/herald/rules/herald.yaml"
DASHBOARD = ROOT / "helm/herald/dashboards/herald.json"
RUNBOOK = ROOT / "docs/runbook.md"
TOOLS = ROOT / "helm/.tools"
"""Where `make promtool` puts it."""

OF_THE_TARGET = frozenset({"namespace", "pod", "instance"})
"""Labels that the scraper adds."""
OF_ALERTS = frozenset({"alertname", "alertstate"})
_WORDS = frozenset(
    {
        *("absent", "and", "avg", "avg_over_time", "bool", "by", "clamp_min", "count"),
        *("histogram_quantile", "increase", "max", "max_over_time", "min", "on", "or", "rate"),
        *("sum", "time", "unless", "vector"),
    }
)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[[^\]]*\]|[A-Za-z_:$][\w:]*|\S')
_DURATION = re.compile(r"\[(?:\d+[smhd]|\$__rate_interval)(?::\d+[smhd])?\]")


class Matcher(NamedTuple):
    label: str
    operator: str
    value: str


class Selector(NamedTuple):
    """A metric and what it is asked of it."""

    metric: str
    matchers: tuple[Matcher, ...]


class Names(NamedTuple):
    """All that an expression names: metrics, and labels to group or join by."""

    selectors: list[Selector]
    groupings: set[str]


def names(expr: str) -> Names:
    """Raises AssertionError for a word that is none of PromQL's that are used here."""
    expr = re.sub(r"#.*", "", expr)
    groupings: set[str] = set()

    def group(found: re.Match[str]) -> str:
        groupings.update(label.strip() for label in found[1].split(","))
        return " "

    selectors = list(_selectors(expr))
    rest = re.sub(r"\{[^}]*\}", " ", expr)
    rest = re.sub(r"\b(?:by|on)\s*\(([^)]*)\)", group, rest)
    known = _WORDS | {selector.metric for selector in selectors}
    for token in _TOKEN.findall(rest):
        if token.startswith("["):
            assert _DURATION.fullmatch(token), token
        elif re.match(r"[A-Za-z_:$]", token):
            assert token in known, f"{token!r} in {expr}"
    return Names(selectors, groupings)


def _selectors(expr: str) -> Iterator[Selector]:
    for metric, inside in re.findall(
        r"\b((?:herald|process|python)[_:][\w:]+|ALERTS|up)(?:\s*\{([^}]*)\})?", expr
    ):
        matchers = re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside)
        yield Selector(metric, tuple(Matcher(*matcher) for matcher in matchers))


def promtool() -> str:
    """Where it is; a test that needs it is skipped without it, but not in CI."""
    made = sorted(map(str, TOOLS.glob("promtool-*")))
    found = shutil.which(os.environ.get("PROMTOOL") or (made[-1] if made else "promtool"))
    if found is None:
        reason = "promtool is not there: make promtool"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def run_promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [promtool(), *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
