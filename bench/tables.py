"""Each scenario's table, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.figures import ByRound, Result, faults, names, number, percent, shares, spread, values


def table(result: Result) -> str:
    """What was measured, under which conditions, and all that went wrong."""
    rows = _TABLES[result["scenario"]](result)
    return "\n\n".join(["\n".join(rows), _conditions(result)])


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = "|---" * len(heads) + "|"
    return [
        "| " + " | ".join(heads) + " |",
        rule,
        *("| " + " | ".join(row) + " |" for row in rows if any(cell != "–" for cell in row[1:])),
    ]


def _rows(
    result: Result, *cells: Callable[[str], str], only: Sequence[str] | None = None
) -> list[list[str]]:
    return [
        [result["labels"][name], *(cell(name) for cell in cells)] for name in only or names(result)
    ]


def _cell(
    result: Result, *path: str, form: Callable[[float], str] = number
) -> Callable[[str], str]:
    return lambda name: spread(values(result, name, *path), form)


def _connections(result: Result) -> list[str]:
    sizes = [str(size) for size in result["sizes"]]
    idle_at = f"{result['idle_at']:,}"
    heads = ["", *(f"connects/s, to {int(size):,}" for size in sizes)]
    heads += [f"KB each, at {int(size):,}" for size in sizes]
    heads += [f"KB each after idling, {idle_at}", f"CPU with {idle_at} idle", "µs/s each"]

    def each(name: str) -> str:
        found = values(result, name, "idle", "server_busy")
        return spread({at: 1e6 * value / result["idle_at"] for at, value in found.items()})

    cells = [_cell(result, "sizes", size, "rate") for size in sizes]
    cells += [_cell(result, "sizes", size, "rss_kb") for size in sizes]
    cells += [
        _cell(result, "idle", "rss_kb"),
        _cell(result, "idle", "server_busy", form=percent),
        each,
    ]
    return _grid(heads, _rows(result, *cells))


def _fanout(result: Result) -> list[str]:
    heads, cells = [""], []
    for size in result["sizes"]:
        heads += [f"single, {size:,}", f"bursts, {size:,}"]
        cells += [
            _cell(result, "sizes", str(size), "single", "rate"),
            _cell(result, "sizes", str(size), "burst", "rate"),
        ]
    rows = _grid(heads, _rows(result, *cells))
    return [*rows, "", "Deliveries per second: connections × events / seconds.", _ceiling(result)]


def _ceiling(result: Result) -> str:
    """Deliveries for each second of the generator's own CPU."""
    found: ByRound = {}
    for row in result["systems"].get("floor", []):
        for at in row["sizes"].values():
            burst = at["burst"]
            if burst["load_cpu"]:
                found[len(found)] = burst["delivered"] / burst["load_cpu"]
    if not found:
        return ""
    busy = max(
        at["burst"]["load_busy"]
        for row in result["systems"]["floor"]
        for at in row["sizes"].values()
    )
    return (
        f"The generator's own ceiling, from its CPU time while the floor sent bursts: "
        f"{spread(found)} deliveries per second of its core, of which it used {percent(busy)}."
    )


def _latency(result: Result) -> list[str]:
    def percentiles(*path: str) -> Callable[[str], str]:
        def cell(name: str) -> str:
            parts = [values(result, name, *path, part) for part in ("p50", "p99", "p999")]
            if not all(parts):
                return "–"
            rate = spread(values(result, name, *path, "rate"))
            return " / ".join(spread(part).partition(" ")[0] for part in parts) + f" at {rate}/s"

        return cell

    heads = ["", "maximum/s", *(f"at {share} %" for share in ("10", "50", "80"))]
    cells = [percentiles("own", share) for share in ("10", "50", "80")]
    rows = _grid(heads, _rows(result, _cell(result, "maximum", "rate"), *cells))
    rows += ["", "p50 / p99 / p99.9 in milliseconds at each system's own 10, 50 and 80 %."]
    rows += ["The relays in C are asked for Herald's rates: what they show is the machine's.", ""]

    same = []
    for name in names(result):
        theirs, herald = ("own", "50"), ("theirs", name)
        if result["labels"][name].startswith("*floor"):
            herald = theirs
        elif not values(result, "herald", *herald, "p99"):
            theirs, herald = ("herald_50",), ("own", "50")  # type: ignore[assignment]
        p99, own = values(result, name, *theirs, "p99"), values(result, "herald", *herald, "p99")
        if name != "herald" and p99 and own:
            rate = spread(values(result, name, *theirs, "rate"))
            same.append([result["labels"][name], rate, spread(own), spread(p99)])
    if same:
        rows += _grid(["", "events/s", "Herald's p99, ms", "its p99, ms"], same)
    return rows


