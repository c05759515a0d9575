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

from service.core import messages
from service.core.close import CloseCode
from service.core.errors import EngineError, EngineUnavailable
from service.core.feed import Feed
from service.core.log import Page, assess
from service.core.position import BEGINNING, Position
from service.hub.hub import Hub
from service.hub.live import LiveChannel, Member

logger = logging.getLogger("herald.hub")

_RETRIES = 5
_RETRY_SECONDS = 0.5
_PAUSE_SECONDS = 0.02


class Start(NamedTuple):
    """Where a joining connection stands in a channel.

    Attributes:
        at: events follow from here.
        recovered: the client asked for what follows a position, and gets it exactly.
        gap_from: the client's position, where something after it may be missing.
        page: read after `asked`, not yet written; None where nothing is known to follow.
        crossed: the epoch into which a gap was told (see `core.log.assess`).
    """

    live: LiveChannel
    feed: Feed
    at: Position
    recovered: bool
    gap_from: Position | None
    page: Page | None
    asked: Position | None
    crossed: int | None


class Joining:
    """Joins connections to the hub's channels."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # What is written in one step beside what is waiting must leave room in the outbox.
        self._tail_bytes = hub.policy.send_queue_bytes // 2
        hub.demote = self._demote

    async def begin(self, channel: str, since: Position | None) -> Start:
        """Hold a channel and judge `since`.

        Ends with the channel held and its feed watched; `follow` or `abandon` comes next.

        Raises:
            EngineUnavailable, EngineError: nothing is held.
        """
        live, first = self._hub.hold(channel, since)
        try:
            feed, opening_page = await self._hub.opened(live)
        except BaseException:
            self._hub.release(live)
            raise
        try:
            return await self._judge(live, feed, since, opening_page if first else None)
        except BaseException:
            self._give_up(live, feed)
            raise

    async def _judge(
        self, live: LiveChannel, feed: Feed, since: Position | None, page: Page | None
    ) -> Start:
        if since is None:
            return Start(live, feed, feed.position, False, None, None, None, None)
        if page is None and since == feed.position and feed.crossing is None:
            self._hub.stats.resumed(exact=True)
            return Start(live, feed, since, True, None, None, None, None)
        asked = since
        if page is None:
            asked = min(since, feed.position)
            page = await self._hub.read(live.name, asked)
        if since > page.tip:
            # A position that this log never gave out gets everything.
            asked = BEGINNING
            page = await self._hub.read(live.name, asked)
        resumption = assess(since, page.tip, page.first)
        self._hub.stats.resumed(resumption.exact)
        at, exact = resumption.start, resumption.exact
        gap_from = None if exact else since
        # Who asks for what is retained misses nothing where an epoch of it ends.
        crossed = None if exact and since != BEGINNING else page.tip.epoch
        return Start(live, feed, at, exact, gap_from, page, asked, crossed)

    def abandon(self, start: Start) -> None:
        """Undo `begin`."""
        self._give_up(start.live, start.feed)

    def _give_up(self, live: LiveChannel, feed: Feed) -> None:
        feed.unwatch()
        self._hub.release(live)

    def follow(self, connection: Member, start: Start) -> None:
        """Tell the gap, replay, go live. Goes on by itself where it takes more than one step."""
        if connection.closing:
            self.abandon(start)
            return
        if start.gap_from is not None:
            self._hub.stats.gaps += 1
            connection.send(messages.gap(start.live.name, start.gap_from, start.at))
        at = self._write(connection, start.live, start.at, start.page)
        if self._arrive(connection, start.live, at, start.page, start.asked, start.crossed):
            start.feed.unwatch()
            return
        self._go_on(connection, start, at)

    def _go_on(self, connection: Member, start: Start, at: Position) -> None:
        if connection.following is None:
            connection.following = {}
        connection.following[start.live.name] = start
        connection.run(self._follow(connection, start, at))

    async def _follow(self, connection: Member, start: Start, at: Position) -> None:
        live, feed, crossed = start.live, start.feed, start.crossed
        page, asked = start.page, start.asked
        failures = 0
        went_back = False
        try:
            while True:
                await connection.drained()
                if not _is_wanted(connection, start):
                    return
                if self._arrive(connection, live, at, page, asked, crossed):
                    self._arrived(connection, live)
                    return
                asked = BEGINNING if went_back else min(at, feed.position)
                try:
                    page = await self._hub.read(live.name, asked)
                except (EngineUnavailable, EngineError):
                    failures += 1
                    if failures > _RETRIES:
                        connection.close(CloseCode.TRY_AGAIN_LATER, "the engine is away")
                        return
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                failures = 0
                if not _is_wanted(connection, start):
                    return
                if at > page.tip and not went_back:
                    # What the log has must be read from its beginning.
                    went_back, page = True, None
                    continue
                went_back = False
                resumption = assess(at, page.tip, page.first, crossed)
                if not resumption.exact:
                    self._hub.stats.gaps += 1
                    connection.send(messages.gap(live.name, at, resumption.start))
                    crossed = page.tip.epoch
                    at = resumption.start
                before, at = at, self._write(connection, live, at, page)
                if at == before:
                    await asyncio.sleep(_PAUSE_SECONDS)  # the feed is being mended
        finally:
            feed.unwatch()

    def _arrived(self, connection: Member, live: LiveChannel) -> None:
        assert connection.following is not None
        del connection.following[live.name]
        connection.following = connection.following or None

    def _write(
        self, connection: Member, live: LiveChannel, at: Position, page: Page | None
    ) -> Position:
        """Write what a page has after `at`; gives back the place then reached."""
        if page is None:
            return at
        frames = [live.frame(entry) for entry in page.entries if entry.position > at]
        if frames:
            self._hub.stats.events_replayed += len(frames)
            self._hub.stats.deliveries += len(frames)
            connection.write(b"".join(frames))
        return max(at, page.end)

    def _arrive(
        self,
        connection: Member,
        live: LiveChannel,
        at: Position,
        page: Page | None,
        asked: Position | None,
        crossed: int | None,
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
        if feed.crossing not in (None, crossed):
            return False  # the members were told a gap that this one was not
        if at < feed.position and not connection.congested:
            tail = feed.tail(at)
            if tail is None or sum(len(entry.fragment) for entry in tail) > self._tail_bytes:
                return False
            connection.write(b"".join([live.frame(entry) for entry in tail]))
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
        self._go_on(connection, Start(live, feed, since, True, None, None, None, None), since)


def _is_wanted(connection: Member, start: Start) -> bool:
    """Whether the client has not left meanwhile, be it to come again."""
    following = connection.following
    return following is not None and following.get(start.live.name) is start
