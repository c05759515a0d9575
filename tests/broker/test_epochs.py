"""Epochs: a new one whenever the engine may have lost something, and always a later one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from service.broker import keys
from service.broker.broker import Broker
from service.broker.embedded import EmbeddedEngine
from service.core.log import assess
from service.core.position import BEGINNING, Position
from tests.broker.support import (
    caught_up,
    client_of,
    open_broker,
    publish,
    publish_again,
    running_engine,
    synced,
    tcp_engine,
)
from tests.harness.process import PATIENCE

FUTURE = 9_000_000_000_000
"""An epoch in the year 2255: this engine's clock is behind the one that wrote it."""
OTHER_ENGINE = "0" * 40


@pytest.fixture(
    params=[("--appendonly", "yes"), ("--save", "3600 1")], ids=["append-only file", "snapshot"]
)
def persistent_engine(request: pytest.FixtureRequest) -> Iterator[EmbeddedEngine]:
    with running_engine(*request.param) as engine:
        yield engine


async def test_epoch_stays_while_the_engine_stays(broker: Broker, channel: str) -> None:
    empty = (await broker.log.read(channel, None)).tip
    first = await publish(broker, channel)
    second = await publish(broker, channel)
    assert [empty, first, second] == [Position(empty.epoch, seq) for seq in (0, 1, 2)]


async def test_restart_without_persistence_begins_a_later_epoch(
    own_engine: EmbeddedEngine, channel: str
) -> None:
    async with open_broker(own_engine.url) as broker:
        old = await publish(broker, channel)
        own_engine.kill()
        own_engine.restart()
        new = await publish_again(broker, channel)
        await broker.wait_open(PATIENCE)  # one reads by another link
        assert new.epoch > old.epoch
        assert new.seq == 1
        page = await broker.log.read(channel, old)
    assert [entry.position for entry in page.entries] == [new]
    assert not assess(old, page.tip, page.first).exact


async def test_restart_with_persistence_keeps_the_events_and_begins_a_later_epoch(
    persistent_engine: EmbeddedEngine, channel: str
) -> None:
    async with open_broker(persistent_engine.url) as broker:
        old = [await publish(broker, channel) for _ in range(3)]
        with client_of(persistent_engine.url) as client:
            client.save()
        persistent_engine.kill()
        persistent_engine.restart()
        new = await publish_again(broker, channel)
        await broker.wait_open(PATIENCE)  # one reads by another link
        assert new.epoch > old[-1].epoch
        assert new.seq == 1
        page = await broker.log.read(channel, BEGINNING)
    assert [entry.position for entry in page.entries] == [*old, new]
    # The last writes before a crash may be lost, so nobody of the old epoch resumes exactly.
    assert not assess(old[-1], page.tip, page.first).exact


async def test_reading_after_a_restart_begins_the_epoch_that_publishing_goes_on_in(
    persistent_engine: EmbeddedEngine, channel: str
) -> None:
    async with open_broker(persistent_engine.url) as broker:
        old = await publish(broker, channel)
        with client_of(persistent_engine.url) as client:
            client.save()
    persistent_engine.kill()
    persistent_engine.restart()
    async with open_broker(persistent_engine.url) as broker:
        tip = (await broker.log.read(channel, None)).tip
        assert tip.epoch > old.epoch
        assert tip.seq == 0
        assert await publish(broker, channel) == (tip.epoch, 1)


async def test_flushall_begins_a_later_epoch(own_engine: EmbeddedEngine, channel: str) -> None:
    async with open_broker(own_engine.url) as broker:
        old = await publish(broker, channel)
        with client_of(own_engine.url) as client:
            client.flushall()
        new = await publish(broker, channel)
    assert new.epoch > old.epoch
    assert new.seq == 1


async def test_promoted_replica_begins_a_later_epoch_and_keeps_the_events(channel: str) -> None:
    with (
        tcp_engine() as primary,
        tcp_engine("--replicaof", "127.0.0.1", str(primary.port)) as replica,
        client_of(primary.url) as primary_client,
        client_of(replica.url) as replica_client,
    ):
        await synced(replica_client)
        async with open_broker(primary.url) as broker:
            old = [await publish(broker, channel) for _ in range(3)]
            await caught_up(primary_client, replica_client)
        primary.embedded.kill()
        replica_client.replicaof("NO", "ONE")
        async with open_broker(replica.url) as broker:
            new = [await publish(broker, channel) for _ in range(2)]
            page = await broker.log.read(channel, BEGINNING)
    assert new[0].epoch > old[0].epoch
    assert new == [(new[0].epoch, 1), (new[0].epoch, 2)]
    assert [entry.position for entry in page.entries] == old + new


async def test_an_old_primary_that_comes_back_never_reuses_a_position(channel: str) -> None:
    # Both sides of a split accept events after the same last position.
    with (
        tcp_engine() as primary,
        tcp_engine("--replicaof", "127.0.0.1", str(primary.port)) as replica,
        client_of(primary.url) as primary_client,
        client_of(replica.url) as replica_client,
    ):
        await synced(replica_client)
        async with open_broker(primary.url) as broker:
            await publish(broker, channel)
            await caught_up(primary_client, replica_client)
            replica_client.replicaof("NO", "ONE")
            lost = await publish(broker, channel)
        async with open_broker(replica.url) as broker:
            kept = await publish(broker, channel)
    assert kept.epoch > lost.epoch


@pytest.mark.parametrize("seq", [0, 7])
async def test_clock_behind_the_old_epoch_still_begins_a_later_one(
    broker: Broker, keyspace: redis.Redis, channel: str, seq: int
) -> None:
    keyspace.set(keys.meta_key(channel), f"{FUTURE} {seq} {OTHER_ENGINE}", px=60_000)
    assert (await broker.log.read(channel, None)).tip == (FUTURE + 1, 0)
    assert await publish(broker, channel) == (FUTURE + 1, 1)
    assert await publish(broker, channel) == (FUTURE + 1, 2)


async def test_every_promotion_begins_a_later_epoch_although_the_clock_is_behind(
    broker: Broker, keyspace: redis.Redis, channel: str
) -> None:
    epochs = []
    keyspace.set(keys.meta_key(channel), f"{FUTURE} 1 {OTHER_ENGINE}", px=60_000)
    for _ in range(4):
        position = await publish(broker, channel)
        epochs.append(position.epoch)
        text = f"{position.epoch} {position.seq} {OTHER_ENGINE}"
        keyspace.set(keys.meta_key(channel), text, px=60_000)
    assert epochs == [FUTURE + 1, FUTURE + 2, FUTURE + 3, FUTURE + 4]


@pytest.mark.parametrize("meta", [None, "no position at all", f"1 1 {OTHER_ENGINE}"])
async def test_new_epoch_is_later_than_every_entry_that_is_left(
    broker: Broker, keyspace: redis.Redis, channel: str, meta: str | None
) -> None:
    # The meta key is lost, damaged or older than the stream, which refuses lower numbers.
    keyspace.xadd(keys.log_key(channel), {"e": "x"}, id=f"{FUTURE}-5")
    if meta is not None:
        keyspace.set(keys.meta_key(channel), meta, px=60_000)
    assert await publish(broker, channel) == (FUTURE + 1, 1)
