"""What all scenarios share: rounds in which every system has its turn, and measurements as JSON.

A measurement is a flat object. Beside what it is about it has `seconds`, how busy the cores of
load, server and engine were (`load_busy`, `server_busy`, `engine_busy`), what share of a core all
else on the machine took (`others_busy`), and what was counted: `expected`, `delivered`,
`misordered`, `skipped`, `refused`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from bench.lab import Station
from bench.load.driver import BenchError, Result
from bench.machine import all_cpu_seconds
from bench.progress import Progress

Measurement = dict[str, Any]
_COUNTS = ("expected", "delivered", "misordered", "skipped", "refused")


class System(Protocol):
    """What has its turn: a peer, a floor."""

    name: str
    label: str

    def version(self) -> str: ...


S = TypeVar("S", bound=System)


def interleave(systems: Sequence[S], first: int, rounds: int) -> Iterator[tuple[int, S]]:
    """Each system once a round; every round begins with another one."""
    for number in range(first, rounds):
        turn = number % len(systems)
        for system in [*systems[turn:], *systems[:turn]]:
            yield number, system


class Record:
    """What a scenario found: by system, one object a round, and who failed with what."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._systems: dict[str, list[Measurement]] = {}
        self._failed: dict[str, str] = {}
        self._notes: list[str] = []
        self._labels: dict[str, str] = {}
        self._versions: dict[str, str] = {}

    def run(
        self,
        systems: Sequence[S],
        rounds: int,
        measure: Callable[[S, int], Measurement],
        first: int = 0,
    ) -> None:
        """Measure each system in each round, from round `first` on. One that fails has no further
        turn.
        """
        self._progress.plan((rounds - first) * len(systems))
        for number, system in interleave(systems, first, rounds):
            self._progress.step(f"round {number + 1}: {system.name}")
            if system.name in self._failed:
                self._progress.saw("passed over: it failed before")
                continue
            self.put(system, number, attempt(partial(measure, system, number)))

    def put(self, system: System, number: int, found: Measurement | Exception) -> None:
        """Keep what came of a system in a round, beside what is there of it."""
        self._labels[system.name] = system.label
        if version := system.version():
            self._versions[system.name] = version
        if isinstance(found, Exception):
            self._failed[system.name] = str(found) or type(found).__name__
            self._progress.saw(f"{system.name} failed: {self._failed[system.name]}")
            return
        rows = self._systems.setdefault(system.name, [])
        for row in rows:
            if row["round"] == number:
                row.update(found)
                return
        rows.append({"round": number, **found})

    def note(self, text: str) -> None:
        """What a reader must know, once."""
        if text not in self._notes:
            self._notes.append(text)
            self._progress.saw(text)

    def result(self, **more: Any) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "systems": self._systems,
            "failed": self._failed,
            "notes": self._notes,
            "labels": self._labels,
            "versions": self._versions,
            **more,
        }


def attempt(work: Callable[[], Measurement]) -> Measurement | Exception:
    """What came of it, or what went wrong with the system or its load."""
    try:
        return work()
    except FileNotFoundError:
        return BenchError("its process ended")
    except (BenchError, RuntimeError, OSError) as error:
        return error


def measure(station: Station, work: Callable[[], Result], **more: Any) -> Measurement:
    """Do `work` with the generator, and see how busy everyone was."""
    server, engine, everyone = (
        station.cpu_seconds(),
        station.engine_cpu_seconds(),
        all_cpu_seconds(),
    )
    began = time.monotonic()
    result = work()
    whole = time.monotonic() - began
    everyone = all_cpu_seconds() - everyone
    server, engine = station.cpu_seconds() - server, station.engine_cpu_seconds() - engine
    seconds: float = result.get("seconds", whole)
    all_seconds: float = result.get("all_seconds", seconds)
    found: Measurement = {
        **more,
        "seconds": round(seconds, 6),
        "all_seconds": round(all_seconds, 6),
        "server_cpu": round(server, 3),
        "engine_cpu": round(engine, 3),
        "server_busy": round(server / whole, 4),
        "engine_busy": round(engine / whole, 4),
    }
    if "load_cpu" in result:
        found["load_cpu"] = result["load_cpu"]
        found["load_busy"] = round(result["load_cpu"] / all_seconds, 4)
        others = everyone - server - engine - result["load_cpu"]
        found["others_busy"] = round(max(0.0, others / whole), 4)
    found.update({name: result[name] for name in _COUNTS if name in result})
    return found


def per_second(count: float, seconds: float) -> float:
    return round(count / seconds, 1) if seconds else 0.0
