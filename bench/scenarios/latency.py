"""(c) One user among ten thousand: from when the POST was due until the client has the event.

Two relays in C, asked for the same rates as Herald, show how much of a percentile is the machine's:
one does all by itself, one publishes through the engine, which shares a core with the load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.floors.systems import RelayFloor
from bench.herald import HeraldServer
from bench.lab import Lab, Station, settle
from bench.peers.peer import Peer
from bench.progress import Progress
from bench.scenarios.rounds import Measurement, Record, attempt, measure, per_second

NAME = "latency"
CONNECTIONS = 10_000
PUBLISHERS = 64
SHARES = (10, 50, 80)
"""Percent of a system's own maximum."""
_ROOM = 1.1
"""A system is asked for another one's rate where its maximum is so much higher."""


def seconds(systems: int, rounds: int, quick: bool) -> float:
    """About how long it takes."""
    return (rounds * (systems + 2) + 1) * (11 if quick else 19) + rounds * systems * 3


def run(
    lab: Lab, peers: Sequence[Peer], rounds: int, quick: bool, progress: Progress
) -> dict[str, Any]:
    record = Record(progress)
    connections = min(2000 if quick else CONNECTIONS, lab.most_connections)
    each = 1.5 if quick else 2.5
    maxima: dict[str, float] = {}
    """Of the first round: all rounds use the same rates, so that they can be compared."""

    def one_user(system: Peer, number: int) -> Measurement:
        with lab.station(system, connections) as station:
            _fill(station, system, connections)
            highest = measure(station, lambda: station.load.closed(PUBLISHERS, each))
            highest["rate"] = per_second(highest["delivered"], highest["all_seconds"])
            if not isinstance(system, RelayFloor):
                maxima.setdefault(system.name, highest["rate"])
            own = maxima.get(system.name) or maxima.get("herald", highest["rate"])
            rates = {str(share): own * share / 100 for share in SHARES}
            found = {name: _at_rate(station, rate, each) for name, rate in rates.items()}
            row: Measurement = {"maximum": highest, "own": found}
            if system.name == "herald":
                if number:
                    row["theirs"] = _theirs(station, maxima, each)
            elif "herald" in maxima and _fast_enough(maxima, system.name):
                row["herald_50"] = _at_rate(station, maxima["herald"] / 2, each)
        half = found["50"]
        progress.saw(
            f"at most {highest['rate']:,.0f}/s; at {half['rate']:,.0f}/s "
            f"p50 {half['p50']:.2f} ms, p99 {half['p99']:.2f} ms"
        )
        return row

    floors = [RelayFloor(lab.floor), RelayFloor(lab.floor, through_engine=True)]
    systems = [*peers, *floors]
    record.run(systems, 1, one_user)
    herald = next((peer for peer in peers if isinstance(peer, HeraldServer)), None)
    slower = any(highest < maxima.get("herald", 0.0) / _ROOM for highest in maxima.values())
    if herald is not None and slower:
        progress.plan(1)
        progress.step("herald at the others' rates")

        def at_their_rates() -> Measurement:
            with lab.station(herald, connections) as station:
                _fill(station, herald, connections)
                found = _theirs(station, maxima, each)
            progress.saw(
                ", ".join(f"{name} p99 {row['p99']:.2f} ms" for name, row in found.items())
            )
            return {"theirs": found}

        record.put(herald, 0, attempt(at_their_rates))
    record.run(systems, rounds, one_user, first=1)
    return record.result(connections=connections, publishers=PUBLISHERS, seconds_each=each)


def _fast_enough(maxima: dict[str, float], name: str) -> bool:
    """Whether a peer can be asked for half of Herald's maximum."""
    return maxima.get(name, 0.0) > _ROOM * maxima["herald"] / 2


def _fill(station: Station, system: Peer, connections: int) -> None:
    station.load.connect(connections)
    station.load.publish(system.post_to_user())
    settle()
    station.load.closed(PUBLISHERS, 0.5)  # warm
    station.load.reset()


def _theirs(station: Station, maxima: dict[str, float], each: float) -> dict[str, Measurement]:
    """Herald at half of what each slower system can do."""
    return {
        name: _at_rate(station, highest / 2, each)
        for name, highest in maxima.items()
        if name != "herald" and highest < maxima["herald"] / _ROOM
    }


def _at_rate(station: Station, rate: float, seconds: float) -> Measurement:
    station.load.reset()
    result: dict[str, Any] = {}

    def work() -> dict[str, Any]:
        result.update(station.load.open(PUBLISHERS, rate, seconds))
        return result

    row = measure(station, work, rate=round(rate, 1))
    row.update(result["delivery_ms"])
    row["posted_p99"] = result["answer_ms"]["p99"]
    return row
