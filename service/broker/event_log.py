"""Publishing to and reading from the channels' logs."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.broker import keys, scripts
from service.broker.copies import UNCOPIED, Copies
from service.broker.keeper import LinkKeeper
from service.broker.link import Argument, Link
from service.broker.subscriber import Subscriber
from service.core.errors import (
    EngineError,
    EngineUnavailable,
    HeraldError,
    IdempotencyConflict,
    NotCopied,
    Overloaded,
)
from service.core.event import Event, encode_fragment, fingerprint
from service.core.log import Entry, Page
from service.core.position import Position
from service.core.principal import Publisher
from service.ports import Receipt

logger = logging.getLogger("herald.engine")

_receipts: set[asyncio.Task[Receipt]] = set()  # the loop itself holds tasks only weakly

PATIENCE = 1.0
"""Seconds that a command waits for a lost link to come back before it fails."""
_META_EXTRA_TTL = 30 * 86400
"""Seconds that a log's last position outlives its events: as long, an absent client resumes
without a gap where nothing was published. About 150 bytes of engine memory a channel."""
_LITTLE = 200
"""Bytes in flight that are no event: a probe, a question."""
_LOAD_SECONDS = 5.0
_PEEK_EVENTS, _PEEK_BYTES = 100, 16 * 1024
"""Of the page that is read where a channel is opened, on the link that the pushes come through."""
_ID_TTL = 300
"""Seconds that an idempotency id holds (contract)."""
TOO_MANY_EVENTS = "Too many events are in flight to the engine; try again soon."
TOO_MANY_BYTES = "Too many bytes are in flight to the engine; try again soon."


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """How much is retained, read and in flight.

    Attributes:
        history_size: events per channel.
        history_ttl: seconds after a channel's last event.
        page_bytes: JSON after which a page ends.
        max_in_flight: publish commands without an answer.
        max_bytes: of publish commands without an answer.
        copies: what replicas must have before an event is answered; None: nothing.
    """

    history_size: int
    history_ttl: float
    page_bytes: int = 256 * 1024
    max_in_flight: int = 20_000
    max_bytes: int = 64 << 20
    copies: Copies | None = None


class Commands:
    """Builds the commands that store and read events."""

    def __init__(self, policy: LogPolicy) -> None:
        self._policy = policy
        self._log_ttl = str(round(policy.history_ttl * 1000))
        self._meta_ttl = str(round((policy.history_ttl + _META_EXTRA_TTL) * 1000))
        self._size = str(policy.history_size)
        # WAIT is about what a connection wrote, so that a known id must be written again.
        self._rewrite = () if policy.copies is None else (b"1",)
        self._node = secrets.token_hex(8)
        self._serial = itertools.count(1)

    def new_id(self) -> str:
        """For an event whose publisher gave none."""
        return f"{self._node}-{next(self._serial):x}"

    def publish(
        self,
        event: Event,
        publisher: Publisher,
        fragment: bytes,
        accepted: bytes,
        mark: str | None,
    ) -> list[tuple[Argument, ...]]:
        """One per channel; `mark` is the payload's fingerprint where the event has an id."""
        ttl = b"" if event.ttl_ms is None else b"%d" % event.ttl_ms
        commands: list[tuple[Argument, ...]] = []
        if event.id is None:
            for channel in event.channels:
                commands.append(
                    (
                        b"EVALSHA",
                        scripts.PUBLISH.sha,
                        b"2",
                        keys.meta_key(channel),
                        keys.log_key(channel),
                        fragment,
                        keys.live_channel(channel),
                        self._size,
                        self._log_ttl,
                        self._meta_ttl,
                        accepted,
                        ttl,
                    )
                )
        else:
            assert mark is not None
            for channel in event.channels:
                commands.append(
                    (
                        b"EVALSHA",
                        scripts.PUBLISH.sha,
                        b"3",
                        keys.meta_key(channel),
                        keys.log_key(channel),
                        keys.idempotency_key(channel, publisher.name, event.id),
                        fragment,
                        keys.live_channel(channel),
                        self._size,
                        self._log_ttl,
                        self._meta_ttl,
                        accepted,
                        ttl,
                        mark,
                        str(_ID_TTL * 1000),
                        *self._rewrite,
                    )
                )
        return commands

    def peek(self, channel: str, after: Position | None) -> tuple[Argument, ...]:
        """A small page, which does not hold up what comes behind it."""
        return self._read(channel, after, _PEEK_EVENTS, _PEEK_BYTES)

    def read(self, channel: str, after: Position | None, limit: int | None) -> tuple[Argument, ...]:
        """One page."""
        most = self._policy.history_size if limit is None else limit
        return self._read(channel, after, most, self._policy.page_bytes)

    def _read(
        self, channel: str, after: Position | None, events: int, size: int
    ) -> tuple[Argument, ...]:
        return (
            b"EVALSHA",
            scripts.READ.sha,
            b"2",
            keys.meta_key(channel),
            keys.log_key(channel),
            b"" if after is None else str(after),
            events,
            size,
            self._meta_ttl,
        )


