"""One channel that somebody here listens to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from service.core import messages
from service.core.feed import Feed
from service.core.frames import text_frame
from service.core.log import Entry, Page

if TYPE_CHECKING:
    from service.hub.connection import Connection


class LiveChannel:
    """Its feed, its members, and what they are owed at the end of this turn of the loop.

    Members have exactly what the feed's position says; who is still being brought there only
    `holds` the channel. Frames are built once per event and joined once per turn, whoever and
    however many receive them.
    """

    __slots__ = (
        "accepted",
        "early",
        "feed",
        "fresh",
        "healing",
        "holds",
        "members",
        "name",
        "opening",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.holds = 0
        self.members: set[Connection] = set()
        self.feed: Feed | None = None
        self.opening: asyncio.Task[Page] | None = None
        self.healing = False
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
