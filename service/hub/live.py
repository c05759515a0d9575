"""One channel that somebody here listens to."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Coroutine, Sequence
from itertools import chain, islice
from typing import Any, Literal, NamedTuple, Protocol

from service.core import messages, sse
from service.core.close import CloseCode
from service.core.feed import Feed
from service.core.frames import text_frame
from service.core.log import Entry, Gap, Page, Piece
from service.core.position import Position


class Listener(NamedTuple):
    """What is known of one member, for an operator.

    Attributes:
        name: the connection's id, as its `welcome` says.
        age: seconds since it was connected.
        waiting: bytes of all its channels that its peer has not taken yet.
        silent: seconds since its last sign of life.
        acked: the last event of this channel that it says to have dealt with.
    """

    name: str
    transport: Literal["websocket", "sse"]
    age: float
    waiting: int
    silent: float
    acked: Position | None


class Replays:
    """The channels that one connection is still being brought to.

    Attributes:
        tasks: by channel. One that is not here any more has been left, and is not to write.
        turn: one of them reads and writes at a time, so that all together hold one page.
    """

    __slots__ = ("tasks", "turn")

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.turn = asyncio.Lock()


class Member(Protocol):
    """What a channel needs of a connection.

    Attributes:
        takes_frames: it gets what all get, a WebSocket's frames; otherwise it is an `EventStream`.
        transport: where everything is written that does not go to many.
        fd: the socket's, for `hub.writing`.
        closing: not 0 once it has ended for us.
        congested: the client has still to read most of what was written.
        replays: the channels that it is still being brought to, or None where it is live in all.
    """

    takes_frames: bool
    transport: asyncio.Transport
    fd: int
    closing: int
    congested: bool
    replays: Replays | None

    def send(self, payload: bytes) -> None:
        """Send one message."""

    def deliver(self, live: LiveChannel, pieces: Sequence[Piece]) -> None:
        """Send events and gaps of a channel that this connection alone is owed."""

    def owe(
        self, channel: str, pieces: Sequence[Piece], blocks: Sequence[bytes], budget: int
    ) -> bool:
        """A stream's, see `EventStream.owe`; WebSockets are written to by `hub.writing`."""

    async def drained(self) -> None:
        """Wait until the client has read most of what was written, or is gone."""

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that ends with the connection."""

    def describe(self, channel: str) -> Listener:
        """What is known of it as a member of this channel."""

    def close(self, code: CloseCode, reason: str) -> None:
        """End it."""

    def break_off(self) -> None:
        """End it at once, without a word: what was written last may not be whole."""


class LiveChannel:
    """Its feed, its members, and what they are owed at the end of this turn of the loop.

    `members` have WebSockets, which all get the same bytes; `streams` are members as well, and each
    gets a text of its own. Members have exactly what the feed's position says; who is still being
    brought there only `holds` the channel. Frames are built once per event and joined once per
    turn, whoever and however many receive them.
    """

    __slots__ = (
        "accepted",
        "early",
        "entries",
        "fds",
        "fds_as_of",
        "feed",
        "fresh",
        "healing",
        "holds",
        "members",
        "name",
        "opening",
        "stale",
        "streams",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.holds = 0
        # In the order of their coming, which is about that of their memory, here and in the kernel.
        self.members: dict[Member, None] = {}
        self.streams: dict[Member, None] | None = None
        self.fds: array[int] | None = None  # the members', as `hub.writing` keeps them
        self.fds_as_of = 0
        self.feed: Feed | None = None
        self.opening: asyncio.Future[Page] | None = None
        self.healing = False
        self.stale = False  # pushes may have been lost while it was opened
        # None where empty: most channels are quiet, and an empty list is 56 bytes.
        self.early: list[tuple[Entry, int]] | None = None
        self.fresh: list[bytes] | None = None
        self.entries: list[Entry] | None = None  # of `fresh`, where there are streams
        self.accepted: list[int] | None = None

    def add(self, member: Member) -> None:
        """One more member."""
        if member.takes_frames:
            self.members[member] = None
            self.fds = None
        elif self.streams is None:
            self.streams = {member: None}
        else:
            self.streams[member] = None

    def has(self, member: Member) -> bool:
        """Whether it is a member."""
        return member in self.members or (self.streams is not None and member in self.streams)

    def remove(self, member: Member) -> None:
        """It is none any more."""
        if member.takes_frames:
            self.members.pop(member, None)
            self.fds = None
        elif self.streams is not None:
            self.streams.pop(member, None)
            self.streams = self.streams or None

    def count(self) -> int:
        """How many members there are."""
        return len(self.members) + len(self.streams or ())

    def listeners(self, most: int) -> list[Listener]:
        """The first of them."""
        members = islice(chain(self.members, self.streams or ()), most)
        return [member.describe(self.name) for member in members]

    def message(self, piece: Piece) -> bytes:
        """What is said of an event or a gap: JSON text."""
        if isinstance(piece, Gap):
            return messages.gap(self.name, *piece)
        prefix, position = messages.event_prefix(self.name), str(piece.position).encode()
        return b'%b%b",%b' % (prefix, position, piece.fragment)

    def frame(self, piece: Piece) -> bytes:
        """Its wire frame."""
        return text_frame(self.message(piece))

    def block(self, piece: Piece) -> bytes:
        """The same as a server-sent event, without its id."""
        return sse.message(self.message(piece))
