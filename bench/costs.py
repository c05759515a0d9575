"""What one of everything costs: `python -m bench.costs` shows it, with where each figure is from.

A figure comes from the benchmark's results in docs/performance where they have it, else from the
table below, which `python -m bench.costs --measure` measures anew. Both are of one machine; on
another one, measure and compare. CPU is microseconds of one core.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

MEASURED = "bench.costs --measure"
"""AMD EPYC, two cores, Linux 6.18, Python 3.11, Valkey 9.1; medians of up to four runs."""


@dataclass(frozen=True)
class Costs:
    """Of a pod (one process on one core), of an engine's primary, of memory and of the wire."""

    connect_us: float = 189.6
    resume_us: float = 215.0
    idle_us: float = 0.65
    delivery_us: float = 6.06
    push_us: float = 36.5
    publish_us: float = 98.0
    publish_batched_us: float = 9.7
    node_us: float = 1640.0
    shard_us: float = 168.0
    pod_audit_get_us: float = 6.1

    script_us: float = 10.4
    engine_push_us: float = 3.6
    engine_push_gathered_us: float = 0.24
    engine_connect_us: float = 30.3
    engine_resume_us: float = 43.3
    audit_us: float = 0.25
    audit_get_us: float = 0.51
    engine_probe_us: float = 29.7

    process_mb: float = 73.6
    connection_kb: float = 2.76
    socket_kb: float = 4.50
    shard_kb: float = 26.0
    link_kb: float = 1.68
    first_event_bytes: float = 4344.0
    event_bytes: float = 241.0
    channel_bytes: float = 165.0
    subscription_bytes: float = 222.0

    frame_bytes: float = 264.0
    packet_bytes: float = 66.0
    ping_bytes: float = 2.0
    pushed_bytes: float = 300.0


WHAT: Mapping[str, tuple[str, str, str]] = {
    "connect_us": ("pod", "µs", "a connect: token verified, subscribed, welcomed"),
    "resume_us": ("pod", "µs", "a connect that resumes, with 10 missed events"),
    "idle_us": ("pod", "µs/s", "an idle connection: pings and the audit of its position"),
    "delivery_us": ("pod", "µs", "one write of an event to one of many connections"),
    "push_us": ("pod", "µs", "an event received from the engine, at 2,000/s, without the write"),
    "publish_us": ("pod", "µs", "one POST of one event, at 2,000/s"),
    "publish_batched_us": ("pod", "µs", "an event in a batch of 100"),
    "node_us": ("pod", "µs/s", "a process with nothing to do"),
    "shard_us": ("pod", "µs/s", "each shard: a probe a second, three links"),
    "pod_audit_get_us": ("pod", "µs", "one position compared, Cluster; else in the above"),
    "script_us": ("engine", "µs", "the publish script, 32 in flight"),
    "engine_push_us": ("engine", "µs", "a push to one node, by itself"),
    "engine_push_gathered_us": ("engine", "µs", "a push to one node, 32 events in one write"),
    "engine_connect_us": ("engine", "µs", "a user's subscription and first read"),
    "engine_resume_us": ("engine", "µs", "the same with 10 missed events"),
    "audit_us": ("engine", "µs", "one position compared, single engine (MGET)"),
    "audit_get_us": ("engine", "µs", "one position compared, Cluster (GET)"),
    "engine_probe_us": ("engine", "µs/s", "each node: its probe, and ROLE on three links"),
    "process_mb": ("memory", "MB", "a process without connections"),
    "connection_kb": ("memory", "KB", "an idle connection, the process's RSS"),
    "socket_kb": ("memory", "KB", "its TCP socket, in the kernel"),
    "shard_kb": ("memory", "KB", "a node's three links to a shard, in the node"),
    "link_kb": ("memory", "KB", "one link, in the engine"),
    "first_event_bytes": ("memory", "B", "a channel's log from its first event on, in the engine"),
    "event_bytes": ("memory", "B", "each event of a full log (204 B of JSON), in the engine"),
    "channel_bytes": ("memory", "B", "a channel's last position, in the engine"),
    "subscription_bytes": ("memory", "B", "a node's subscription to a channel, in the engine"),
    "frame_bytes": ("wire", "B", "an event's frame to a client"),
    "packet_bytes": ("wire", "B", "Ethernet, IP and TCP around each packet"),
    "pushed_bytes": ("wire", "B", "an event as the engine pushes it to a node"),
    "ping_bytes": ("wire", "B", "a ping's frame"),
}
"""For each: of what, its unit, and of which piece of work."""

_COUNTED = {
    "packet_bytes": "counted: 14 + 20 + 32",
    "pushed_bytes": "counted: 204 of JSON, channel, position, RESP",
    "ping_bytes": "RFC 6455",
}


