"""(b) Fan-out: one event to every connection, singly and in bursts, until each has received it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from bench.floors.systems import SendFloor
from bench.lab import Lab, Station, settle
from bench.load.driver import BenchError
from bench.peers.peer import Peer
from bench.progress import Progress
from bench.scenarios.rounds import Measurement, Record, measure, per_second

NAME = "fanout"
BURST = 50
WARM_UP = 5
SINGLES = 40
_SINGLE_SECONDS = 8.0
"""Slow systems: as many single messages as fit into this, but at least five."""
_BURST_SECONDS = 6.0
_TOO_SLOW = 2.0
"""Seconds for one message at the smaller size, from which the larger one is left out."""


def seconds(systems: int, rounds: int, quick: bool) -> float:
    """About how long it takes."""
    return rounds * (systems + 1) * (8 if quick else 14) + (0 if quick else 16 * (systems + 1))


def run(
    lab: Lab, peers: Sequence[Peer], rounds: int, quick: bool, progress: Progress
) -> dict[str, Any]:
    record = Record(progress)
    small, large = (min(size, lab.most_connections) for size in (5000, 15_000))
    # Herald and the floor are measured at the larger size in every round, the others in the first.
    always = ("herald", SendFloor.name)

    def fan_out(system: Peer, number: int) -> Measurement:
        found: dict[str, Measurement] = {}
        larger = not quick and (number == 0 or system.name in always)
        with lab.station(system, large if larger else small) as station:
            station.load.connect(small)
            settle()
            found[str(small)] = deliver(station, system, small, record)
            single = found[str(small)]["single"]
            if larger and small / single["rate"] > _TOO_SLOW:
                record.note(f"{system.name} is too slow for {large:,} connections: left out")
                larger = False
            if larger:
                station.load.connect(large - small)
                settle()
                found[str(large)] = deliver(station, system, large, record)
        burst = found[str(small)].get("burst")
        progress.saw(
            f"{single['rate']:,.0f} deliveries/s"
            + (f", bursts {burst['rate']:,.0f}" if burst else "")
        )
        return {"sizes": found}

    record.run([*peers, SendFloor(lab.floor)], rounds, fan_out)
    return record.result(sizes=[small] if quick else [small, large], burst=BURST)


def deliver(station: Station, system: Peer, connections: int, record: Record) -> Measurement:
    """Single messages, then bursts, each in lockstep: the next one when everyone has the last.

    Raises:
        BenchError: not even the first message reached everyone.
    """
    load = station.load
    one = system.post_to_all()
    if one is None:
        raise BenchError("it has no request that reaches everyone")
    load.publish(one)
    load.reset()
    probe = load.lockstep(WARM_UP)["rounds"]
    if len(probe) < WARM_UP:
        raise BenchError(f"message {len(probe) + 1} did not reach all {connections:,} connections")
    each = median(probe)
    count = max(5, min(SINGLES, int(_SINGLE_SECONDS / each)))
    if count < SINGLES:
        record.note(f"{system.name}: {count} single messages at {connections:,} connections")
    load.reset()
    found = {"single": _lockstep(station, connections, count, 1, 1)}

    many = system.post_to_all(BURST)
    length = BURST
    if many is None and BURST * each > 2 * _BURST_SECONDS:
        length = max(2, int(_BURST_SECONDS / each))
        record.note(f"{system.name}: bursts of {length} at {connections:,} connections")
    load.publish(many or one)
    posts = 1 if many else length
    load.reset()
    estimate = length * each
    found["burst"] = _lockstep(
        station, connections, max(1, min(5, int(_BURST_SECONDS / estimate))), posts, length
    )
    return found


def _lockstep(
    station: Station, connections: int, rounds: int, posts: int, events: int
) -> Measurement:
    """`rounds` of `events` in so many POSTs; the rate is that of the median round."""
    took: list[float] = []

    def work() -> dict[str, Any]:
        result = station.load.lockstep(rounds, posts)
        took.extend(result["rounds"])
        return result

    row = measure(station, work, connections=connections, events_a_round=events, posts=posts)
    if not took:
        raise BenchError(f"{events} events did not reach all {connections:,} connections")
    row["rate"] = per_second(connections * events, median(took))
    row["rounds"] = len(took)
    return row
