"""One client's socket, after the handshake: bytes to messages, effects to bytes, and every way out.

A connection is the transport's protocol itself, one object with slots: idle it has no task, no
queue, no parser and no timer of its own (its place in the hub's wheel is one set entry). Bytes that
arrive are parsed by a reader that is dropped when nothing is half read. Messages are dealt with one
at a time: while one needs the engine or a key, reading from the socket is paused.

Every way out goes through `close` (our verdict) or `connection_lost` (the transport's), each once;
`_forget` then frees channels, timer and waiters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, Protocol

from service.core import messages
from service.core.close import CloseCode
from service.core.errors import InvalidMessage, KeysUnavailable, Unauthorized
from service.core.frames import (
    PING_FRAME,
    FrameError,
    Kind,
    MessageReader,
    close_frame,
    is_lone_pong,
    pong_frame,
    text_frame,
)
from service.core.heartbeat import Beat, check_pulse
from service.core.position import Position
from service.core.principal import Principal
from service.core.session import (
    Acked,
    Admit,
    Close,
    Effect,
    Join,
    Leave,
    Reauthenticate,
    Reply,
    Request,
    Session,
    State,
)
from service.core.wheel import Wheel
from service.hub.hub import Hub
from service.hub.live import Replays
from service.hub.outstanding import outstanding
from service.hub.policy import HubPolicy
from service.hub.writing import BEHIND, descriptor
from service.ports import Instrumentation

logger = logging.getLogger("herald.connection")

_MESSAGES_PER_TURN = 64
"""Then the others have their turn: a flood of tiny messages must not hold up the loop."""

_REPLAY_ROOM = 256 * 1024
"""Bytes: a replay's page may be waiting to be read beside the answers."""

_PING_PLAIN = PING_FRAME
# A browser's scripts do not see WebSocket pings, so `herald.v1` says it in a message as well: its
# client can tell a dead connection by silence. Either answer is a sign of life.
_PING_HERALD = PING_FRAME + text_frame(messages.PING)


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
    """How a socket ends after its close frame."""

    HANDSHAKE = "handshake"
    """The client's close frame is waited for (RFC 6455, 7.1.1)."""
    LINGER = "linger"
    """What the client sends cannot be read any more: our side ends, theirs is discarded until it
    ends too. Closing at once would reset the connection and could destroy the close frame."""
    AT_ONCE = "at once"
    """Nobody is there."""


