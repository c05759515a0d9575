"""Publishing to and reading from the channels' logs."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.broker import keys, scripts
from service.broker.keeper import LinkKeeper
from service.broker.link import Argument, Link
from service.core.errors import (
    EngineError,
    EngineUnavailable,
    HeraldError,
    IdempotencyConflict,
    Overloaded,
)
from service.core.event import Event, encode_fragment, fingerprint
from service.core.log import Entry, Page
from service.core.position import Position
from service.core.principal import Publisher
from service.ports import Receipt

logger = logging.getLogger("herald.engine")

_PATIENCE = 1.0
"""Seconds that a command waits for a lost link to come back before it fails."""
_META_EXTRA_TTL = 30 * 86400
"""Seconds that a log's last position outlives its events: as long, an absent client resumes
without a gap where nothing was published. About 150 bytes of engine memory a channel."""
_LOAD_SECONDS = 5.0
_ID_TTL = 300
"""Seconds that an idempotency id holds (contract)."""


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """How much is retained, read and in flight.

    Attributes:
        history_size: events per channel.
        history_ttl: seconds after a channel's last event.
        page_bytes: JSON after which a page ends.
        max_in_flight: publish commands without an answer.
        max_bytes: of publish commands without an answer.
    """

    history_size: int
    history_ttl: float
    page_bytes: int = 256 * 1024
    max_in_flight: int = 20_000
    max_bytes: int = 64 << 20


class RedisEventLog:
    """The `EventLog` port over two links, so that large reads do not delay publishing."""

    def __init__(self, publish: LinkKeeper, read: LinkKeeper, policy: LogPolicy) -> None:
        self._publish = publish
        self._read = read
        self._policy = policy
        self._log_ttl = str(round(policy.history_ttl * 1000))
        self._meta_ttl = str(round((policy.history_ttl + _META_EXTRA_TTL) * 1000))
        self._size = str(policy.history_size)
        self._node = secrets.token_hex(8)
        self._serial = itertools.count(1)

    async def submit(self, event: Event, publisher: Publisher) -> RedisSubmission:
        """See `EventLog.submit`."""
        link = self._publish.link or await self._publish.wait_open(_PATIENCE)
        if link.in_flight + len(event.channels) > self._policy.max_in_flight:
            raise Overloaded("Too many events are in flight to the engine; try again soon.")
        now = time.time()
        fragment = encode_fragment(event, int(now * 1000))
        waiting = link.in_flight_bytes
        if waiting and waiting + len(fragment) * len(event.channels) > self._policy.max_bytes:
            raise Overloaded("Too many bytes are in flight to the engine; try again soon.")
        accepted = b"%d" % (now * 1e6)
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
            event_id = f"{self._node}-{next(self._serial):x}"
        else:
            event_id = event.id
            mark = fingerprint(event)
            if len(event.channels) > 1:
                await self._check_ids(link, event, publisher, mark)
            for channel in event.channels:
                commands.append(
                    (
                        b"EVALSHA",
                        scripts.PUBLISH.sha,
                        b"3",
                        keys.meta_key(channel),
                        keys.log_key(channel),
                        keys.idempotency_key(channel, publisher.name, event_id),
                        fragment,
                        keys.live_channel(channel),
                        self._size,
                        self._log_ttl,
                        self._meta_ttl,
                        accepted,
                        ttl,
                        mark,
                        str(_ID_TTL * 1000),
                    )
                )
        return RedisSubmission(event_id, event.channels, commands, link)

    async def read(self, channel: str, after: Position | None, limit: int | None = None) -> Page:
        """See `EventLog.read`."""
        link = self._read.link or await self._read.wait_open(_PATIENCE)
        command: tuple[Argument, ...] = (
            b"EVALSHA",
            scripts.READ.sha,
            b"2",
            keys.meta_key(channel),
            keys.log_key(channel),
            b"" if after is None else str(after),
            self._policy.history_size if limit is None else limit,
            self._policy.page_bytes,
            self._meta_ttl,
        )
        try:
            reply = await link.call(*command)
        except EngineError as error:
            if not _is_unknown_script(error):
                raise
            await load_scripts(link)
            reply = await link.call(*command)
        return _page(reply)

    async def tips(self, channels: Sequence[str]) -> list[Position | None]:
        """See `EventLog.tips`."""
        link = self._read.link or await self._read.wait_open(_PATIENCE)
        # One GET each, pipelined: MGET over several slots is refused by a Cluster.
        replies = [link.call(b"GET", keys.meta_key(channel)) for channel in channels]
        return [_tip(reply) for reply in await asyncio.gather(*replies)]

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
        conflicts = [
            channel
            for channel, value in zip(event.channels, known, strict=True)
            if value is not None and value.partition(b" ")[0] != mark.encode()
        ]
        if conflicts:
            raise IdempotencyConflict(conflicts)


class RedisSubmission:
    """The `Submission` port: one script call per channel, sent when this is made."""

    __slots__ = ("_channels", "_commands", "_id", "_link", "_replies")

    def __init__(
        self,
        event_id: str,
        channels: tuple[str, ...],
        commands: list[tuple[Argument, ...]],
        link: Link,
    ) -> None:
        self._id = event_id
        self._channels = channels
        self._commands = commands
        self._link = link
        self._replies = [link.call(*command) for command in commands]

    @property
    def lost(self) -> bool:
        """See `Submission.lost`."""
        return self._link.closed.done()

    async def receipt(self) -> Receipt:
        """See `Submission.receipt`."""
        positions: dict[str, str] = {}
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
            stored = stored or status == b"stored"
            positions[channel] = position.decode()
        if failure is None and conflicts:
            failure = IdempotencyConflict(conflicts)
        return Receipt(self._id, positions, not stored and failure is None, failure)

    async def _reply(self, index: int) -> tuple[bytes, bytes]:
        try:
            reply = await self._replies[index]
        except EngineError as error:
            if not _is_unknown_script(error):
                raise
            # Not carried out, so it is safe to repeat.
            await load_scripts(self._link)
            reply = await self._link.call(*self._commands[index])
        return reply[0], reply[1]


async def load_scripts(link: Link) -> None:
    """Teach the engine the scripts; a restarted or flushed engine has forgotten them.

    Raises:
        EngineError, EngineUnavailable, TimeoutError
    """
    loads = [
        link.call("SCRIPT", "LOAD", script.source) for script in (scripts.PUBLISH, scripts.READ)
    ]
    async with asyncio.timeout(_LOAD_SECONDS):
        await asyncio.gather(*loads)


def _is_unknown_script(error: EngineError) -> bool:
    return str(error).startswith("NOSCRIPT")


def _position(text: bytes) -> Position:
    epoch, _, seq = text.partition(b"-")
    return Position(int(epoch), int(seq))


def _tip(meta: bytes | None) -> Position | None:
    if meta is None:
        return None
    epoch, seq, _ = meta.split(b" ")
    return Position(int(epoch), int(seq))


def _page(reply: list[Any]) -> Page:
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
