"""One client's stream of server-sent events (docs/sse.md), after its head was written.

It says what a WebSocket would say, each message with an id from which all channels can be resumed,
and hears nothing: what the client wants was in its request. That it lives is seen by its system
acknowledging what was written, a comment at least.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from service.core import messages, sse
from service.core.close import CloseCode
from service.core.heartbeat import ping_due
from service.core.log import Gap, Piece
from service.core.outbox import overflows
from service.core.position import Position
from service.core.session import Session
from service.hub.connection import Connection, Ending, Host
from service.hub.live import LiveChannel
from service.hub.outstanding import outstanding
from service.hub.writing import BEHIND


class EventStream(Connection):
    """See the module's text. `positions`: where its channels stand before anything is sent."""

    takes_frames = False

    __slots__ = ("_acknowledged", "_bookmark", "_next_ping", "_ping_end", "_written")

    def __init__(
        self,
        host: Host,
        transport: asyncio.Transport,
        session: Session,
        serial: int,
        now: float,
        positions: Mapping[str, Position],
    ) -> None:
        super().__init__(host, transport, session, serial, now)
        self.fd = BEHIND  # every stream has a text of its own
        self._written = 0  # bytes
        self._acknowledged = 0  # of them, when that was last looked at
        self._ping_end = 0  # of them, up to the end of the last ping
        self._bookmark = sse.Bookmark(positions)
        self._next_ping = ping_due(now, serial, host.policy.heartbeat_interval)

    def start(self, head: bytes) -> None:
        """Take the transport over; `head` comes before the messages."""
        transport = self.transport
        transport.set_protocol(self)
        if transport.get_write_buffer_size():
            # Answers to requests before this one are still to be read. A transport that is full
            # says so once, which whoever had it then was told; that it is empty is told to us.
            self.congested = True
            transport.set_write_buffer_limits(high=0)
        transport.write(head)
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Whatever a client sends behind its request is not for us."""

    # Writing

    def send(self, payload: bytes) -> None:
        """See `Connection.send`."""
        self.write(sse.message(payload))

    def welcome(self, payload: bytes) -> None:
        """See `Connection.welcome`; with the id of where the stream begins."""
        self.write(self._bookmark.id() + sse.message(payload))

    def deliver(self, live: LiveChannel, pieces: Sequence[Piece]) -> None:
        """See `Connection.deliver`."""
        self.write(self._text(live.name, pieces, [live.block(piece) for piece in pieces]))

    def owe(
        self, channel: str, pieces: Sequence[Piece], blocks: Sequence[bytes], budget: int
    ) -> bool:
        """Send what all members of a channel get; False where over `budget` bytes would wait.

        Where it is False nothing was sent. `blocks`: of the pieces, as `LiveChannel.block` makes
        them.
        """
        before = self._bookmark.place(channel)
        data = self._text(channel, pieces, blocks)
        if overflows(self.transport.get_write_buffer_size(), len(data), budget):
            self._bookmark.put_back(channel, before)
            return False
        self.write(data)
        return True

    def _text(self, channel: str, pieces: Sequence[Piece], blocks: Sequence[bytes]) -> bytes:
        text: list[bytes] = []
        for piece, block in zip(pieces, blocks, strict=True):
            self._bookmark.move(channel, piece.to if isinstance(piece, Gap) else piece.position)
            text += (self._bookmark.id(), block)
        return b"".join(text)

    def _put(self, data: bytes) -> None:
        if self._gathered is None:
            self._written += len(data)
        super()._put(data)

    # Time

    def _next_look(self) -> float:
        return min(self._next_ping, self._verdict_due()) if self._pinged_at else self._next_ping

    def _verdict_due(self) -> float:
        """When the last ping must have been acknowledged; where we were late with it, later."""
        policy = self._host.policy
        pinged = max(self._seen + policy.heartbeat_interval, self._pinged_at)
        return pinged + policy.heartbeat_timeout

    def _lives(self, now: float) -> bool:
        acknowledged = self._written - outstanding(self.transport, self.fd)
        if acknowledged > self._acknowledged:
            self._acknowledged = acknowledged
            # When that was is not known: since the last ping at least, if it has that; if not, it
            # still reads what was sent before.
            has_ping = acknowledged >= self._ping_end
            self._seen = max(self._seen, self._pinged_at) if has_ping else now
        if acknowledged < self._ping_end and now >= self._verdict_due():
            return False
        if now >= self._next_ping:
            self._pinged_at = now
            self._next_ping = ping_due(now, self.serial, self._host.policy.heartbeat_interval)
            self._host.stats.pings += 1
            self._put(sse.HEARTBEAT)
            self._ping_end = self._written
        return True

    # Ways out

    def dismiss(self, after_ms: int) -> None:
        """See `Connection.dismiss`."""
        if not self.closing:
            self.send(messages.reconnect(after_ms))
            self.close(CloseCode.RESTART, "the server restarts")

    def _say_goodbye(self, code: CloseCode, reason: str, ending: Ending) -> None:
        self.transport.write(sse.message(messages.close(code, reason)))
        self.transport.close()
