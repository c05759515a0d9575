"""The live end of one channel on one node: joins what is pushed with what is read from the log.

How it works. The engine pushes events at most once, so a push can be missing; the log has them
all. A feed knows the last position that its members have, and every member that is live has
exactly everything up to it: the sequence is checked once a channel, not once a connection.

* A push that follows the position is passed on; one at or before it was seen already.
* A push further on shows a hole. It is kept, the log is read after the position, and what was read
  and kept is spliced: `caught_up`.
* A client that comes with a position reads pages of the log until it stands where the feed stands
  (`tail` gives it what was pushed meanwhile), and is then a member. Where the page is ahead of the
  pushes, the feed moves ahead with it, and the late pushes are duplicates.
* What cannot be joined (trimmed, another epoch) is told with a `Gap` exactly where it is missing:
  whoever stands where the feed stands was told what its members were told.

Everything here is decided from arguments; the reading and sending is the hub's.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple

from service.core.log import Entry, Gap, Page, Piece, read_on, weigh
from service.core.position import Position

_RECENT_BYTES = 1 << 20
"""How much pushed JSON a feed keeps while someone needs it; beyond it the log is read again."""


class Push(Enum):
    """What a pushed event is to the feed."""

    NEXT = "next"
    SEEN = "seen"
    HOLE = "hole"


class CaughtUp(NamedTuple):
    """What the members get after a read: events and gaps, in this order.

    `again`: the log must be read once more, after the feed's new position.
    """

    pieces: list[Piece]
    again: bool


class Feed:
    """One channel's place in its log, shared by all its live members."""

    __slots__ = ("_recent", "_recent_bytes", "_watchers", "position")

    def __init__(self, position: Position) -> None:
        self.position = position
        self._watchers = 0
        # None where empty: an empty deque is 624 bytes, and most channels are quiet.
        self._recent: deque[Entry] | None = None
        self._recent_bytes = 0

    def watch(self) -> None:
        """Someone starts to read the log: keep what is pushed until `unwatch`."""
        self._watchers += 1

    def unwatch(self) -> None:
        """That reader is done."""
        self._watchers -= 1
        if not self._watchers:
            self._recent = None
            self._recent_bytes = 0

    def pushed(self, entry: Entry) -> Push:
        """Judge a pushed event; `NEXT` has moved the position to it.

        A push of a lower epoch is a hole too: the log was lost and begun again by an engine whose
        clock is behind.
        """
        position = entry.position
        if self.position.is_followed_by(position):
            self.position = position
            if self._watchers:
                self._keep(entry)
            return Push.NEXT
        if position <= self.position and position.epoch == self.position.epoch:
            return Push.SEEN
        self._keep(entry)
        return Push.HOLE

    def caught_up(self, since: Position, page: Page) -> CaughtUp:
        """Splice a page that was read after `since`, the feed's position when the read was sent."""
        if page.tip < since:
            # Not a late page: the log itself went back. Begin anew with what it has.
            floor = page.tip if page.first is None else page.first.before()
            gap = Gap(self.position, floor)
            self.position = floor
            return CaughtUp([gap], again=floor != page.tip)
        pieces: list[Piece] = []
        if page.end > self.position:
            reading = read_on(self.position, page)
            pieces += reading.pieces
            self.position = reading.at
        hole = False
        for entry in self._recent or ():
            if self.position.is_followed_by(entry.position):
                pieces.append(entry)
                self.position = entry.position
            elif entry.position > self.position:
                hole = True
                break
        return CaughtUp(pieces, again=hole or not page.complete)

    def tail(self, since: Position) -> list[Entry] | None:
        """What was pushed between `since` and the feed's position, or None where it is not kept.

        None means: read the log again.
        """
        at = since
        entries: list[Entry] = []
        for entry in self._recent or ():
            if at == self.position:
                break
            if at.is_followed_by(entry.position):
                entries.append(entry)
                at = entry.position
        return entries if at == self.position else None

    def forget_ahead(self) -> None:
        """Drop what was kept beyond the position, because the log is about to be read again.

        What that read does not have was lost with its engine: kept on, it would look like a hole
        for ever.
        """
        kept = [entry for entry in self._recent or () if entry.position <= self.position]
        self._recent = deque(kept) if kept else None
        self._recent_bytes = weigh(kept)

    def _keep(self, entry: Entry) -> None:
        if self._recent is None:
            self._recent = deque()
        self._recent.append(entry)
        self._recent_bytes += len(entry.fragment)
        while self._recent_bytes > _RECENT_BYTES and len(self._recent) > 1:
            self._recent_bytes -= len(self._recent.popleft().fragment)
