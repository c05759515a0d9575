"""The floors, driven like any system: what the work costs with nothing around it."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.peers.peer import (
    HEARTBEAT,
    TEXT,
    Dialect,
    Expect,
    Peer,
    Post,
    Running,
    Workplace,
    free_port,
    wait_for_port,
)

_MESSAGE = (
    '{"type":"event","channel":"all","id":"1763790000000-17","event":"order.shipped",'
    f'"data":{{"mark":"{{mark}}","text":"{TEXT}"}},"time":"2026-11-23T09:00:00.000Z"}}'
)


class _Floor(Peer):
    authenticates = False
    install = "a C compiler"

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return ""

    def dialect(self) -> Dialect:
        return Dialect(("GET / HTTP/1.1",))

    def post_to_user(self) -> Post:
        return Post(("POST / HTTP/1.1",), "")

    def post_to_all(self, events: int = 1) -> Post | None:
        return None


class SendFloor(_Floor):
    """One `send(2)` per connection and message, in C."""

    name = "floor"
    label = "*floor: one send per message, C*"

    def __init__(
        self, binary: Path, ping_seconds: float = 0.0, *, through_engine: bool = False
    ) -> None:
        self._binary = binary
        self._ping_seconds = ping_seconds
        self._through_engine = through_engine

    def start(self, workplace: Workplace) -> Running:
        port, publish_port = free_port(), free_port()
        engine_port = workplace.engine_port if self._through_engine else 0
        numbers = (port, publish_port, self._ping_seconds, engine_port)
        process = workplace.spawn([str(self._binary), *map(str, numbers)])
        wait_for_port(publish_port, process)
        return Running([process.pid], port, publish_port)

    def post_to_all(self, events: int = 1) -> Post | None:
        return Post(("POST / HTTP/1.1",), "\n".join([_MESSAGE] * events))


class RelayFloor(SendFloor):
    """A POST's message sent on to the one user it names, in C: what the machine itself delays."""

    name = "relay floor"
    label = "*floor: relay to one user, C*"

    def __init__(self, binary: Path, *, through_engine: bool = False) -> None:
        super().__init__(binary, through_engine=through_engine)
        if through_engine:
            self.name = "engine relay floor"
            self.label = "*floor: relay through the engine's PUBLISH, C*"

    def dialect(self) -> Dialect:
        return Dialect(("GET /{user} HTTP/1.1",))

    def post_to_user(self) -> Post:
        return Post(("POST /{user} HTTP/1.1",), _MESSAGE)


class PingFloor(SendFloor):
    """A ping written to, and a pong read from, each connection in an interval, in C."""

    name = "ping floor"
    label = "*floor: ping and pong, C*"

    def __init__(self, binary: Path) -> None:
        super().__init__(binary, HEARTBEAT)


class _PythonFloor(_Floor):
    module: str

    def start(self, workplace: Workplace) -> Running:
        port = free_port()
        root = Path(__file__).parents[2]
        process = workplace.spawn(
            [sys.executable, "-m", self.module, str(port)], {"PYTHONPATH": str(root)}
        )
        wait_for_port(port, process)
        return Running([process.pid], port, port)


class AdoptedFloor(_PythonFloor):
    """Herald's handshake, adopted, with nothing behind it."""

    name = "handshake floor"
    authenticates = True
    label = "*floor: Herald's handshake, nothing behind it*"
    module = "bench.floors.adopted"

    def dialect(self) -> Dialect:
        # The same request as Herald's: a token that nobody looks at.
        return Dialect(
            ("GET /v1/ws HTTP/1.1", "Authorization: Bearer {token}"), [Expect('"welcome"')]
        )


class UvicornAdoptedFloor(AdoptedFloor):
    """uvicorn's own handshake through ASGI, adopted, with nothing behind it."""

    name = "uvicorn handshake floor"
    label = "*floor: uvicorn's handshake, nothing behind it*"
    module = "bench.floors.uvicorn_adopted"


class AcceptedFloor(_PythonFloor):
    """uvicorn answering 202."""

    name = "202 floor"
    label = "*floor: uvicorn answers 202*"
    module = "bench.floors.accepted"
