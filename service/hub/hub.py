"""Channel → connections. Passes pushed events on, and mends what the pushes lost.

One event's way: `_pushed` finds the channel (one look-up), its feed judges the position (once), the
frame is built (once) and put with what the channel's members are owed this turn; `_flush` writes it
to each of them. Whatever does not fit is read from the log by `_heal`.

A feed's position says what its members have. Where something fails between the one and the other,
for want of memory say, the members are broken off (`_break_off`): they come again, and from where
they stand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, NamedTuple

from service.core.close import CloseCode
from service.core.errors import EngineError, EngineUnavailable
from service.core.feed import Feed, Push
from service.core.log import Entry, Page, Piece, count_gaps
from service.core.position import Position
from service.hub.live import Listener, LiveChannel, Member
from service.hub.policy import HubPolicy
from service.hub.writing import Writer
from service.ports import EventLog, Instrumentation, Subscriptions
from service.supervision import fail_stop

logger = logging.getLogger("herald.hub")

_AUDIT_BATCH = 256
_RETRY_SECONDS = 0.2


class Audience(NamedTuple):
    """Who listens to a channel here.

    Attributes:
        position: those who listen were sent everything up to here; None where nobody does.
        listening: how many they are.
        joining: connections that are still on their way to that place.
        listeners: the first of those who listen.
    """

    position: Position | None
    listening: int
    joining: int
    listeners: list[Listener]


class Hub:
    """All channels and connections of this process."""

    def __init__(
        self,
        log: EventLog,
        subscriptions: Subscriptions,
        policy: HubPolicy,
        stats: Instrumentation,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._log = log
        self._subscriptions = subscriptions
        self.policy = policy
        self.stats = stats
        self.writer = Writer()
        self._channels: dict[str, LiveChannel] = {}
        self._dirty: deque[LiveChannel] = deque()
        self._reads = asyncio.Semaphore(policy.reads_in_flight)
        self._tasks: set[asyncio.Task[None]] = set()
        self.demote: Callable[[Member, LiveChannel, Position], None] = _refuse_to_demote
        """Brings a member that cannot take a large piece at once back to the place by itself."""
        subscriptions.on_pushed(self._pushed)
        subscriptions.on_restored(self.heal_all)

    # Counting

    def holders(self, channel: str) -> int:
        """Connections that listen to this channel here, or are about to."""
        live = self._channels.get(channel)
        return 0 if live is None else live.holds

    def count_users(self) -> int:
        """Users with a connection here."""
        return sum(1 for name in self._channels if name.startswith("user:"))

    def count_channels(self) -> int:
        """Channels that are listened to here."""
        return len(self._channels)

    def audience(self, channel: str, most: int) -> Audience:
        """Who listens to this channel here; at most `most` of them are described."""
        live = self._channels.get(channel)
        if live is None:
            return Audience(None, 0, 0, [])
        listening = live.count()
        position = live.feed.position if live.feed is not None and listening else None
        return Audience(position, listening, live.holds - listening, live.listeners(most))

    # Channels

    def hold(self, channel: str, since: Position | None) -> tuple[LiveChannel, bool]:
        """Begin to listen, or go on; `release` undoes it. Before its feed is used: `opened`.

        Where the channel must be opened, `since` is read in the same step, and the second value
        says so.
        """
        live = self._channels.get(channel)
        if live is None:
            live = self._channels[channel] = LiveChannel(channel)
        opens = live.feed is None and live.opening is None
        if opens:
            live.opening = self._begin_to_open(live, since)
        live.holds += 1
        return live, opens

    async def opened(self, live: LiveChannel) -> tuple[Feed, Page | None]:
        """The feed, watched for the caller, who must `unwatch` it; and the page of `hold`.

        Raises:
            EngineUnavailable, EngineError
        """
        page = None
        while page is None and (opening := live.opening) is not None:
            try:
                page = await asyncio.shield(opening)
            except (EngineUnavailable, EngineError):
                if live.opening is None or live.opening is opening:
                    raise
        feed = live.feed
        if feed is not None:
            feed.watch()
            return feed, page
        if page is None:
            raise EngineUnavailable("The channel could not be opened.")
        # The first holder that gets here: what was pushed since the page was read follows it.
        feed = live.feed = Feed(page.tip)
        live.opening = None
        feed.watch()
        early, live.early = live.early or [], None
        for entry, accepted in early:
            self._pushed(live.name, entry, accepted)
        if live.stale:
            live.stale = False
            self.heal(live)
        return feed, page

    def release(self, live: LiveChannel) -> None:
        """The opposite of `hold`."""
        live.holds -= 1
        if live.holds == 0:
            if live.opening is not None:
                live.opening.cancel()
            del self._channels[live.name]
            self._subscriptions.unsubscribe(live.name)

    def admit(self, live: LiveChannel, connection: Member) -> None:
        """Make a holder a member: it has exactly what the feed's position says."""
        # What the members are still owed this turn, the new one has already.
        if live.fresh is not None:
            self._flush_channel(live)
        live.add(connection)

    def leave(self, connection: Member, channel: str, *, following: bool) -> None:
        """A member goes, or one that was `following` on its way to be one."""
        live = self._channels.get(channel)
        if live is None:
            return
        if live.has(connection):
            # What was pushed in this turn was pushed while it was a member.
            if live.fresh is not None and not connection.closing:
                self._flush_channel(live)
            live.remove(connection)
            self.release(live)
        elif following:
            self.release(live)

    async def read(self, channel: str, after: Position | None) -> Page:
        """Read a page of a log; only so many at a time.

        Raises:
            EngineUnavailable, EngineError
        """
        async with self._reads:
            return await self._log.read(channel, after)

    def _begin_to_open(self, live: LiveChannel, since: Position | None) -> asyncio.Future[Page]:
        quick = self._log.open(live.name, since)
        if quick is None:
            return self._open_in_steps(live, since)

        def done(quick: asyncio.Future[Page]) -> None:
            if not quick.cancelled() and quick.exception() is not None and live.opening is quick:
                live.opening = self._open_in_steps(live, since)

        quick.add_done_callback(done)
        return quick

    def _open_in_steps(self, live: LiveChannel, since: Position | None) -> asyncio.Future[Page]:
        task = self._loop.create_task(self._open(live, since))
        task.add_done_callback(_retrieve)
        return task

    async def _open(self, live: LiveChannel, since: Position | None) -> Page:
        try:
            await self._subscriptions.subscribe(live.name)
            # Only now: what is not in this page will be pushed.
            return await self.read(live.name, since)
        except BaseException:
            live.opening = None  # the next holder tries again
            raise

    # Events

    def _pushed(self, channel: str, entry: Entry, accepted: int) -> None:
        self.stats.pushes += 1
        live = self._channels.get(channel)
        if live is None:
            return  # given up a moment ago
        try:
            self._take(live, entry, accepted)
        except Exception:
            live.stale = live.feed is None
            self._break_off(live)

    def _take(self, live: LiveChannel, entry: Entry, accepted: int) -> None:
        feed = live.feed
        if feed is None:
            if live.early is None:
                live.early = []
            live.early.append((entry, accepted))
            return
        verdict = feed.pushed(entry)
        if verdict is Push.NEXT:
            self._owe(live, entry, accepted)
        elif verdict is Push.HOLE:
            self.heal(live)
        else:
            self.stats.duplicate_pushes += 1

    def _owe(self, live: LiveChannel, entry: Entry, accepted: int) -> None:
        if live.fresh is None:
            live.fresh = []
            live.accepted = []
            if not self._dirty:
                self._loop.call_soon(self._flush)
            self._dirty.append(live)
        live.fresh.append(live.frame(entry))
        if live.streams is not None:
            if live.entries is None:
                live.entries = []
            live.entries.append(entry)
        assert live.accepted is not None
        live.accepted.append(accepted)

    def _flush(self) -> None:
        """The end of the turn: write to every member what its channels owe it."""
        while self._dirty:
            live = self._dirty.popleft()
            if live.fresh is not None:
                self._flush_channel(live)

    def _flush_channel(self, live: LiveChannel) -> None:
        try:
            self._write_fresh(live)
        except Exception:
            self._break_off(live)

    def _write_fresh(self, live: LiveChannel) -> None:
        frames, entries, accepted = live.fresh, live.entries, live.accepted
        live.fresh = live.entries = live.accepted = None
        if not frames or not accepted or not (live.members or live.streams):
            return
        if live.members:
            self._write(live, frames, self._cut_off)
        if entries:
            self._feed_streams(live, entries, self._cut_off)
        now = time.time()
        for microseconds in accepted:
            self.stats.written(now - microseconds / 1e6)

    def _write(
        self,
        live: LiveChannel,
        frames: list[bytes],
        too_slow: Callable[[Member], None],
    ) -> None:
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        slow = self.writer.write(live, data, self.policy.send_queue_bytes)
        written = len(live.members) - len(slow)
        self.stats.deliveries += written * len(frames)
        self.stats.delivered_bytes += written * len(data)
        for member in slow:
            too_slow(member)

    def _feed_streams(
        self,
        live: LiveChannel,
        pieces: Sequence[Piece],
        too_slow: Callable[[Member], None],
    ) -> None:
        blocks = [live.block(piece) for piece in pieces]
        events = len(pieces) - count_gaps(pieces)
        for stream in list(live.streams or ()):
            if stream.owe(live.name, pieces, blocks, self.policy.send_queue_bytes):
                self.stats.deliveries += events
            else:
                too_slow(stream)

    def _cut_off(self, connection: Member) -> None:
        connection.close(CloseCode.SLOW_CONSUMER, "reads too slowly")

    def _break_off(self, live: LiveChannel) -> None:
        """In an `except` block: what the members are owed is lost, so nothing may follow it."""
        try:
            live.fresh = live.entries = live.accepted = None
            for member in [*live.members, *(live.streams or ())]:
                member.break_off()
        except MemoryError:
            fail_stop(b"herald: out of memory, and no way to break connections off; ending\n")
        with contextlib.suppress(MemoryError):
            logger.exception("events could not be passed on; their connections are broken off")

    # Mending

    def heal_all(self, channels: Collection[str]) -> None:
        """Pushes of these channels may be missing: read them all."""
        logger.info("reading channels again", extra={"channels": len(channels)})
        for name in channels:
            live = self._channels.get(name)
            if live is None:
                continue  # given up meanwhile
            if live.feed is not None:
                self.heal(live)
            else:
                live.stale = True  # its page may have been read before the loss

    def heal(self, live: LiveChannel) -> None:
        """Pushes of this channel are missing: read them from the log."""
        if not live.healing:
            self._spawn(self._heal(live))
            live.healing = True
            self.stats.heals += 1

    async def _heal(self, live: LiveChannel) -> None:
        feed = live.feed
        assert feed is not None
        feed.watch()
        try:
            again = True
            while again and live.holds:
                since = feed.position
                try:
                    page = await self.read(live.name, since)
                except Exception:
                    # A link that comes back starts this again by itself (`heal_all`), but other
                    # troubles pass without a sign.
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                again = self.pass_on(live, since, page)
                if again:
                    feed.forget_ahead()  # the next read has it
                if again and feed.position == since:
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            live.healing = False
            feed.unwatch()

    def pass_on(self, live: LiveChannel, since: Position, page: Page) -> bool:
        """Move the feed on with a page that was read after `since`, and tell its members.

        Returns whether the log must be read again.
        """
        try:
            return self._pass_on(live, since, page)
        except Exception:
            self._break_off(live)
            return True

    def _pass_on(self, live: LiveChannel, since: Position, page: Page) -> bool:
        feed = live.feed
        assert feed is not None
        if live.fresh is not None:
            self._flush_channel(live)
        before = feed.position
        caught = feed.caught_up(since, page)
        if caught.pieces and (live.members or live.streams):
            everyone = len(live.members) + len(live.streams or ())
            self.stats.gaps += count_gaps(caught.pieces) * everyone

            def by_itself(member: Member) -> None:
                # A large piece after an outage is nobody's slowness.
                self.demote(member, live, before)
                live.remove(member)

            if live.members:
                self._write(live, [live.frame(piece) for piece in caught.pieces], by_itself)
            if live.streams:
                self._feed_streams(live, caught.pieces, by_itself)
        return caught.again

    async def audit(self) -> None:
        """Compare positions with the logs, for ever: finds a lost push that no other followed."""
        interval = self.policy.position_check_interval
        while True:
            await asyncio.sleep(interval)
            names = list(self._channels)
            pause = interval / 2 / max(1, len(names) / _AUDIT_BATCH)
            for start in range(0, len(names), _AUDIT_BATCH):
                try:
                    await self._audit_batch(names[start : start + _AUDIT_BATCH])
                except (EngineUnavailable, EngineError):
                    break  # the reconnect reads everything anyway
                except Exception:
                    logger.exception("an audit failed")
                await asyncio.sleep(min(pause, 1.0))

    async def _audit_batch(self, names: list[str]) -> None:
        feeds = {
            name: (live, live.feed.position)
            for name in names
            if (live := self._channels.get(name)) is not None and live.feed is not None
        }
        tips = await self._log.tips(list(feeds))
        behind: list[tuple[LiveChannel, Position | None]] = []
        for (live, position), tip in zip(feeds.values(), tips, strict=True):
            if tip is None or tip < position or tip > position:
                behind.append((live, tip))
        if behind:
            # The push of what is newer may be on its way.
            await asyncio.sleep(min(0.5, self.policy.position_check_interval / 2))
        for live, tip in behind:
            if not live.holds or live.feed is None:
                continue
            if tip is None or tip > live.feed.position or tip.epoch < live.feed.position.epoch:
                logger.warning("a push was lost; reading the log")
                self.heal(live)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop the mending."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _retrieve(task: asyncio.Future[Page]) -> None:
    # All who waited may be gone; a failure that nobody asks for is no error.
    if not task.cancelled():
        task.exception()


def _refuse_to_demote(connection: Member, live: LiveChannel, since: Position) -> None:
    connection.close(CloseCode.SLOW_CONSUMER, "reads too slowly")
