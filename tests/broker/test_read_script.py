"""The read script: pages, empty channels, events whose time to live has passed."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
import redis

from service.broker import keys
from service.broker.broker import Broker
from service.broker.embedded import EmbeddedEngine
from service.core.log import Page, assess
from service.core.position import BEGINNING, Position
from tests.broker.support import open_broker, publish
from tests.harness.process import PATIENCE

DAY_MS = 86_400_000


def _seqs(page: Page) -> list[int]:
    return [entry.position.seq for entry in page.entries]


async def test_empty_channel_has_a_position_and_makes_the_meta_key_only(
    broker: Broker, keyspace: redis.Redis, channel: str
) -> None:
    page = await broker.log.read(channel, None)
    assert page.tip.seq == 0
    assert page.tip.epoch > 0
    assert (page.first, page.entries, page.end, page.complete) == (None, [], page.tip, True)
    assert keyspace.keys("herald:*" + channel + "*") == [keys.meta_key(channel)]
    full = 31 * DAY_MS
    assert full - 60_000 < cast("int", keyspace.pttl(keys.meta_key(channel))) <= full
    assert (await broker.log.read(channel, BEGINNING)).tip == page.tip
    assert await publish(broker, channel) == (page.tip.epoch, 1)


async def test_reading_a_known_channel_writes_nothing_until_half_its_time_is_over(
    broker: Broker, keyspace: redis.Redis, channel: str
) -> None:
    await broker.log.read(channel, None)
    meta = keys.meta_key(channel)
    for left, expected in ((20 * DAY_MS, 20 * DAY_MS), (10 * DAY_MS, 31 * DAY_MS)):
        keyspace.pexpire(meta, left)
        await broker.log.read(channel, None)
        assert expected - 60_000 < cast("int", keyspace.pttl(meta)) <= expected


async def test_tips_know_what_was_written_and_create_nothing(
    broker: Broker, keyspace: redis.Redis, channel: str
) -> None:
    last = await publish(broker, channel)
    assert await broker.log.tips([channel, channel + "/unknown"]) == [last, None]
    assert not keyspace.keys(b"*" + channel.encode() + b"/unknown*")


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (0, [1, 2, 3, 4, 5]),
        (1, [2, 3, 4, 5]),
        (4, [5]),
        (5, []),
        (9, []),
    ],
)
async def test_read_gives_what_follows_a_position(
    broker: Broker, channel: str, after: int, expected: list[int]
) -> None:
    for _ in range(5):
        last = await publish(broker, channel)
    page = await broker.log.read(channel, Position(last.epoch, after))
    assert _seqs(page) == expected
    assert (page.tip, page.end, page.complete) == (last, last, True)


async def test_read_of_the_tip_gives_no_events(broker: Broker, channel: str) -> None:
    last = await publish(broker, channel)
    assert (await broker.log.read(channel, None)) == Page(last, None, [], last, True)


@pytest.mark.parametrize("limit", [1, 15, 16, 17, 49, 50, 51])
async def test_pages_by_number_join_without_hole_or_overlap(
    broker: Broker, channel: str, limit: int
) -> None:
    for _ in range(50):
        await publish(broker, channel)
    await _assert_pages_join(broker, channel, limit, most=limit)


@pytest.mark.parametrize("page_bytes", [1, 300, 5000])
async def test_pages_by_bytes_join_without_hole_or_overlap(
    engine: EmbeddedEngine, channel: str, page_bytes: int
) -> None:
    async with open_broker(engine.url, page_bytes=page_bytes) as broker:
        for _ in range(40):
            await publish(broker, channel, b'"%b"' % (b"x" * 100))
        # The event that goes over the limit is still in: a page is never empty.
        await _assert_pages_join(broker, channel, None, most=page_bytes // 100 + 1)


async def _assert_pages_join(broker: Broker, channel: str, limit: int | None, most: int) -> None:
    at, seen = BEGINNING, []
    while True:
        page = await broker.log.read(channel, at, limit)
        assert 1 <= len(page.entries) <= most
        seen += _seqs(page)
        assert page.complete == (page.end == page.tip)
        if page.complete:
            break
        assert page.end == page.entries[-1].position
        at = page.end
    assert seen == list(range(1, page.tip.seq + 1))


async def test_expired_events_are_hidden_and_are_no_gap(
    broker: Broker, keyspace: redis.Redis, channel: str
) -> None:
    start = (await broker.log.read(channel, None)).tip
    for ttl in (None, 1, 3_600_000, 1, None, 1):
        last = await publish(broker, channel, ttl_ms=ttl)
    page = await _when_expired(broker, channel, start, [1, 3, 5])
    assert (page.tip, page.end, page.complete) == (last, last, True)
    assert page.first == Position(last.epoch, 1)
    # All of them are still counted, so whoever resumes before or inside misses nothing.
    for seq in range(7):
        since = Position(last.epoch, seq)
        assert assess(since, page.tip, page.first).exact
    assert keyspace.xlen(keys.log_key(channel)) == 6


async def test_a_log_of_expired_events_only_reads_as_empty_and_complete(
    broker: Broker, channel: str
) -> None:
    start = (await broker.log.read(channel, None)).tip
    for _ in range(40):
        last = await publish(broker, channel, ttl_ms=1)
    page = await _when_expired(broker, channel, start, [])
    assert (page.end, page.complete) == (last, True)
    assert assess(start, page.tip, page.first).exact


async def test_a_page_of_expired_events_goes_on_to_the_next(broker: Broker, channel: str) -> None:
    start = (await broker.log.read(channel, None)).tip
    for ttl in (1, 1, None):
        await publish(broker, channel, ttl_ms=ttl)
    await _when_expired(broker, channel, start, [3])
    page = await broker.log.read(channel, start, 2)
    assert (page.entries, page.end.seq, page.complete) == ([], 2, False)
    assert _seqs(await broker.log.read(channel, page.end, 2)) == [3]


async def _when_expired(broker: Broker, channel: str, after: Position, expected: list[int]) -> Page:
    async with asyncio.timeout(PATIENCE):
        while True:
            page = await broker.log.read(channel, after)
            if _seqs(page) == expected:
                return page
            await asyncio.sleep(0.005)


async def test_trimmed_log_says_where_it_begins(engine: EmbeddedEngine, channel: str) -> None:
    async with open_broker(engine.url, history_size=3) as broker:
        for _ in range(10):
            last = await publish(broker, channel)
        page = await broker.log.read(channel, Position(last.epoch, 2))
    assert page.first == Position(last.epoch, 8)
    assert _seqs(page) == [8, 9, 10]
    assert not assess(Position(last.epoch, 6), page.tip, page.first).exact
    assert assess(Position(last.epoch, 7), page.tip, page.first).exact
