"""One client's WebSocket, after the handshake: bytes to messages, effects to bytes.

Bytes that arrive are parsed by a reader that is dropped when nothing is half read. Messages are
dealt with one at a time: while one needs the engine or a key, reading from the socket is paused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

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
from service.core.heartbeat import Beat, check_pulse, ping_due
from service.core.log import Piece
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
from service.hub.connection import Connection, Ending, Host
from service.hub.live import LiveChannel
from service.hub.outstanding import outstanding

logger = logging.getLogger("herald.connection")

_MESSAGES_PER_TURN = 64
"""Then the others have their turn: a flood of tiny messages must not hold up the loop."""

_REPLAY_ROOM = 256 * 1024
"""Bytes: a replay's page may be waiting to be read beside the answers."""

_PING_PLAIN = PING_FRAME
# A browser's scripts do not see WebSocket pings, so `herald.v1` says it in a message as well: its
# client can tell a dead connection by silence. Either answer is a sign of life.
_PING_HERALD = PING_FRAME + text_frame(messages.PING)


class WebSocket(Connection):
    """See the module's text. `plain`: the client offered no subprotocol."""

    __slots__ = ("_acked", "_busy", "_deaf", "_peer_code", "_plain", "_reader")

    def __init__(
        self,
        host: Host,
        transport: asyncio.Transport,
        session: Session,
        serial: int,
        now: float,
        *,
        plain: bool,
    ) -> None:
        super().__init__(host, transport, session, serial, now)
        self._plain = plain
        self._peer_code = 1006
        self._busy = False
        self._deaf = False  # what arrives cannot be understood any more
        self._reader: MessageReader | None = None
        self._acked: dict[str, Position] | None = None  # the last of each channel

    def start(self, principal: Principal, request: Request) -> None:
        """A plain client: all is known, so its admission begins at once."""
        self._work(self._host.admit(self, principal, request))

    # Reading

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
            case Acked(channel, position):
                self._host.stats.acks += 1
                if self._acked is None:
                    self._acked = {}
                self._acked[channel] = position
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
            self.close(CloseCode.INTERNAL_ERROR, "internal error")
            logger.exception("a client message was not dealt with", extra={"id": self.name})
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

    def _acked_in(self, channel: str) -> Position | None:
        return None if self._acked is None else self._acked.get(channel)

    def _leave(self, channel: str) -> None:
        super()._leave(channel)
        if self._acked is not None:
            self._acked.pop(channel, None)

    # Writing

    def send(self, payload: bytes) -> None:
        """See `Connection.send`."""
        self.write(text_frame(payload))

    def deliver(self, live: LiveChannel, pieces: Sequence[Piece]) -> None:
        """See `Connection.deliver`."""
        self.write(b"".join([live.frame(piece) for piece in pieces]))

    def answer(self, payload: bytes) -> None:
        """See `Connection.answer`."""
        self._reply(text_frame(payload))

    def _reply(self, data: bytes) -> None:
        """Write what the client asked for; one that keeps asking and never reads is cut off."""
        waiting = self.transport.get_write_buffer_size() if self.congested else 0
        if waiting > self._host.policy.send_queue_bytes + _REPLAY_ROOM:
            self.close(CloseCode.SLOW_CONSUMER, "reads too slowly")
        else:
            self.write(data)

    # Time

    def wake(self, now: float) -> None:
        """See `Connection.wake`."""
        if self.session.state is State.CONNECTING and not self.closing:
            if self._busy:  # it came, and its token is being verified
                self._host.wheel.schedule(self, now + self._host.policy.connect_timeout)
                return
            self._host.stats.refused("connect_timeout")
            self.close(CloseCode.TIMEOUT, "no connect message in time")
            return
        super().wake(now)

    def _next_look(self) -> float:
        policy = self._host.policy
        if self._pinged_at:
            return self._seen + policy.heartbeat_interval + policy.heartbeat_timeout
        return ping_due(self._seen, self.serial, policy.heartbeat_interval)

    def _lives(self, now: float) -> bool:
        if self._busy:
            # Nothing is read meanwhile, be it a pong, so that silence says nothing.
            self._seen = now
            return True
        policy = self._host.policy
        pulse = check_pulse(
            now,
            self._seen,
            self.serial,
            self._pinged_at > 0.0,
            policy.heartbeat_interval,
            policy.heartbeat_timeout,
        )
        if pulse.beat is Beat.REAP:
            left = outstanding(self.transport, self.fd)
            if left >= self._unread:
                return False
            # It answers no ping yet because it still reads what was sent before. Next time it must
            # have read more.
            self._unread = left
            self._seen = now
        elif pulse.beat is Beat.PING:
            self._pinged_at = now
            self._unread = outstanding(self.transport, self.fd)
            self._host.stats.pings += 1
            self._put(_PING_PLAIN if self._plain else _PING_HERALD)
        return True

    def _answered(self, by_pong: bool) -> None:
        """The first sign of life after a ping, whatever it is, starts the interval anew."""
        if by_pong:
            self._host.stats.ponged(self._seen - self._pinged_at)
        self._pinged_at = 0.0
        self.set_timer(self._seen)

    # Ways out

    def dismiss(self, after_ms: int) -> None:
        """See `Connection.dismiss`."""
        if self.closing:
            return
        if self.session.state is State.OPEN and not self._busy:  # it has had its welcome
            self.send(messages.reconnect(after_ms))
        self.close(CloseCode.RESTART, "the server restarts")

    def _say_goodbye(self, code: CloseCode, reason: str, ending: Ending) -> None:
        self.transport.write(close_frame(code, reason))
        if self._busy:
            self._busy = False
            self.transport.resume_reading()
        if ending is Ending.LINGER:
            self._deaf = True
            self.transport.write_eof()
        elif ending is Ending.AT_ONCE:
            self.transport.close()

    def _end_code(self) -> int:
        return self.closing or self._peer_code

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
