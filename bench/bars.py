"""The bars that Herald is held to, each as a ratio measured in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.figures import ByRound, Result, disturbed, middle, number, ratios, spread, values

Results = Mapping[str, Result]


@dataclass(frozen=True)
class Bar:
    """A claim, what it wants, and what was measured (None: it was not measured)."""

    what: str
    wants: str
    measured: str
    met: bool | None

    def row(self) -> str:
        mark = {True: "✓", False: "✗", None: "not measured"}[self.met]
        return f"| {self.what} | {self.wants} | {self.measured} | {mark} |"


def bars(results: Results) -> Iterator[Bar]:
    """All of them, in order."""
    yield from _fanout(results.get("fanout"))
    yield from _connections(results.get("connections"))
    yield from _publish(results.get("publish"))
    yield from _latency(results.get("latency"))
    yield from _resume(results.get("resume"))
    yield from _scaleout(results.get("scaleout"))


def at_least(what: str, bar: float, found: ByRound, than: str) -> Bar:
    return _bar(what, f"≥ {bar:g} × {than}", found, lambda value: value >= bar)


def at_most(what: str, bar: float, found: ByRound, than: str) -> Bar:
    return _bar(what, f"≤ {bar:g} × {than}", found, lambda value: value <= bar)


def _bar(
    what: str, wants: str, found: ByRound, met: Callable[[float], bool], form: str = ""
) -> Bar:
    if not found:
        return Bar(what, wants, "–", None)
    return Bar(what, wants, spread(found, _times), met(median(found.values())))


def _times(value: float) -> str:
    return f"{value:.2f}×"


def _peers(result: Result | None, wanted: Callable[[str], bool] = lambda name: True) -> list[str]:
    if result is None:
        return []
    labels = result["labels"]
    return [
        name
        for name in result["systems"]
        if name in labels
        and not name.startswith("herald")
        and not labels[name].startswith("*floor")
        and wanted(name)
    ]


def _best(
    result: Result | None, candidates: list[str], *path: str, lowest: bool = False
) -> tuple[str, ByRound]:
    """The peer with the best median, and its values."""
    found = {name: values(result, name, *path) for name in candidates}
    medians = {name: centre for name in found if (centre := middle(found[name])) is not None}
    if not medians or result is None:
        return "the best peer", {}
    best = (min if lowest else max)(medians, key=medians.__getitem__)
    return f"the best peer ({result['labels'][best]})", found[best]


def _fanout(result: Result | None) -> Iterator[Bar]:
    sizes = result["sizes"] if result else [5000]
    for size in sizes:
        single = ("sizes", str(size), "single", "rate")
        burst = ("sizes", str(size), "burst", "rate")
        floor = values(result, "floor", *single)
        herald = values(result, "herald", *single)
        what = f"fan-out to {size:,}, single messages"
        yield at_least(what, 0.85, ratios(herald, floor), "one send per message")
        than, best = _best(result, _peers(result), *single)
        yield at_least(what, 1.3, ratios(herald, best), than)
        # The same floor: what one send per message does with single messages.
        found = ratios(values(result, "herald", *burst), floor)
        yield at_least(f"fan-out to {size:,}, bursts of 50", 2, found, "one send per message")


def _connections(result: Result | None) -> Iterator[Bar]:
    at = str(result["idle_at"]) if result else "10000"
    title = f"{int(at):,}"
    rss, rate = ("sizes", at, "rss_kb"), ("sizes", at, "rate")
    herald = values(result, "herald", *rss)
    yield _limit(f"RSS per authenticated connection, {title}", 5.0, "KB", herald)
    than, best = _best(result, _peers(result), *rss, lowest=True)
    yield at_most("RSS per authenticated connection", 0.5, ratios(herald, best), than)
    after = ("idle", "rss_kb")
    than, best = _best(result, _peers(result), *after, lowest=True)
    found = ratios(values(result, "herald", *after), best)
    yield at_most("the same after idling", 0.5, found, than)

    idle = ("idle", "server_cpu")
    herald = values(result, "herald", *idle)
    what = f"idle CPU, {title} connections, 25 s heartbeats"
    yield at_most(what, 2, ratios(herald, values(result, "ping floor", *idle)), "ping and pong")
    than, best = _best(result, _peers(result), *idle, lowest=True)
    yield at_most("idle CPU", 1, ratios(herald, best), than)

    herald = values(result, "herald", *rate)
    floor = values(result, "handshake floor", *rate)
    what = f"authenticated connects per second, to {title}"
    yield at_least(what, 0.7, ratios(herald, floor), "Herald's handshake, nothing behind it")
    floor = values(result, "uvicorn handshake floor", *rate)
    yield at_least(what, 0.7, ratios(herald, floor), "uvicorn's handshake, nothing behind it")
    than, best = _best(result, _peers(result, _authenticates), *rate)
    yield at_least("authenticated connects per second", 1, ratios(herald, best), than)


def _limit(what: str, most: float, unit: str, found: ByRound) -> Bar:
    if not found:
        return Bar(what, f"≤ {most:g} {unit}", "–", None)
    return Bar(
        what, f"≤ {most:g} {unit}", f"{spread(found)} {unit}", median(found.values()) <= most
    )


def _authenticates(name: str) -> bool:
    return bool(_traits(name).get("authenticates", True))


def _stores(name: str) -> bool:
    return bool(_traits(name).get("stores", False))


def _traits(name: str) -> dict[str, Any]:
    from bench.peers import ALL

    return {
        peer.name: {"authenticates": peer.authenticates, "stores": peer.stores} for peer in ALL
    }.get(name, {})


def _publish(result: Result | None) -> Iterator[Bar]:
    single = ("single", "rate")
    herald = values(result, "herald", *single)
    floor = values(result, "202 floor", *single)
    yield at_least("publish, single POST", 0.55, ratios(herald, floor), "uvicorn answering 202")
    than, best = _best(result, _peers(result, _stores), *single)
    than = than.replace("best peer", "best peer that stores")
    yield at_least("publish, single POST", 1, ratios(herald, best), than)
    engine = values(result, "engine", "depth 32", "rate")
    found = ratios(values(result, "herald", "batch", "rate"), engine)
    yield at_least("publish, batches of 100", 0.6, found, "the engine alone, 32 deep")


def _latency(result: Result | None) -> Iterator[Bar]:
    what = "p99 publish-to-receive at 50 % load"
    worst: tuple[float, str, ByRound] | None = None
    for name in _peers(result):
        assert result is not None
        theirs = values(result, name, "own", "50", "p99")
        herald = values(result, "herald", "theirs", name, "p99")
        if not herald:  # it is about as fast as Herald, or faster: at Herald's rate
            theirs = values(result, name, "herald_50", "p99")
            herald = values(result, "herald", "own", "50", "p99")
        found = ratios(herald, theirs)
        centre = middle(found)
        if centre is not None and (worst is None or centre > worst[0]):
            worst = centre, result["labels"][name], found
    if worst is None:
        yield Bar(what, "≤ every peer at the same rate", "–", None)
    else:
        than = f"every peer at the same rate (nearest: {worst[1]})"
        yield at_most(what, 1, worst[2], than)
    found = values(result, "herald", "own", "50", "p99")
    measured = f"{spread(found)} ms" if found else "–"
    centre = middle(found)
    yield Bar(what, "about 5 ms", measured, None if centre is None else centre <= 5)


def _resume(result: Result | None) -> Iterator[Bar]:
    for name, title in (("herald", "plain"), ("herald.v1", "herald.v1")):
        found = ratios(
            values(result, name, "resumed", "rate"), values(result, name, "fresh", "rate")
        )
        what = f"resume storm, 10 missed events each, {title}"
        yield at_least(what, 0.5, found, "fresh connects")


def _scaleout(result: Result | None) -> Iterator[Bar]:
    kinds = (
        ("connect", "each_us", "connects"),
        ("fanout", "each_us", "fan-out"),
        ("to_users", "each_us", "events to single users"),
        ("idle", "each_us_per_second", "idle connections"),
    )
    for system, title in (("1x2", "2 workers"), ("2x1", "2 nodes")):
        for kind, key, what in kinds:
            found = ratios(values(result, "1x1", kind, key), values(result, system, kind, key))
            yield at_least(f"{title}, {what}", 0.9, found, "N (cost with one / cost with two)")


def table(results: Results) -> str:
    """All bars as Markdown."""
    rows = [bar.row() for bar in bars(results)]
    lines = ["| what | bar | measured | |", "|---|---|---|---|", *rows]
    noisy = {name: who for name, result in results.items() if (who := disturbed(result))}
    if noisy:
        which = "; ".join(f"{name}: {', '.join(who)}" for name, who in noisy.items())
        warning = "something else ran on the machine meanwhile; measure again"
        lines = [f"**Ratios with these do not count ({which}): {warning}.**", "", *lines]
    return "\n".join(lines)


__all__ = ["Bar", "bars", "number", "table"]
