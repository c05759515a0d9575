"""One channel that somebody here listens to."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Coroutine
from typing import Any, Protocol

from service.core import messages
from service.core.close import CloseCode
from service.core.feed import Feed
from service.core.frames import text_frame
from service.core.log import Entry, Page


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
        transport: where everything is written that does not go to many.
        fd: the socket's, for `hub.writing`.
        closing: not 0 once it has ended for us.
        congested: the client has still to read most of what was written.
        replays: the channels that it is still being brought to, or None where it is live in all.
    """

    transport: asyncio.Transport
    fd: int
    closing: int
    congested: bool
    replays: Replays | None

    def send(self, payload: bytes) -> None:
        """Send one message."""

    def write(self, data: bytes) -> None:
        """Write whole frames."""

    async def drained(self) -> None:
        """Wait until the client has read most of what was written, or is gone."""

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that ends with the connection."""

    def close(self, code: CloseCode, reason: str) -> None:
        """End it."""


class LiveChannel:
    """Its feed, its members, and what they are owed at the end of this turn of the loop.

    Members have exactly what the feed's position says; who is still being brought there only
    `holds` the channel. Frames are built once per event and joined once per turn, whoever and
    however many receive them.
    """

    __slots__ = (
        "accepted",
        "early",
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
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.holds = 0
        # In the order of their coming, which is about that of their memory, here and in the kernel.
        self.members: dict[Member, None] = {}
        self.fds: array[int] | None = None  # the members', as `hub.writing` keeps them
        self.fds_as_of = 0
        self.feed: Feed | None = None
        self.opening: asyncio.Future[Page] | None = None
        self.healing = False
        self.stale = False  # pushes may have been lost while it was opened
        # None where empty: most channels are quiet, and an empty list is 56 bytes.
        self.early: list[tuple[Entry, int]] | None = None
        self.fresh: list[bytes] | None = None
        self.accepted: list[int] | None = None

    def frame(self, entry: Entry) -> bytes:
        """The wire frame of an event."""
        return text_frame(
            b'%b%b",%b'
            % (
                messages.event_prefix(self.name),
                str(entry.position).encode(),
                entry.fragment,
            )
        )
