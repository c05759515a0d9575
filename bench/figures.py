"""Numbers out of results: values by round, medians with ranges, ratios within a round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

Result = Mapping[str, Any]
_BOTTLENECK = 0.9
"""From this share of its core on the generator may be what limits, if the server is less busy."""
ByRound = dict[int, float]


_QUIET = 0.3
"""Of a core: from here on something else ran on the machine and the figure does not count."""
_LONG = 0.3
"""Seconds: what is shorter is too short to tell, at 10 ms a tick."""


def values(result: Result | None, system: str, *path: str) -> ByRound:
    """A system's value in each round that has one: `values(result, "herald", "single", "rate")`."""
    found: ByRound = {}
    for row in (result or {}).get("systems", {}).get(system, []):
        value: Any = row
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            found[row["round"]] = float(value)
    return found


def middle(found: ByRound) -> float | None:
    """The median."""
    return median(found.values()) if found else None


def ratios(above: ByRound, below: ByRound) -> ByRound:
    """Round by round; by medians where the two share no round."""
    shared = {number: above[number] / below[number] for number in above.keys() & below.keys()}
    if shared or not above or not below:
        return shared
    return {0: median(above.values()) / median(below.values())}


def number(value: float) -> str:
    """With three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(found: ByRound, form: Callable[[float], str] = number) -> str:
    """`12.3 (11.9–12.8)`, or a dash."""
    if not found:
        return "–"
    low, high = form(min(found.values())), form(max(found.values()))
    centre = form(median(found.values()))
    return centre if low == high else f"{centre} ({low}–{high})"


def percent(value: float) -> str:
    return f"{100 * value:.2f} %" if value < 0.1 else f"{100 * value:.0f} %"


def names(result: Result) -> list[str]:
    """Of the systems that were measured: Herald first, the floors last."""

    def rank(name: str) -> int:
        label = result["labels"][name]
        return 0 if "Herald" in label else 2 if label.startswith("*floor") else 1

    return sorted((name for name in result["systems"] if name in result["labels"]), key=rank)


def faults(result: Result) -> Iterator[str]:
    """Where events were lost, doubled or refused, or the load itself was at its limit."""
    for name, rows in result["systems"].items():
        worst: dict[str, str] = {}
        for row in rows:
            for where, found in _measurements(row):
                for text in _wrong(found):
                    worst[where] = f"{name}, {where}: {text}"
        yield from worst.values()


def _measurements(row: Any, where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(row, Mapping):
        return
    if "seconds" in row:
        yield where, row
    for key, value in row.items():
        yield from _measurements(value, f"{where} {key}".strip())


def _wrong(found: Mapping[str, Any]) -> Iterator[str]:
    parts = [
        f"{found[key]:,} {key}" for key in ("misordered", "skipped", "refused") if found.get(key)
    ]
    if "expected" in found and found["delivered"] != found["expected"]:
        parts.insert(0, f"{found['delivered']:,} of {found['expected']:,} events delivered")
    load, server = found.get("load_busy", 0.0), found.get("server_busy", 1.0)
    if load > _BOTTLENECK and load > server:
        parts.append(f"the load itself was busy to {percent(load)}: at least the figure shown")
    if (others := found.get("others_busy", 0.0)) > _QUIET and found["all_seconds"] > _LONG:
        parts.append(f"disturbed, something else used {percent(others)} of a core")
    if parts:
        yield ", ".join(parts)


def disturbed(result: Result) -> list[str]:
    """The systems during whose measurements something else ran on the machine."""
    who = (fault.partition(",")[0] for fault in faults(result) if "disturbed" in fault)
    return list(dict.fromkeys(who))


def shares(result: Result, key: str) -> list[float]:
    """`load_busy`, `others_busy` … of every measurement."""
    return [
        found[key]
        for rows in result["systems"].values()
        for row in rows
        for _, found in _measurements(row)
        if key in found
    ]
