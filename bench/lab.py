"""The bench itself: an engine, the load generator, and one system at a time under test."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.load.driver import SOURCES, Load, compile_c
from bench.machine import cpu_seconds, rss_kb
from bench.peers.peer import LOAD_CPU, SERVER_CPU, Peer, Running, Workplace, free_port
from service.broker.embedded import EmbeddedEngine

MOST_USERS = 15_000


class Station:
    """One system, running, with a load generator aimed at it."""

    def __init__(self, running: Running, load: Load, engine_pid: int) -> None:
        self.running = running
        self.load = load
        self.engine_pid = engine_pid

    def rss_kb(self) -> int:
        return rss_kb(self.running.pids)

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.running.pids)

    def engine_cpu_seconds(self) -> float:
        return cpu_seconds([self.engine_pid])


class Lab:
    """Builds the C programs once and sets up a station for each measurement."""

    def __init__(self, most_connections: int = MOST_USERS) -> None:
        self.most_connections = most_connections
        """What the limit of open files allows; scenarios ask for no more."""
        self._directory = Path(tempfile.mkdtemp(prefix="herald-bench-"))
        self._load = compile_c(self._directory, "load", sorted(SOURCES.glob("*.c")))
        self.floor = compile_c(
            self._directory, "floor", [Path(__file__).parent / "floors" / "floor.c"]
        )
        self._stations = 0
        self._minted: dict[str, list[tuple[str, str]]] = {}

    def close(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    @contextlib.contextmanager
    def engine(self, cpu: int = LOAD_CPU) -> Iterator[tuple[EmbeddedEngine, int]]:
        """A fresh engine on a TCP port, beside the load."""
        port = free_port()
        engine = EmbeddedEngine(("--port", str(port), "--bind", "127.0.0.1"))
        os.sched_setaffinity(engine.pid, {cpu})
        try:
            yield engine, port
        finally:
            engine.stop()

    @contextlib.contextmanager
    def station(
        self,
        peer: Peer,
        users: int = MOST_USERS,
        server_cpus: Sequence[int] = (SERVER_CPU,),
    ) -> Iterator[Station]:
        """Start a system on a fresh engine; all is ended afterwards.

        Raises:
            RuntimeError: it did not start.
        """
        self._stations += 1
        directory = self._directory / f"{self._stations}-{peer.name.replace(' ', '-')}"
        directory.mkdir()
        with contextlib.ExitStack() as ends:
            engine, port = ends.enter_context(self.engine())
            workplace = Workplace(directory, port, server_cpus)
            ends.callback(workplace.stop)
            try:
                running = peer.start(workplace)
            except RuntimeError as error:
                raise RuntimeError(f"{error}: {_last_words(directory)}") from None
            load = self.load(self._mint(peer, users))
            ends.callback(load.close)
            load.aim(running.port, running.publish_port)
            load.speak(peer.dialect())
            yield Station(running, load, engine.pid)

    def load(self, users: Sequence[tuple[str, str]]) -> Load:
        """A generator of its own."""
        return Load(self._load, users)

    def _mint(self, peer: Peer, count: int) -> list[tuple[str, str]]:
        """Names and tokens, signed once for each system."""
        minted = self._minted.setdefault(peer.name, [])
        for number in range(len(minted), count):
            name = f"u{number:05}"
            minted.append((name, peer.token(name) if peer.authenticates else "-"))
        return minted[:count]


def _last_words(directory: Path) -> str:
    """The last line that a system wrote before it ended."""
    lines = [line for log in directory.glob("*.log") for line in log.read_text().splitlines()]
    return lines[-1][:300] if lines else "it said nothing"


def settle(seconds: float = 1.0) -> None:
    """Let what was just done be over."""
    time.sleep(seconds)