@dataclass(frozen=True)
class Source:
    """A figure and where it is from."""

    name: str
    value: float
    source: str


def read(results: Mapping[str, Mapping[str, Any]]) -> tuple[Costs, list[Source]]:
    """The costs, by the benchmark's results (`bench.results.load`) as far as these have them."""
    found = dict(_benchmarked(results))
    costs = replace(Costs(), **{name: round(value, 4) for name, (value, _) in found.items()})
    sources = [
        Source(name, value, found[name][1] if name in found else _COUNTED.get(name, MEASURED))
        for name, value in asdict(costs).items()
    ]
    return costs, sources


def _benchmarked(
    results: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, tuple[float, str]]]:
    """Name, value and scenario of what the results have; what they lack or misspell is left out."""
    for name, scenario, system, value in _READ:
        rows = results.get(scenario, {}).get("systems", {}).get(system, [])
        values = []
        for row in rows:
            with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
                values.append(float(value(row)))
        if values and (middle := median(values)) > 0:
            yield name, (middle, f"bench {scenario}")


def _at(row: Any) -> Any:
    """The larger of the sizes up to 10,000 at which connections or fan-out were measured."""
    sizes = row["sizes"]
    return sizes[max((size for size in sizes if int(size) <= 10_000), key=int)]


_READ: list[tuple[str, str, str, Callable[[Any], float]]] = [
    ("connection_kb", "connections", "herald", lambda row: _at(row)["rss_kb"]),
    (
        "connect_us",
        "connections",
        "herald",
        lambda row: 1e6 * _at(row)["server_cpu"] / _at(row)["connections"],
    ),
    (
        "engine_connect_us",
        "connections",
        "herald",
        lambda row: 1e6 * _at(row)["engine_cpu"] / _at(row)["connections"],
    ),
    (
        "idle_us",
        "connections",
        "herald",
        lambda row: (1e6 * row["idle"]["server_busy"] - Costs.node_us) / row["idle"]["connections"],
    ),
    ("process_mb", "connections", "herald", lambda row: row["rss_of_the_process_kb"] / 1024),
    (
        "delivery_us",
        "fanout",
        "herald",
        lambda row: 1e6 * _at(row)["single"]["server_cpu"] / _at(row)["single"]["delivered"],
    ),
    (
        "publish_batched_us",
        "publish",
        "herald",
        lambda row: (
            1e6 * row["batch"]["server_cpu"] / (row["batch"]["rate"] * row["batch"]["seconds"])
        ),
    ),
    (
        "script_us",
        "publish",
        "engine",
        lambda row: 1e6 * row["depth 32"]["engine_busy"] / row["depth 32"]["rate"],
    ),
    (
        "resume_us",
        "resume",
        "herald",
        lambda row: 1e6 * row["resumed"]["server_cpu"] / (row["resumed"]["delivered"] / 10),
    ),
    (
        "engine_resume_us",
        "resume",
        "herald",
        lambda row: 1e6 * row["resumed"]["engine_cpu"] / (row["resumed"]["delivered"] / 10),
    ),
]


def measured() -> dict[str, float]:
    """Measure here.

    Raises:
        CannotMeasureError, BenchError
    """
    from bench.lab import Lab
    from bench.limits import most_connections
    from bench.progress import Progress
    from bench.simulation.measure import measure

    progress = Progress({"costs": 110.0})
    progress.begin("costs")
    with contextlib.closing(Lab(most_connections())) as lab:
        return measure(lab, progress)


def show(sources: list[Source], beside: Mapping[str, float] | None = None) -> Iterator[str]:
    """A line a figure; `beside`: what was measured just now."""
    for one in sources:
        kind, unit, what = WHAT[one.name]
        now = f"{beside[one.name]:>9.2f} now" if beside and one.name in beside else ""
        yield f"{kind:<7} {one.value:>9.2f} {unit:<5}{now} {what} [{one.source}]"


def main() -> None:
    from bench.limits import CannotMeasureError
    from bench.load.driver import BenchError
    from bench.results import DOCS, load

    parser = argparse.ArgumentParser(prog="python -m bench.costs", description=__doc__)
    parser.add_argument("--measure", action="store_true", help="measure here, about two minutes")
    parser.add_argument("--into", type=Path, default=DOCS, metavar="FOLDER", help="with results")
    options = parser.parse_args()
    beside: dict[str, float] = {}
    if options.measure:
        try:
            beside = measured()
        except (CannotMeasureError, BenchError) as error:
            sys.exit(str(error))
    print("\n".join(show(read(load(options.into))[1], beside)))


assert {one.name for one in fields(Costs)} == WHAT.keys()

if __name__ == "__main__":
    main()