class Connection(asyncio.Protocol):
    """See the module's text. Made by `Clients`, with the transport of the handshake."""

    __slots__ = (
        "_busy",
        "_deaf",
        "_gathered",
        "_host",
        "_peer_code",
        "_pinged_at",
        "_plain",
        "_reader",
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
        self,
        host: Host,
        transport: asyncio.Transport,
        session: Session,
        *,
        plain: bool,
        serial: int,
        now: float,
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
        self._plain = plain
        self._seen = now
        self._pinged_at = 0.0
        self._unread = 0  # bytes on their way to the peer when it was pinged
        self._peer_code = 1006
        self._busy = False
        self._deaf = False  # what arrives cannot be understood any more
        self._gathered: list[bytes] | None = None
        self._reader: MessageReader | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] | None = None

    @property
    def name(self) -> str:
        """This connection's id, for the client and the logs."""
        return f"{self._host.node}-{self.serial:x}"

    def start(self, principal: Principal, request: Request) -> None:
        """A plain client: all is known, so its admission begins at once."""
        self._work(self._host.admit(self, principal, request))

    # The transport's side

    def data_received(self, data: bytes) -> None:
        self._seen = self._host.loop.time()
        if self._deaf:
            return
        if self._pinged_at and not self.closing:
            self._answered(is_lone_pong(data))
        if self._reader is None:
            if is_lone_pong(data):
                return
            self._reader = MessageReader(self._host.policy.max_message_bytes)
        self._reader.feed(data)
        self._read()

    def eof_received(self) -> bool:
        return False  # a half-closed client hears nothing any more: close

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self._seen = self._host.loop.time()  # it reads, so it lives
        self.congested = False
        self._wake_waiter()

    def connection_lost(self, exc: Exception | None) -> None:
        code = self.closing or self._peer_code
        if not self.closing:
            self.closing = self._peer_code
            self._forget()
        self.congested = False
        self._wake_waiter()
        self._host.lost(self, code)

    # Reading

    def _read(self) -> None:
        reader = self._reader
        if reader is None or self._busy:
            return
        for _ in range(_MESSAGES_PER_TURN):
            try:
                incoming = reader.read()
            except FrameError as error:
                self._reader = None
                self.close(error.code, error.reason, Ending.LINGER)
                return
            if incoming is None:
                if reader.idle:
                    self._reader = None
                return
            if incoming.kind is Kind.CLOSE:
                self._peer_closed(incoming.code)
                return
            if self.closing:
                continue  # only the answer to our close is of interest
            if incoming.kind is Kind.TEXT:
                self._host.stats.received_messages += 1
                if not self._take(incoming.payload):
                    return
            elif incoming.kind is Kind.PING:
                self._reply(pong_frame(incoming.payload))
        self._pause()
        self._host.loop.call_soon(self._go_on)

    def _take(self, payload: bytes) -> bool:
        """Deal with a message; False where that takes time, and reading waits for it."""
        try:
            effect = self.session.receive(messages.decode_client_message(payload))
        except InvalidMessage as problem:
            effect = self.session.malformed(problem)
        self._carry_out(effect)
        return not self._busy

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Reply(payloads):
                for payload in payloads:
                    self.answer(payload)
            case Leave(channels, payloads):
                for channel in channels:
                    self._leave(channel)
                for payload in payloads:
                    self.answer(payload)
            case Acked():
                self._host.stats.acks += 1
            case Close(code, reason, payloads):
                for payload in payloads:
                    self.send(payload)
                self.close(code, reason)
            case Admit(token, request):
                self._work(self._admit(token, request))
            case Reauthenticate(token):
                self._work(self._reauthenticate(token))
            case Join(channel, since):
                self._work(self._host.join(self, channel, since))

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        """Deal with a message that needs time; nothing else is read until it is done."""
        self._pause()
        self.run(self._guard(work))

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            if self.closing:
                work.close()  # it was never begun
            else:
                await work
        except Exception:
            logger.exception("a client message was not dealt with", extra={"id": self.name})
            self.close(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            self._go_on()

    def _pause(self) -> None:
        self._busy = True
        self.transport.pause_reading()

    def _go_on(self) -> None:
        self._busy = False
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self._read()

    async def _admit(self, token: str | None, request: Request) -> None:
        principal = self.session.principal
        if token is not None:
            try:
                principal = await self._host.verify(token)
            except Unauthorized as error:
                self._host.stats.refused("token")
                self.close(CloseCode.UNAUTHORIZED, str(error))
                return
            except KeysUnavailable as error:
                self._host.stats.refused("keys")
                self.close(CloseCode.TRY_AGAIN_LATER, str(error))
                return
        if principal is None:
            self._host.stats.refused("token")
            self.close(CloseCode.UNAUTHORIZED, "no token was given")
            return
        if not self.closing:
            await self._host.admit(self, principal, request)

    async def _reauthenticate(self, token: str) -> None:
        try:
            principal = await self._host.verify(token)
        except Unauthorized as error:
            self.answer(messages.error("unauthorized", str(error)))
            return
        except KeysUnavailable as error:
            self.answer(messages.error("unavailable", str(error)))
            return
        if self.closing:
            return
        self._carry_out(self.session.reauthenticated(principal))
        if not self.closing:  # then the timer is the close's
            self.set_timer(self._host.loop.time())

    # Writing

    def send(self, payload: bytes) -> None:
        """Send one message of ours."""
        self.write(text_frame(payload))

    def write(self, data: bytes) -> None:
        """Write frames that this connection alone is owed."""
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

    def answer(self, payload: bytes) -> None:
        """Send one message that the client asked for."""
        self._reply(text_frame(payload))

    def _reply(self, data: bytes) -> None:
        """Write what the client asked for; one that keeps asking and never reads is cut off."""
        waiting = self.transport.get_write_buffer_size() if self.congested else 0
        if waiting > self._host.policy.send_queue_bytes + _REPLAY_ROOM:
            self.close(CloseCode.SLOW_CONSUMER, "reads too slowly")
        else:
            self.write(data)

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
            logger.error("a replay broke off", exc_info=error, extra={"id": self.name})
            self.close(CloseCode.INTERNAL_ERROR, "internal error")

    # Time

    def set_timer(self, now: float) -> None:
        """Look at this connection again when the next thing is due."""
        policy = self._host.policy
        principal = self.session.principal
        due = self._seen + policy.heartbeat_interval
        if self._pinged_at:
            due += policy.heartbeat_timeout
        if principal is not None:
            left = principal.expires + policy.token_leeway - time.time()
            due = min(due, now + left)
        self._host.wheel.schedule(self, due)

    def wake(self, now: float) -> None:
        """The timer fired."""
        policy = self._host.policy
        if self.closing:
            self.transport.abort()
            return
        principal = self.session.principal
        if self.session.state is State.CONNECTING:
            if self._busy:  # it came, and its token is being verified
                self._host.wheel.schedule(self, now + policy.connect_timeout)
                return
            self._host.stats.refused("connect_timeout")
            self.close(CloseCode.TIMEOUT, "no connect message in time")
            return
        if principal is not None and time.time() >= principal.expires + policy.token_leeway:
            self.close(CloseCode.UNAUTHORIZED, "the token has expired")
            return
        if self._busy:
            # Nothing is read meanwhile, be it a pong, so that silence says nothing.
            self._seen = now
            self.set_timer(now)
            return
        pulse = check_pulse(
            now,
            self._seen,
            self._pinged_at > 0.0,
            policy.heartbeat_interval,
            policy.heartbeat_timeout,
        )
        if pulse.beat is Beat.REAP:
            if (left := outstanding(self.transport, self.fd)) < self._unread:
                # It answers no ping yet because it still reads what was sent before. Next time it
                # must have read more.
                self._unread = left
                self._seen = now
                self.set_timer(now)
                return
            self.close(CloseCode.TIMEOUT, "no sign of life", Ending.AT_ONCE)
            return
        if pulse.beat is Beat.PING:
            self._pinged_at = now
            self._unread = outstanding(self.transport, self.fd)
            self._host.stats.pings += 1
            self._put(_PING_PLAIN if self._plain else _PING_HERALD)
        self.set_timer(now)

    def _answered(self, by_pong: bool) -> None:
        """The first sign of life after a ping, whatever it is, starts the interval anew."""
        if by_pong:
            self._host.stats.ponged(self._seen - self._pinged_at)
        self._pinged_at = 0.0
        self.set_timer(self._seen)

    # Ways out

    def dismiss(self, after_ms: int) -> None:
        """The node is about to stop: say when to come back, and close."""
        if self.closing:
            return
        if self.session.state is State.OPEN and not self._busy:  # it has had its welcome
            self.send(messages.reconnect(after_ms))
        self.close(CloseCode.RESTART, "the server restarts")

    def close(self, code: CloseCode, reason: str, ending: Ending = Ending.HANDSHAKE) -> None:
        """End the connection with a close frame; the second call does nothing.

        Whatever the ending, after the policy's `close_timeout` the socket is cut off.
        """
        if self.closing:
            return
        self.closing = code
        self._forget()
        self.transport.write(close_frame(code, reason))
        if self._busy:
            self._busy = False
            self.transport.resume_reading()
        now = self._host.loop.time()
        self._host.wheel.schedule(self, now + self._host.policy.close_timeout)
        if ending is Ending.LINGER:
            self._deaf = True
            self.transport.write_eof()
        elif ending is Ending.AT_ONCE:
            self.transport.close()
        self._wake_waiter()

    def _peer_closed(self, code: int) -> None:
        self._reader = None
        if not self.closing:
            self._peer_code = self.closing = code
            self._forget()
            # RFC 6455, 5.5.1: answered with the code that came; 1005 stands for none.
            self.transport.write(b"\x88\x00" if code == 1005 else close_frame(code, ""))
            now = self._host.loop.time()
            self._host.wheel.schedule(self, now + self._host.policy.close_timeout)
        self.transport.close()

    def _leave(self, channel: str) -> None:
        task = self.replays.tasks.pop(channel, None) if self.replays is not None else None
        if task is not None:
            task.cancel()
        self._host.hub.leave(self, channel, following=task is not None)

    def _forget(self) -> None:
        """Nothing is delivered from here on; the memory is free once the socket is closed."""
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
