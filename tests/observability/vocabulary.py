"""Holds what an expression names against what a real Herald tells."""

from __future__ import annotations

import re

from tests.observability.conftest import Seen
from tests.observability.promql import OF_ALERTS, OF_THE_TARGET, names

_VARIABLE = re.compile(r"\$(namespace|pod)")


def check_names(expr: str, seen: Seen, records: set[str]) -> None:
    """Every metric, label and value of `expr` exists."""
    found = names(expr)
    assert found.selectors, expr
    labels: set[str] = set(OF_THE_TARGET)
    for selector in found.selectors:
        if selector.metric in records:
            own: dict[str, set[str]] = {}
        elif selector.metric == "ALERTS":
            own = {label: set() for label in OF_ALERTS}
        else:
            assert selector.metric in seen.labels, f"{selector.metric} is not told by a real Herald"
            own = seen.labels[selector.metric]
        labels |= set(own)
        for label, operator, value in selector.matchers:
            assert label in OF_THE_TARGET or label in own, f"{label} of {selector.metric}"
            if label in OF_THE_TARGET or label in OF_ALERTS:
                assert _VARIABLE.fullmatch(value) or label in OF_ALERTS or value == ".*", value
                continue
            for one in value.split("|") if "~" in operator else [value]:
                assert one in own[label], f"{label}={one!r} of {selector.metric}"
    # A worker's number is there where there are several.
    assert found.groupings <= labels | {"worker"}, found.groupings - labels