class RedisEventLog:
    """The `EventLog` port over two links, so that large reads do not delay publishing."""

    def __init__(
        self,
        publish: LinkKeeper,
        read: LinkKeeper,
        subscriptions: Subscriber,
        policy: LogPolicy,
    ) -> None:
        self._publish = publish
        self._read = read
        self._subscriptions = subscriptions
        self._policy = policy
        self._commands = Commands(policy)

    def submit_now(self, event: Event, publisher: Publisher) -> RedisSubmission | None:
        """See `EventLog.submit_now`."""
        link = self._publish.link
        if link is None or must_look_first(event):
            return None
        return self._submit(link, event, publisher)

    async def submit(self, event: Event, publisher: Publisher) -> RedisSubmission:
        """See `EventLog.submit`."""
        link = self._publish.link or await self._publish.wait_open(PATIENCE)
        if must_look_first(event):
            await self._check_ids(link, event, publisher, fingerprint(event))
        return self._submit(link, event, publisher)

    def _submit(self, link: Link, event: Event, publisher: Publisher) -> RedisSubmission:
        if link.in_flight + len(event.channels) > self._policy.max_in_flight:
            raise Overloaded(TOO_MANY_EVENTS)
        now = time.time()
        fragment = encode_fragment(event, int(now * 1000))
        waiting, added = link.in_flight_bytes, len(fragment) * len(event.channels)
        if waiting > _LITTLE and waiting + added > self._policy.max_bytes:
            raise Overloaded(TOO_MANY_BYTES)
        mark = None if event.id is None else fingerprint(event)
        accepted = b"%d" % (now * 1e6)
        commands = self._commands.publish(event, publisher, fragment, accepted, mark)
        event_id = self._commands.new_id() if event.id is None else event.id
        return RedisSubmission(event_id, event.channels, commands, link)

    def open(self, channel: str, after: Position | None) -> asyncio.Future[Page] | None:
        """See `EventLog.open`."""
        return paged(self._subscriptions.open(channel, self._commands.peek(channel, after)))

    async def read(self, channel: str, after: Position | None, limit: int | None = None) -> Page:
        """See `EventLog.read`."""
        link = self._read.link or await self._read.wait_open(PATIENCE)
        return page_of(await link.call(*self._commands.read(channel, after, limit)))

    async def tips(self, channels: Sequence[str]) -> list[Position | None]:
        """See `EventLog.tips`."""
        link = self._read.link or await self._read.wait_open(PATIENCE)
        replies = await link.call(b"MGET", *map(keys.meta_key, channels)) if channels else []
        return [tip_of(reply) for reply in replies]

    async def _check_ids(self, link: Link, event: Event, publisher: Publisher, mark: str) -> None:
        # Each channel is its own atomic step, so a conflict on the last one would be found after
        # the others are stored; look before, so that a reused id stores nothing anywhere.
        assert event.id is not None
        known = await asyncio.gather(
            *(
                link.call(b"GET", keys.idempotency_key(channel, publisher.name, event.id))
                for channel in event.channels
            )
        )
        refuse_conflicts(event.channels, known, mark)


def must_look_first(event: Event) -> bool:
    """Whether an event's id must be looked up on all of its channels before it is stored on one."""
    return event.id is not None and len(event.channels) > 1


