"""What the benchmark must know of a system to drive it: how it starts, and how its clients talk.

In every text that is sent, `{user}` and `{token}` stand for the connection's own (a user's name has
always six characters, as `u00042`), and each `{mark}` of a published body for the next mark: 33
characters, `@`, eight digits that count per receiver, `@`, nanoseconds since 1970 padded to
twenty-one digits, `@` and one more `@`. A mark survives any JSON, form or HTML escaping.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jwt

SECRET = "a-secret-that-only-the-benchmark-uses"
API_KEY = "a-key-that-only-the-benchmark-uses"
HEARTBEAT = 25
"""Seconds between a server's pings; every system is set to this."""
MARK = 33
"""Characters of a mark."""
TEXT = "Your order 17 has left the warehouse and arrives on Thursday between ten and twelve."
"""What an event says, beside its mark."""

SERVER_CPU, LOAD_CPU = 0, 1
"""The server alone has the first core; load, engine and everything else share the second."""


@dataclass(frozen=True, slots=True)
class Expect:
    """Wait until this text arrives (in any frame, after what was waited for before)."""

    text: str


@dataclass(frozen=True, slots=True)
class Say:
    """Send this as a text frame."""

    text: str


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a client opens a connection and stays.

    Attributes:
        head: the HTTP request's lines, without `Host` and the four of the WebSocket handshake,
            which are added. The first is the request line, as `GET /v1/ws HTTP/1.1`.
        steps: what is said and waited for after the handshake's answer. The connection counts as
            open (authenticated, subscribed) once all are done; they end with an `Expect`, or are
            empty where the handshake's answer says it all.
        stream: the answer is an endless body (SSE) instead of a WebSocket.
        ping, pong: a text frame that the server sends to see whether the client lives, and its
            answer, where the system has them beside WebSocket's own.
    """

    head: Sequence[str]
    steps: Sequence[Expect | Say] = ()
    stream: bool = False
    ping: str = ""
    pong: str = ""


@dataclass(frozen=True, slots=True)
class Post:
    """An HTTP request that publishes.

    Attributes:
        head: the request line and the header lines, without Host, Connection and Content-Length,
            which are added.
        body: with `{mark}` once per event, and `{user}` where it goes to one user.
    """

    head: Sequence[str]
    body: str


@dataclass(slots=True)
class Workplace:
    """Where a system is started: a folder, an engine, and what was started so far."""

    directory: Path
    engine_port: int
    server_cpus: Sequence[int] = (SERVER_CPU,)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def engine_url(self) -> str:
        return f"redis://127.0.0.1:{self.engine_port}/0"

    def spawn(
        self, argv: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process on the server's core; its output goes to a file in `directory`."""
        log = (self.directory / f"{len(self.processes)}-{Path(argv[0]).name}.log").open("wb")
        process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, self.server_cpus)), *argv],
            env={**os.environ, **(environment or {})},
            cwd=self.directory,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """End what was started, and wait for it."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    """Raises RuntimeError where the process ends or nobody listens in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if process.poll() is not None:
                raise RuntimeError(f"it ended with {process.returncode} while starting") from None
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nobody listens on port {port}")


@dataclass(frozen=True, slots=True)
class Running:
    """A started system.

    Attributes:
        pids: of the processes whose memory and CPU are the system's (with their children).
        port: of the clients' side.
        publish_port: of the publishers' side.
    """

    pids: Sequence[int]
    port: int
    publish_port: int


class Peer(ABC):
    """A system that pushes messages to clients.

    Attributes:
        name: one word, for the command line.
        label: for tables.
        authenticates: a connection's token is verified.
        stores: an event is retained in the engine (or a log of its own) before the POST is
            answered, so that a client can resume.
        install: the command that installs it.
    """

    name: str
    label: str
    authenticates: bool = True
    stores: bool = False
    install: str = "make bench-peers"

    @abstractmethod
    def missing(self) -> str | None:
        """What is not installed, or None."""

    @abstractmethod
    def version(self) -> str:
        """Its version and its runtime's, for the report."""

    @abstractmethod
    def start(self, workplace: Workplace) -> Running:
        """Start it on the server's core; returns when it takes connections.

        Raises:
            RuntimeError: it did not start.
        """

    @abstractmethod
    def dialect(self) -> Dialect:
        """How a client that listens to its user's channel and to `all` opens."""

    @abstractmethod
    def post_to_user(self) -> Post:
        """Publish one event to `{user}`."""

    @abstractmethod
    def post_to_all(self, events: int = 1) -> Post | None:
        """Publish so many events to everyone in one request; None where it has no such request."""

    def token(self, user: str) -> str:
        """The user's token."""
        return jwt.encode({"sub": user, "exp": int(time.time()) + 86400}, SECRET, "HS256")
