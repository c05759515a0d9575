"""One client's connection after its handshake: what all kinds of it have in common.

A connection is the transport's protocol itself, one object with slots: idle it has no task, no
queue and no timer of its own (its place in the hub's wheel is one set entry). What is read and how
things are said is the kind's: `hub.websocket`, `hub.stream`.

Every way out goes through `close` (our verdict) or `connection_lost` (the transport's), each once;
`_forget` then frees channels, timer and waiters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, Protocol

from service.core.close import CloseCode
from service.core.log import Piece
from service.core.position import Position
from service.core.principal import Principal
from service.core.session import Request, Session
from service.core.wheel import Wheel
from service.hub.hub import Hub
from service.hub.live import Listener, LiveChannel, Replays
from service.hub.outstanding import outstanding
from service.hub.policy import HubPolicy
from service.hub.writing import BEHIND, descriptor
from service.ports import Instrumentation
from service.supervision import fail_stop

logger = logging.getLogger("herald.connection")


class Host(Protocol):
    """What a connection needs of the process that it is connected to."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def hub(self) -> Hub: ...
    @property
    def policy(self) -> HubPolicy: ...
    @property
    def stats(self) -> Instrumentation: ...
    @property
    def node(self) -> str: ...
    @property
    def wheel(self) -> Wheel[Connection]: ...

    async def verify(self, token: str) -> Principal:
        """See `UserVerifier.verify`."""

    async def admit(self, connection: Connection, principal: Principal, request: Request) -> None:
        """Join the channels, say welcome, replay, go live."""

    async def join(self, connection: Connection, channel: str, since: Position | None) -> None:
        """Join one more channel."""

    def lost(self, connection: Connection, code: int) -> None:
        """The socket is closed."""


class Ending(Enum):
    """How a socket ends after its last words."""

    HANDSHAKE = "handshake"
    """As the protocol says: a WebSocket's close frame is answered (RFC 6455, 7.1.1)."""
    LINGER = "linger"
    """What the client sends cannot be read any more: our side ends, theirs is discarded until it
    ends too. Closing at once would reset the connection and could destroy the last words."""
    AT_ONCE = "at once"
    """Nobody is there."""