class Receipts:
    """The half of a `Submission` that makes the receipt of the replies."""

    __slots__ = ("_channels", "_id")

    def __init__(self, event_id: str, channels: tuple[str, ...]) -> None:
        self._id = event_id
        self._channels = channels

    async def receipt(self) -> Receipt:
        """See `Submission.receipt`."""
        positions: dict[str, str] = {}
        uncopied: dict[str, str] = {}
        conflicts: list[str] = []
        failure: HeraldError | None = None
        stored = False
        for index, channel in enumerate(self._channels):
            try:
                status, position = await self._reply(index)
            except EngineUnavailable as error:
                failure = error
                continue
            except EngineError as error:
                logger.error("engine refused an event", extra={"reason": str(error)})
                failure = error
                continue
            if status == b"conflict":
                conflicts.append(channel)
                continue
            if status == UNCOPIED:
                uncopied[channel] = position.decode()
                continue
            stored = stored or status == b"stored"
            positions[channel] = position.decode()
        if failure is None and uncopied:
            failure = NotCopied(uncopied)
        if failure is None and conflicts:
            failure = IdempotencyConflict(conflicts)
        return Receipt(self._id, positions, not stored and failure is None, failure)

    def then(self, tell: Callable[[Receipt], None]) -> None:
        """See `Submission.then`."""
        if len(self._channels) > 1:
            self._then_later(tell)
            return

        def replied(reply: asyncio.Future[Any]) -> None:
            # Anything but plain success is dealt with where all of that is.
            if reply.exception() is not None or reply.result()[0] != b"stored":
                self._then_later(tell)
            else:
                position = reply.result()[1].decode()
                tell(Receipt(self._id, {self._channels[0]: position}, False, None))

        self._outcome(0).add_done_callback(replied)

    def _then_later(self, tell: Callable[[Receipt], None]) -> None:
        task = asyncio.get_running_loop().create_task(self.receipt())
        _receipts.add(task)

        def done(task: asyncio.Task[Receipt]) -> None:
            _receipts.discard(task)
            if not task.cancelled():
                tell(task.result())

        task.add_done_callback(done)

    def _outcome(self, index: int) -> asyncio.Future[Any]:
        """The first reply to the command for this channel."""
        raise NotImplementedError

    async def _reply(self, index: int) -> tuple[bytes, bytes]:
        """The last one."""
        raise NotImplementedError


class RedisSubmission(Receipts):
    """The `Submission` port: one script call per channel, sent when this is made."""

    __slots__ = ("_link", "_replies")

    def __init__(
        self,
        event_id: str,
        channels: tuple[str, ...],
        commands: list[tuple[Argument, ...]],
        link: Link,
    ) -> None:
        super().__init__(event_id, channels)
        self._link = link
        self._replies = [link.call(*command) for command in commands]

    @property
    def lost(self) -> bool:
        """See `Submission.lost`."""
        return self._link.closed.done()

    def _outcome(self, index: int) -> asyncio.Future[Any]:
        return self._replies[index]

    async def _reply(self, index: int) -> tuple[bytes, bytes]:
        reply = await self._replies[index]
        return reply[0], reply[1]


async def load_scripts(link: Link) -> None:
    """Teach the engine the scripts; a restarted engine has forgotten them.

    Raises:
        EngineError, EngineUnavailable, TimeoutError
    """
    async with asyncio.timeout(_LOAD_SECONDS):
        await link.learn([s.source for s in (scripts.PUBLISH, scripts.READ, scripts.PROBE)])


def _position(text: bytes) -> Position:
    epoch, _, seq = text.partition(b"-")
    return Position(int(epoch), int(seq))


def refuse_conflicts(channels: Sequence[str], known: Sequence[bytes | None], mark: str) -> None:
    """Hold an id's keys against the payload's fingerprint.

    Raises:
        IdempotencyConflict
    """
    conflicts = [
        channel
        for channel, value in zip(channels, known, strict=True)
        if value is not None and value.partition(b" ")[0] != mark.encode()
    ]
    if conflicts:
        raise IdempotencyConflict(conflicts)


def tip_of(meta: bytes | None) -> Position | None:
    """The position that a meta key holds."""
    if meta is None:
        return None
    epoch, seq, _ = meta.split(b" ")
    return Position(int(epoch), int(seq))


def paged(reply: asyncio.Future[Any] | None) -> asyncio.Future[Page] | None:
    """The page that a reply will hold."""
    if reply is None:
        return None
    page: asyncio.Future[Page] = reply.get_loop().create_future()

    def replied(reply: asyncio.Future[Any]) -> None:
        if page.done():
            reply.cancelled() or reply.exception()
        elif (error := reply.exception()) is not None:
            page.set_exception(error)
        else:
            page.set_result(page_of(reply.result()))

    reply.add_done_callback(replied)
    return page


def page_of(reply: list[Any]) -> Page:
    """The reply of the reading script."""
    tip, first, end = reply[0], reply[1], reply[2]
    entries = [
        Entry(_position(reply[index]), reply[index + 1]) for index in range(3, len(reply), 2)
    ]
    return Page(
        tip=_position(tip),
        first=_position(first) if first else None,
        entries=entries,
        end=_position(end),
        complete=end == tip,
    )
