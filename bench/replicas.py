"""What copies before the answer cost: `python -m bench.replicas`. About a minute and a half.

One primary with two replicas, which share a core with the load; `herald serve` has the other. With
each `HERALD_MIN_REPLICAS` it is given single POSTs by 64 publishers and by one, who send the next
when the last is answered. The settings take turns within each round. The table goes to
docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

from bench.herald import HeraldServer
from bench.lab import Lab
from bench.limits import CannotMeasureError
from bench.load.driver import BenchError
from bench.machine import cpu_seconds, describe, engine_version
from bench.peers.peer import LOAD_CPU, SERVER_CPU, Workplace, free_port
from bench.results import DOCS
from bench.scenarios.rounds import interleave, per_second
from bench.simulation.document import command, put, table
from service.broker.embedded import EmbeddedEngine

REPLICAS = 2
PUBLISHERS = (64, 1)
USERS = 15_000
SECONDS = 2.0
ROUNDS = 5


class Asked:
    """Herald that asks for so many copies, of the replicas that are attached."""

    def __init__(self, least: int, attached: int = REPLICAS) -> None:
        self.least = least
        self.attached = attached
        self.name = f"{least} of {attached}"
        self.label = self.name

    def version(self) -> str:
        return engine_version()


EVERYONE = [Asked(0, 0), *(Asked(least) for least in range(REPLICAS + 1))]


def measure(lab: Lab, asked: Asked) -> dict[int, dict[str, Any]]:
    """By publishers: events a second, milliseconds to the answer, microseconds of CPU an event.

    Raises:
        BenchError: something did not start, or was refused.
    """
    with contextlib.ExitStack() as ends:
        port, pids = ends.enter_context(_engines(asked.attached))
        directory = Path(ends.enter_context(TemporaryDirectory()))
        herald = HeraldServer({"min_replicas": str(asked.least)})
        workplace = Workplace(directory, port, (SERVER_CPU,))
        ends.callback(workplace.stop)
        running = herald.start(workplace)
        load = lab.load([(f"u{number:05}", "-") for number in range(USERS)])
        ends.callback(load.close)
        load.aim(running.port, running.publish_port)
        load.publish(herald.post_to_user())
        found = {}
        for publishers in PUBLISHERS:
            load.closed(publishers, 0.3)  # warm
            load.reset()
            before = cpu_seconds(running.pids), cpu_seconds(pids)
            result = load.closed(publishers, SECONDS)
            if result["refused"]:
                raise BenchError(f"{result['refused']} events were refused")
            after = cpu_seconds(running.pids), cpu_seconds(pids)
            found[publishers] = {
                "rate": per_second(result["events"], result["seconds"]),
                "p50": result["answer_ms"]["p50"],
                "p99": result["answer_ms"]["p99"],
                "herald": 1e6 * (after[0] - before[0]) / result["events"],
                "engines": 1e6 * (after[1] - before[1]) / result["events"],
            }
        return found


@contextlib.contextmanager
def _engines(replicas: int) -> Iterator[tuple[int, list[int]]]:
    """A primary and its replicas, on the load's core; the primary's port, and all processes."""
    with contextlib.ExitStack() as ends:
        port = free_port()
        of: tuple[str, ...] = ()
        pids = []
        for at in (port, *(free_port() for _ in range(replicas))):
            engine = EmbeddedEngine(
                (
                    *("--port", str(at), "--bind", "127.0.0.1"),
                    "--repl-diskless-sync-delay",
                    "0",
                    *of,
                )
            )
            ends.callback(engine.stop)
            os.sched_setaffinity(engine.pid, {LOAD_CPU})
            pids.append(engine.pid)
            of = ("--replicaof", "127.0.0.1", str(port))
        with redis.Redis(port=port) as client:
            deadline = time.monotonic() + 30
            while _online(client) < replicas:
                if time.monotonic() > deadline:
                    raise BenchError("the replicas were not copied to in time")
                time.sleep(0.05)
        yield port, pids


def _online(client: redis.Redis) -> int:
    facts = client.info("replication").values()
    return sum(isinstance(fact, dict) and fact.get("state") == "online" for fact in facts)


def report(rounds: Sequence[dict[str, dict[int, dict[str, Any]]]]) -> Iterator[str]:
    """What stands in docs/performance.md."""
    yield (
        f"{describe()}; {engine_version()}. {len(rounds)} rounds, medians (lowest–highest). "
        f"Repeat: `{command('bench.replicas')}`."
    )
    for publishers in PUBLISHERS:
        rows = []
        for asked in EVERYONE:
            found = [one[asked.name][publishers] for one in rounds]
            rows.append(
                [
                    str(asked.least),
                    str(asked.attached),
                    _spread([row["rate"] for row in found], 0),
                    _spread([row["p50"] for row in found], 2),
                    _spread([row["p99"] for row in found], 2),
                    _spread([row["herald"] for row in found], 0),
                    _spread([row["engines"] for row in found], 0),
                ]
            )
        yield f"{publishers} publishers:" if publishers > 1 else "One publisher:"
        yield table(
            [
                *("`HERALD_MIN_REPLICAS`", "replicas attached", "single POSTs/s"),
                *("answered p50, ms", "answered p99, ms"),
                *("CPU of Herald, µs an event", "CPU of the engines, µs an event"),
            ],
            rows,
        )


def _spread(values: Sequence[float], digits: int) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.replicas", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--into", type=Path, default=DOCS, metavar="FOLDER")
    options = parser.parse_args()
    rounds: list[dict[str, Any]] = [{} for _ in range(options.rounds)]
    try:
        with contextlib.closing(Lab()) as lab:
            for number, asked in interleave(EVERYONE, 0, options.rounds):
                rounds[number][asked.name] = measure(lab, asked)
                said = ", ".join(
                    f"{publishers}: {row['rate']:,.0f}/s, p99 {row['p99']:.2f} ms"
                    for publishers, row in rounds[number][asked.name].items()
                )
                print(f"round {number + 1}, {asked.name}: {said}", file=sys.stderr)
    except (CannotMeasureError, BenchError, RuntimeError) as error:
        sys.exit(str(error))
    text = "\n\n".join(report(rounds))
    put(options.into / "performance.md", "replicas", text)
    print(text)


if __name__ == "__main__":
    main()