class Connection(asyncio.Protocol):
    """See the module's text. Made by `Clients`, with the transport of the handshake."""

    takes_frames = True

    __slots__ = (
        "_began",
        "_gathered",
        "_host",
        "_pinged_at",
        "_seen",
        "_tasks",
        "_unread",
        "_waiter",
        "closing",
        "congested",
        "due",
        "fd",
        "replays",
        "serial",
        "session",
        "slot",
        "transport",
    )

    def __init__(
        self, host: Host, transport: asyncio.Transport, session: Session, serial: int, now: float
    ) -> None:
        self._host = host
        self.transport = transport
        self.fd = descriptor(transport)
        self.session = session
        self.serial = serial
        self.slot = -1
        self.due = 0.0
        self.closing = 0  # the close code, once there is one
        self.congested = False
        self.replays: Replays | None = None
        self._began = now
        self._seen = now  # the last sign of life
        self._pinged_at = 0.0
        self._unread = 0  # bytes on their way to the peer when that was last looked at
        self._gathered: list[bytes] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] | None = None

    @property
    def name(self) -> str:
        """This connection's id, for the client and the logs."""
        return f"{self._host.node}-{self.serial:x}"

    def describe(self, channel: str) -> Listener:
        """See `Member.describe`."""
        now = self._host.loop.time()
        return Listener(
            self.name,
            "websocket" if self.takes_frames else "sse",
            now - self._began,
            outstanding(self.transport, self.fd),
            max(0.0, now - self._seen),
            self._acked_in(channel),
        )

    def _acked_in(self, channel: str) -> Position | None:
        return None

    # The transport's side

    def eof_received(self) -> bool:
        return False  # a half-closed client hears nothing any more: close

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self._seen = self._host.loop.time()  # it reads, so it lives
        self.congested = False
        self._wake_waiter()

    def connection_lost(self, exc: Exception | None) -> None:
        code = self._end_code()
        if not self.closing:
            self.closing = code
            self._forget()
        self.congested = False
        self._wake_waiter()
        self._host.lost(self, code)

    def _end_code(self) -> int:
        """The close code of a connection that is lost; 1006 where nobody said one."""
        return self.closing or 1006

    # Writing

    def send(self, payload: bytes) -> None:
        """Send one message of ours: JSON text."""
        raise NotImplementedError

    def deliver(self, live: LiveChannel, pieces: Sequence[Piece]) -> None:
        """Send events and gaps of a channel that this connection alone is owed."""
        raise NotImplementedError

    def owe(
        self, channel: str, pieces: Sequence[Piece], blocks: Sequence[bytes], budget: int
    ) -> bool:
        """See `Member.owe`."""
        raise NotImplementedError

    def welcome(self, payload: bytes) -> None:
        """Send the first message."""
        self.send(payload)

    def answer(self, payload: bytes) -> None:
        """Send one message that the client asked for."""
        self.send(payload)

    def write(self, data: bytes) -> None:
        """Write what this connection alone is owed."""
        if not self.closing:
            self._host.stats.delivered_bytes += len(data)
            self._put(data)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """What is written until the end leaves in one write. No `await` may be between."""
        self._gathered = []
        try:
            yield
        finally:
            gathered, self._gathered = self._gathered, None
            if gathered and not self.closing:
                self._put(b"".join(gathered))

    def _put(self, data: bytes) -> None:
        if self._gathered is not None:
            self._gathered.append(data)
            return
        self.transport.write(data)
        if self.fd >= 0 and self.transport.get_write_buffer_size():
            self.fd = BEHIND
            self._host.hub.writer.changed()

    async def drained(self) -> None:
        """Wait until the client has read most of what was written, or is gone."""
        while self.congested and not self.closing:
            if self._waiter is None:
                self._waiter = self._host.loop.create_future()
            await asyncio.shield(self._waiter)

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something for this connection; cancelled when that is lost."""
        task = self._host.loop.create_task(work)
        if self._tasks is None:
            self._tasks = set()
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        if self._tasks is not None:
            self._tasks.discard(task)
            if not self._tasks:
                self._tasks = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.close(CloseCode.INTERNAL_ERROR, "internal error")
            logger.error("a replay broke off", exc_info=error, extra={"id": self.name})

    # Time

    def set_timer(self, now: float) -> None:
        """Look at this connection again when the next thing is due."""
        due = self._next_look()
        principal = self.session.principal
        if principal is not None:
            left = principal.expires + self._host.policy.token_leeway - time.time()
            due = min(due, now + left)
        self._host.wheel.schedule(self, due)

    def wake(self, now: float) -> None:
        """The timer fired."""
        if self.closing:
            self.transport.abort()
            return
        principal = self.session.principal
        leeway = self._host.policy.token_leeway
        if principal is not None and time.time() >= principal.expires + leeway:
            self.close(CloseCode.UNAUTHORIZED, "the token has expired")
            return
        if self._lives(now):
            self.set_timer(now)
        else:
            self.close(CloseCode.TIMEOUT, "no sign of life", Ending.AT_ONCE)

    def _next_look(self) -> float:
        """When the peer must be pinged, or is to be judged (loop time)."""
        raise NotImplementedError

    def _lives(self, now: float) -> bool:
        """Whether there was a sign of life in time; pings the peer where that is due."""
        raise NotImplementedError

    # Ways out

    def dismiss(self, after_ms: int) -> None:
        """The node is about to stop: say when to come back, and close."""
        raise NotImplementedError

    def close(self, code: CloseCode, reason: str, ending: Ending = Ending.HANDSHAKE) -> None:
        """End the connection, saying why; the second call does nothing.

        Whatever the ending, after the policy's `close_timeout` the socket is cut off.
        """
        if self.closing:
            return
        self.closing = code
        self._forget()
        try:
            self._say_goodbye(code, reason, ending)
            now = self._host.loop.time()
            self._host.wheel.schedule(self, now + self._host.policy.close_timeout)
        except MemoryError:
            self.transport.abort()
        self._wake_waiter()

    def break_off(self) -> None:
        """See `Member.break_off`."""
        if not self.closing:
            self.closing = CloseCode.INTERNAL_ERROR
            self._forget()
        self.transport.abort()
        self._wake_waiter()

    def _say_goodbye(self, code: CloseCode, reason: str, ending: Ending) -> None:
        raise NotImplementedError

    def _leave(self, channel: str) -> None:
        task = self.replays.tasks.pop(channel, None) if self.replays is not None else None
        if task is not None:
            task.cancel()
        self._host.hub.leave(self, channel, following=task is not None)

    def _forget(self) -> None:
        """Nothing is delivered from here on; the memory is free once the socket is closed."""
        try:
            self._leave_all()
        except MemoryError:
            # Its descriptor might be written to when it is somebody else's.
            fail_stop(b"herald: out of memory, and no way to forget a connection; ending\n")

    def _leave_all(self) -> None:
        channels = self.session.channels
        for channel in channels.union(self.replays.tasks if self.replays is not None else ()):
            self._leave(channel)
        self.session.left(channels)
        self.replays = None
        for task in self._tasks or ():
            # A moment later: one that is cancelled before its first step never gets to its
            # `finally`.
            self._host.loop.call_soon(task.cancel)

    def _wake_waiter(self) -> None:
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None