def _publish(result: Result) -> list[str]:
    heads = ["", "single POSTs/s", "answered p99, ms", "batches, events/s", "NDJSON, events/s"]
    cells = [
        _cell(result, "single", "rate"),
        _cell(result, "single", "answered_ms", "p99"),
        _cell(result, "batch", "rate"),
        _cell(result, "ndjson", "rate"),
    ]
    systems = [name for name in names(result) if name != "engine"]
    rows = _grid(heads, _rows(result, *cells, only=systems))
    engine = [
        f"{spread(found)} with {depth.partition(' ')[2]} in flight"
        for depth in sorted(
            {depth for row in result["systems"].get("engine", []) for depth in row} - {"round"},
            key=lambda depth: int(depth.partition(" ")[2]),
        )
        if (found := values(result, "engine", depth, "rate"))
    ]
    if engine:
        rows += ["", f"The engine alone, on a core of its own, events/s: {', '.join(engine)}."]
    return rows


def _resume(result: Result) -> list[str]:
    heads = ["", "fresh connects/s", "back and exact/s", "seconds until all are exact", "events/s"]

    def events(name: str) -> str:
        found = values(result, name, "resumed", "rate")
        return spread({at: value * result["missed"] for at, value in found.items()})

    cells = [
        _cell(result, "fresh", "rate"),
        _cell(result, "resumed", "rate"),
        _cell(result, "resumed", "seconds"),
        events,
    ]
    return _grid(heads, _rows(result, *cells))


def _scaleout(result: Result) -> list[str]:
    kinds = [
        ("connect", "each_us", "a connect"),
        ("fanout", "each_us", "a delivery to all"),
        ("to_users", "each_us", "a publish and its delivery"),
        ("idle", "each_us_per_second", "an idle connection, each second"),
        ("fanout", "rate", "deliveries/s (wall clock)"),
        ("to_users", "rate", "events to users/s (wall clock)"),
        ("to_users", "engine_each_us", "the engine, an event"),
    ]
    heads = ["µs of CPU for", *(result["labels"][name] for name in names(result))]
    rows = [
        [title, *(spread(values(result, name, kind, key)) for name in names(result))]
        for kind, key, title in kinds
    ]
    connections = [
        ", ".join(f"{share:,}" for share in result["systems"][name][-1].get("shares", []))
        for name in names(result)
    ]
    return _grid(heads, [*rows, ["connections of each process", *connections]])


_TABLES: Mapping[str, Callable[[Result], list[str]]] = {
    "connections": _connections,
    "fanout": _fanout,
    "latency": _latency,
    "publish": _publish,
    "resume": _resume,
    "scaleout": _scaleout,
}


def _conditions(result: Result) -> str:
    size = f"{result['connections']:,} connections; " if "connections" in result else ""
    lines = [
        f"*{size}{result['date']}, {result['rounds']} round{'s' if result['rounds'] > 1 else ''}"
        f"{', quick (smaller sizes)' if result['quick'] else ''}: `{result['command']}`. "
        f"The load used at most {percent(max(shares(result, 'load_busy'), default=0.0))} of its "
        "core.*"
    ]
    for name, why in result["failed"].items():
        lines.append(f"- **{result['labels'].get(name, name)} failed: {why}**")
    lines += [f"- **{fault}**" for fault in faults(result)]
    lines += [f"- Skipped, not installed: {how}" for how in result["skipped"].values()]
    lines += [f"- {note}" for note in result["notes"]]
    return "\n".join([lines[0], "", *lines[1:]]) if lines[1:] else lines[0]
