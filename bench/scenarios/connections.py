"""(a) Authenticated connects per second, and what an idle connection costs in memory and CPU."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench.floors.systems import AdoptedFloor, PingFloor, UvicornAdoptedFloor
from bench.herald import HeraldServer
from bench.lab import Lab, Station, settle
from bench.load.driver import BenchError
from bench.peers.peer import HEARTBEAT, Peer
from bench.progress import Progress
from bench.scenarios.rounds import Measurement, Record, measure, per_second

NAME = "connections"
WARM_UP = 200
"""Connections that fill caches, pools and buffers before memory counts."""
WINDOW = 256
AT_ONCE = 4
"""Systems that idle side by side, each with its own CPU time, to save time."""


def seconds(systems: int, rounds: int, quick: bool) -> float:
    """About how long it takes."""
    idle = (systems + 2) / AT_ONCE * (45 if quick else 85)
    return rounds * (systems + 2) * (5 if quick else 12) + idle


def run(
    lab: Lab, peers: Sequence[Peer], rounds: int, quick: bool, progress: Progress
) -> dict[str, Any]:
    record = Record(progress)
    sizes = [min(size, lab.most_connections) for size in (1000, 10_000, 15_000)]
    if quick:
        sizes = sizes[:2]
    idle_at, idle_seconds = (sizes[1], (1 if quick else 2) * HEARTBEAT)
    heralds = [HeraldServer(plain=False)] if any(peer.name == "herald" for peer in peers) else []
    systems = [*peers[:1], *heralds, *peers[1:]] if heralds else list(peers)

    def connects(system: Peer, number: int) -> Measurement:
        with lab.station(system, sizes[-1]) as station:
            found = grow(station, sizes)
        at = found["sizes"][str(sizes[-1])]
        progress.saw(f"{at['rate']:,.0f} connects/s, {at['rss_kb']:.2f} KB a connection")
        return found

    record.run([*systems, AdoptedFloor(), UvicornAdoptedFloor()], rounds, connects)
    # Bars compare these: they idle side by side, under the same conditions.
    groups = [PingFloor(lab.floor), *systems]
    for first in range(0, len(groups), AT_ONCE):
        group = groups[first : first + AT_ONCE]
        progress.plan(1)
        names = ", ".join(system.name for system in group)
        progress.step(f"idle for {idle_seconds} s: {names}")
        for system, found in idle_side_by_side(lab, group, idle_at, idle_seconds):
            record.put(system, 0, found)
            if isinstance(found, dict):
                busy = found["idle"]["server_busy"]
                progress.saw(f"{system.name}: {100 * busy:.2f} % of a core")
    for peer in peers:
        if not peer.authenticates:
            record.note(f"{peer.label} authenticates nobody")
    return record.result(sizes=sizes, idle_at=idle_at, window=WINDOW, warm_up=WARM_UP)


def grow(station: Station, sizes: Sequence[int]) -> Measurement:
    """Connect more and more; each size is timed from the one before it."""
    load = station.load
    load.connect(WARM_UP, window=WINDOW)
    settle()
    before, there = station.rss_kb(), WARM_UP
    found: dict[str, Measurement] = {}
    for size in sizes:
        more = size - there
        work = lambda more=more: load.connect(more, window=WINDOW)  # noqa: E731
        row = measure(station, work, connections=more)
        settle()
        there = size
        row["rate"] = per_second(more, row["seconds"])
        row["rss_kb"] = round((station.rss_kb() - before) / (there - WARM_UP), 3)
        found[str(size)] = row
    return {"sizes": found, "rss_of_the_process_kb": before}


def idle_side_by_side(
    lab: Lab, systems: Sequence[Peer], connections: int, seconds: float
) -> Iterator[tuple[Peer, Measurement | Exception]]:
    """Several systems with idle connections at a time: the kernel counts each one's CPU time."""
    with contextlib.ExitStack() as ends:
        idlers: list[_Idler] = []
        for system in systems:
            try:
                station = ends.enter_context(lab.station(system, connections))
                station.load.connect(WARM_UP, window=WINDOW)
                settle()
                before = station.rss_kb()
                station.load.connect(connections - WARM_UP, window=WINDOW)
            except (BenchError, RuntimeError, OSError) as error:
                yield system, error
                continue
            idler = _Idler(system, station, before)
            ends.callback(idler.stop)
            idlers.append(idler)
        settle(2)
        for idler in idlers:
            idler.begin()
        settle(seconds)
        for idler in idlers:
            yield idler.system, idler.end(connections)


class _Idler:
    """Answers a system's pings in a thread, until it is stopped."""

    def __init__(self, system: Peer, station: Station, rss_before: int) -> None:
        self.system = system
        self._station = station
        self._rss_before = rss_before
        self._pings = 0
        self._closed = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        while not self._over.is_set():
            try:
                result = self._station.load.idle(0.2)
            except BenchError:
                return
            self._pings += result["pings"]
            self._closed = result["closed"]

    def begin(self) -> None:
        self._pings = 0
        self._cpu = self._station.cpu_seconds(), self._station.engine_cpu_seconds()
        self._began = time.monotonic()

    def end(self, connections: int) -> Measurement | Exception:
        try:
            seconds = time.monotonic() - self._began
            server = self._station.cpu_seconds() - self._cpu[0]
            engine = self._station.engine_cpu_seconds() - self._cpu[1]
            rss = self._station.rss_kb() - self._rss_before
        except OSError:
            return BenchError("it ended while idle")
        pings = self._pings
        if self._closed:
            return BenchError(f"{self._closed} idle connections were closed")
        return {
            "idle": {
                "connections": connections,
                "seconds": round(seconds, 3),
                "server_cpu": round(server, 3),
                "server_busy": round(server / seconds, 5),
                "engine_busy": round(engine / seconds, 5),
                "pings_per_connection": round(pings / connections, 3),
                "rss_kb": round(rss / (connections - WARM_UP), 3),
            }
        }

    def stop(self) -> None:
        self._over.set()
        self._thread.join(5)
