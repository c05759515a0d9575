"""Brings a connection into a channel: subscribed, then history, then live, without a seam.

How it works. `begin` holds the channel (its subscription is confirmed before anything is read) and
finds out what the client's position is worth; that much must be known for the `welcome`. `follow`
then writes pages of the log until the connection stands where the channel's feed stands, and makes
it a member: the test and the step happen without an `await` between them, so nothing can come
between. A client that reads slowly is waited for page by page: a replay of any size holds one page
of memory and never overflows the outbox.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from service.core.close import CloseCode
from service.core.errors import EngineError, EngineUnavailable
from service.core.feed import Feed
from service.core.log import Gap, Page, assess, count_gaps, read_on, weigh
from service.core.position import BEGINNING, Position
from service.hub.hub import Hub
from service.hub.live import LiveChannel, Member, Replays

logger = logging.getLogger("herald.hub")

_RETRIES = 5
_RETRY_SECONDS = 0.5
_PAUSE_SECONDS = 0.02
_KEPT_BYTES = 16 * 1024
"""A page up to this size is kept from judging a position to writing it."""


class Hold(NamedTuple):
    """A channel that is listened to for a connection on its way; `release` or `abandon` ends it.

    Attributes:
        opens: the channel is being opened for it, and `since` read in the same step.
    """

    live: LiveChannel
    since: Position | None
    opens: bool


class Start(NamedTuple):
    """Where a joining connection stands in a channel.

    Attributes:
        at: events follow from here.
        recovered: the client asked for what follows a position, and gets it exactly.
        gap_from: the client's position, where a gap from it to `at` is to be told first.
        page: read after `asked`, not yet written; None where nothing is known to follow.
        until: for who asked for what is retained, the log's tip then (see `core.log.read_on`).
    """

    live: LiveChannel
    feed: Feed
    at: Position
    recovered: bool
    gap_from: Position | None
    page: Page | None
    asked: Position | None
    until: Position


class Joining:
    """Joins connections to the hub's channels."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # What is written in one step beside what is waiting must leave room in the outbox.
        self._tail_bytes = hub.policy.send_queue_bytes // 2
        hub.demote = self._demote

    def hold(self, channel: str, since: Position | None) -> Hold:
        """The first step of a join; `begin` is the next."""
        live, opens = self._hub.hold(channel, since)
        return Hold(live, since, opens)

    def release(self, hold: Hold) -> None:
        """Undo `hold`, where `begin` did not succeed."""
        self._hub.release(hold.live)

    async def begin(self, hold: Hold) -> Start:
        """Judge the position of a held channel; `follow` or `abandon` comes next.

        Raises:
            EngineUnavailable, EngineError: the channel is still held.
        """
        feed, page = await self._hub.opened(hold.live)
        try:
            return await self._judge(hold.live, feed, hold.since, page if hold.opens else None)
        except BaseException:
            feed.unwatch()
            raise

    async def _judge(
        self, live: LiveChannel, feed: Feed, since: Position | None, page: Page | None
    ) -> Start:
        if since is None:
            return Start(live, feed, feed.position, False, None, None, None, BEGINNING)
        if page is None and since == feed.position and not live.healing:
            self._hub.stats.resumed(exact=True)
            return Start(live, feed, since, True, None, None, None, BEGINNING)
        asked = since
        if page is None:
            asked = min(since, feed.position)
            page = await self._hub.read(live.name, asked)
        if since > page.tip:
            # A position that this log never gave out gets everything.
            asked = BEGINNING
            page = await self._hub.read(live.name, asked)
        exact, at = assess(since, page.tip, page.first)
        self._hub.stats.resumed(exact)
        gap_from = None
        if not exact:
            first = next(iter(read_on(since, page).pieces), None)
            # Where it is no gap, that comes behind what is retained of the client's epoch.
            gap_from, at = first if isinstance(first, Gap) else (None, since)
        until = page.tip if since == BEGINNING else BEGINNING
        if weigh(page.entries) > _KEPT_BYTES:
            # Other channels may have as much: it is read again in its turn.
            return Start(live, feed, at, exact, gap_from, None, None, until)
        return Start(live, feed, at, exact, gap_from, page, asked, until)

    def abandon(self, start: Start) -> None:
        """Undo `hold` and `begin`."""
        start.feed.unwatch()
        self._hub.release(start.live)

    def follow(self, connection: Member, start: Start) -> None:
        """Tell the gap, replay, go live. Goes on by itself where it takes more than one step."""
        if connection.closing:
            self.abandon(start)
            return
        if start.gap_from is not None:
            self._hub.stats.gaps += 1
            connection.deliver(start.live, [Gap(start.gap_from, start.at)])
        if connection.congested:
            # Enough is waiting, be it other channels' pages: this one is read again in its time.
            self._go_on(connection, start._replace(page=None, asked=None), start.at)
            return
        at = self._write(connection, start.live, start.at, start.page, start.until)
        if self._arrive(connection, start.live, at, start.page, start.asked, start.until):
            start.feed.unwatch()
            return
        self._go_on(connection, start, at)

    def _go_on(self, connection: Member, start: Start, at: Position) -> None:
        if connection.replays is None:
            connection.replays = Replays()
        task = connection.run(self._follow(connection, start, at))
        connection.replays.tasks[start.live.name] = task
        # Not in the task: one that is cancelled before its first step runs nothing of itself.
        feed = start.feed
        task.add_done_callback(lambda _: feed.unwatch())

    async def _follow(self, connection: Member, start: Start, at: Position) -> None:
        place = _Place(at, start.until)
        live = start.live
        del start  # with its page, which is written
        failures = 0
        assert connection.replays is not None
        turn = connection.replays.turn
        while True:
            pause = 0.0
            async with turn:
                await connection.drained()
                try:
                    if await self._step(connection, live, place):
                        return
                    failures = 0
                    pause = _PAUSE_SECONDS if place.stuck else 0.0
                except (EngineUnavailable, EngineError):
                    failures += 1
                    pause = _RETRY_SECONDS
            if failures > _RETRIES:
                connection.close(CloseCode.TRY_AGAIN_LATER, "the engine is away")
                return
            if pause:
                await asyncio.sleep(pause)

    async def _step(self, connection: Member, live: LiveChannel, place: _Place) -> bool:
        """Arrive, or read and write one more page; True where there is nothing left to do."""
        feed = live.feed
        assert feed is not None
        if not _is_wanted(connection, live):
            return True
        if self._arrive(connection, live, place.at, None, None, place.until):
            _arrived(connection, live)
            return True
        asked = BEGINNING if place.went_back else min(place.at, feed.position)
        page = await self._hub.read(live.name, asked)
        if not _is_wanted(connection, live):
            return True
        if place.at > page.tip and not place.went_back:
            place.went_back = True  # what the log has must be read from its beginning
            return False
        place.went_back = False
        if page.tip < place.until:
            place.until = BEGINNING  # this is not the log that was asked for
        before, place.at = place.at, self._write(connection, live, place.at, page, place.until)
        place.stuck = place.at == before  # the feed is being mended
        # Without an `await` since the read, so the page is what the log is, as far as is known.
        if self._arrive(connection, live, place.at, page, asked, place.until):
            _arrived(connection, live)
            return True
        return False

    def _write(
        self,
        connection: Member,
        live: LiveChannel,
        at: Position,
        page: Page | None,
        until: Position,
    ) -> Position:
        """Write what a page has for who stands at `at`; gives back the place then reached."""
        if page is None:
            return at
        reading = read_on(at, page, until)
        if reading.pieces:
            gaps = count_gaps(reading.pieces)
            self._hub.stats.gaps += gaps
            self._hub.stats.events_replayed += len(reading.pieces) - gaps
            self._hub.stats.deliveries += len(reading.pieces) - gaps
            connection.deliver(live, reading.pieces)
        return reading.at

    def _arrive(
        self,
        connection: Member,
        live: LiveChannel,
        at: Position,
        page: Page | None,
        asked: Position | None,
        until: Position,
    ) -> bool:
        """Make the connection a member if it stands where the feed stands, or can be put there."""
        feed = live.feed
        assert feed is not None
        if page is not None and page.tip.epoch < feed.position.epoch:
            self._hub.heal(live)  # the log went back, and the feed has to
        ahead = page is not None and asked is not None and asked <= feed.position < at
        # Where the log is ahead of the pushes, the feed moves on with what was read.
        if page and asked and ahead and self._hub.pass_on(live, asked, page):
            self._hub.heal(live)
        if page is not None and not page.complete:
            return False
        if at < until:
            return False  # the members may still be told of an epoch's end that this one is not
        if at < feed.position and not connection.congested:
            tail = feed.tail(at)
            if tail is None or weigh(tail) > self._tail_bytes:
                return False
            connection.deliver(live, tail)
            self._hub.stats.deliveries += len(tail)
        elif at != feed.position or connection.congested:
            return False
        self._hub.admit(live, connection)
        return True

    def _demote(self, connection: Member, live: LiveChannel, since: Position) -> None:
        """A member falls back to `since` and comes forward again at its own pace."""
        feed = live.feed
        assert feed is not None
        feed.watch()
        self._go_on(connection, Start(live, feed, since, True, None, None, None, BEGINNING), since)


class _Place:
    """Where a replay stands.

    Attributes:
        at: the client has everything up to here.
        until: as in `Start`.
        went_back: the log's tip is before `at`.
        stuck: the last read brought nothing.
    """

    __slots__ = ("at", "stuck", "until", "went_back")

    def __init__(self, at: Position, until: Position) -> None:
        self.at = at
        self.until = until
        self.went_back = False
        self.stuck = False


def _is_wanted(connection: Member, live: LiveChannel) -> bool:
    """Whether the client has not left the channel meanwhile, be it to come again."""
    replays = connection.replays
    return replays is not None and replays.tasks.get(live.name) is asyncio.current_task()


def _arrived(connection: Member, live: LiveChannel) -> None:
    assert connection.replays is not None
    del connection.replays.tasks[live.name]
    if not connection.replays.tasks:
        connection.replays = None
