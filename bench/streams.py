"""`python -m bench.streams`: streams of server-sent events beside WebSockets, in one run.

What an idle one costs in resident memory, how fast they are opened, and how fast an event to
everyone is with all of them, singly and in bursts. Exits with 1 where the bar for memory is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from statistics import median

from bench.herald import HeraldServer
from bench.lab import Lab
from bench.limits import CannotMeasureError, most_connections
from bench.load.driver import BenchError
from bench.peers.peer import Dialect, Expect
from bench.progress import Progress
from bench.scenarios.connections import grow
from bench.scenarios.fanout import deliver
from bench.scenarios.rounds import Measurement, Record, interleave

BAR_KB = 6.0
"""Resident memory of an idle stream, at most."""


class HeraldStreams(HeraldServer):
    """The same server; its clients open streams."""

    name = "herald-streams"
    label = "**Herald**, streams"

    def dialect(self) -> Dialect:
        head = (
            "GET /v1/stream HTTP/1.1",
            "Accept: text/event-stream",
            "Authorization: Bearer {token}",
        )
        return Dialect(head, [Expect('"welcome"')], stream=True)


def measure(lab: Lab, systems: Sequence[HeraldServer], options: argparse.Namespace) -> int:
    """Show every figure, and say whether the bar is kept."""
    progress = Progress({"streams": options.rounds * len(systems) * 40.0})
    progress.begin("streams")
    record = Record(progress)
    memory: dict[str, list[float]] = {system.name: [] for system in systems}
    for number, system in interleave(systems, 0, options.rounds):
        with lab.station(system, options.idle) as station:
            idle = grow(station, [options.idle])["sizes"][str(options.idle)]
        with lab.station(system, options.receivers) as station:
            station.load.connect(options.receivers)
            found = deliver(station, system, options.receivers, record)
        memory[system.name].append(idle["rss_kb"])
        print(
            f"round {number + 1}: {system.name:<15} {idle['rss_kb']:.2f} KB each of "
            f"{options.idle:,} idle, {idle['rate']:,.0f} opened/s, to {options.receivers:,}: "
            f"{_rates(found)}",
            flush=True,
        )
    each = median(memory[HeraldStreams.name])
    print(f"an idle stream: {each:.2f} KB; bar: at most {BAR_KB} KB")
    return 0 if each <= BAR_KB else 1


def _rates(found: Measurement) -> str:
    return ", ".join(
        f"{name} {row['rate']:,.0f} deliveries/s (server {100 * row['server_busy']:.0f} %)"
        for name, row in found.items()
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=int, default=5000, metavar="STREAMS")
    parser.add_argument("--receivers", type=int, default=2000, metavar="STREAMS")
    options = parser.parse_args()
    try:
        with contextlib.closing(Lab(most_connections())) as lab:
            return measure(lab, [HeraldServer(), HeraldStreams()], options)
    except (CannotMeasureError, BenchError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
