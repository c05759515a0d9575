"""The publish script and its log: positions, trimming, expiry, idempotency."""

from __future__ import annotations

from typing import cast

import pytest
import redis

from service.broker import keys
from service.broker.broker import Broker
from service.broker.embedded import EmbeddedEngine
from service.core.errors import EngineError, IdempotencyConflict, Overloaded
from service.core.event import Event
from service.core.log import Entry
from service.core.position import BEGINNING, Position
from service.core.principal import Publisher
from tests.broker.support import PUBLISHER, event, open_broker, publish, submit
from tests.harness.process import eventually

DAY_MS = 86_400_000
MINUTE_MS = 60_000
"""How far an expiry may have run down on a busy machine."""


async def test_positions_are_contiguous_from_one(broker: Broker, channel: str) -> None:
    submissions = [await broker.log.submit(event(channel), PUBLISHER) for _ in range(50)]
    receipts = [await submission.receipt() for submission in submissions]
    epoch = int(receipts[0].positions[channel].partition("-")[0])
    assert [receipt.positions[channel] for receipt in receipts] == [
        f"{epoch}-{seq}" for seq in range(1, 51)
    ]


async def test_epoch_is_the_engines_time_in_ms(
    broker: Broker, keyspace: redis.Redis, channel: str
) -> None:
    before = keyspace.time()
    epoch = (await publish(broker, channel)).epoch
    after = keyspace.time()
    assert before[0] * 1000 + before[1] // 1000 <= epoch <= after[0] * 1000 + after[1] // 1000


async def test_channels_are_numbered_apart(broker: Broker, channel: str) -> None:
    receipt = await submit(broker, event(channel, channel + "/b"))
    assert [text.partition("-")[2] for text in receipt.positions.values()] == ["1", "1"]
    assert (await publish(broker, channel)).seq == 2
    assert not receipt.duplicate
    assert receipt.failure is None


async def test_receipts_without_an_id_have_ids_of_their_own(broker: Broker, channel: str) -> None:
    ids = {(await submit(broker, event(channel))).id for _ in range(3)}
    assert len(ids) == 3


async def test_stored_bytes_are_the_fragment(broker: Broker, channel: str) -> None:
    data = '{"big":123456789012345678901234567890,"text":"☃\\u0000"}'.encode()
    position = await publish(broker, channel, data)
    (entry,) = (await broker.log.read(channel, BEGINNING)).entries
    assert entry.position == position
    assert entry.fragment.startswith(b'"event":"test","data":' + data + b',"time":"20')


@pytest.mark.parametrize("size", [1, 7])
async def test_log_is_trimmed_to_exactly_the_size(
    engine: EmbeddedEngine, keyspace: redis.Redis, channel: str, size: int
) -> None:
    async with open_broker(engine.url, history_size=size) as broker:
        for count in range(1, 2 * size + 3):
            last = await publish(broker, channel)
            assert keyspace.xlen(keys.log_key(channel)) == min(count, size)
        page = await broker.log.read(channel, BEGINNING)
    assert [entry.position.seq for entry in page.entries] == list(
        range(last.seq - size + 1, last.seq + 1)
    )
    assert page.first == Position(last.epoch, last.seq - size + 1)


async def test_log_expires_after_its_ttl_and_the_position_30_days_later(
    engine: EmbeddedEngine, keyspace: redis.Redis, channel: str
) -> None:
    async with open_broker(engine.url, history_ttl=3600.0) as broker:
        for _ in range(2):  # a second event begins the time again
            keyspace.pexpire(keys.log_key(channel), 5 * MINUTE_MS)
            await publish(broker, channel)
            log_ttl = cast("int", keyspace.pttl(keys.log_key(channel)))
            meta_ttl = cast("int", keyspace.pttl(keys.meta_key(channel)))
            assert 3_600_000 - MINUTE_MS < log_ttl <= 3_600_000
            full = 3_600_000 + 30 * DAY_MS
            assert full - MINUTE_MS < meta_ttl <= full


async def test_numbers_go_on_after_the_log_expired(
    broker: Broker, keyspace: redis.Redis, channel: str
) -> None:
    first = await publish(broker, channel)
    keyspace.pexpire(keys.log_key(channel), 1)
    await eventually(lambda: not keyspace.exists(keys.log_key(channel)))
    assert await publish(broker, channel) == (first.epoch, first.seq + 1)


async def test_event_without_an_id_makes_two_keys_and_with_one_three(
    broker: Broker, keyspace: redis.Redis, channel: str
) -> None:
    await publish(broker, channel)
    assert sorted(keyspace.keys("herald:*" + channel + "*")) == [
        keys.log_key(channel),
        keys.meta_key(channel),
    ]
    await publish(broker, channel, id="1")
    id_key = keys.idempotency_key(channel, "key", "1")
    assert len(keyspace.keys("herald:*" + channel + "*")) == 3
    assert 5 * MINUTE_MS - MINUTE_MS < cast("int", keyspace.pttl(id_key)) <= 5 * MINUTE_MS


async def test_same_id_and_payload_answers_the_first_position_and_pushes_nothing(
    broker: Broker, channel: str
) -> None:
    pushed: list[Entry] = []
    broker.subscriptions.on_pushed(lambda _, entry, __: pushed.append(entry))
    await broker.subscriptions.subscribe(channel)
    first = await submit(broker, event(channel, id="1"))
    other = await submit(broker, event(channel, id="2"))
    again = await submit(broker, event(channel, id="1"))
    last = await publish(broker, channel)
    await eventually(lambda: pushed and pushed[-1].position == last)
    assert not first.duplicate
    assert again == first._replace(duplicate=True)
    assert [str(entry.position) for entry in pushed] == [
        first.positions[channel],
        other.positions[channel],
        str(last),
    ]
    assert last.seq == 3


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (event("c", data=b'{"a":1,"b":2}'), event("c", data=b' { "b": 2, "a": 1 } ')),
        (event("c", ttl_ms=60_000), event("c", ttl_ms=60_000)),
    ],
)
async def test_payload_written_differently_is_a_duplicate(
    broker: Broker, channel: str, first: Event, second: Event
) -> None:
    await submit(broker, first._replace(channels=(channel,), id="1"))
    assert (await submit(broker, second._replace(channels=(channel,), id="1"))).duplicate


@pytest.mark.parametrize(
    "other",
    [
        event("c", data=b"2"),
        event("c", data=b"1.0"),
        event("c", type="other"),
        event("c", ttl_ms=60_000),
    ],
)
async def test_same_id_with_another_payload_conflicts_and_stores_nothing(
    broker: Broker, channel: str, other: Event
) -> None:
    first = await publish(broker, channel, id="1")
    receipt = await submit(broker, other._replace(channels=(channel,), id="1"))
    assert isinstance(receipt.failure, IdempotencyConflict)
    assert receipt.failure.channels == [channel]
    assert (receipt.positions, receipt.duplicate) == ({}, False)
    assert (await broker.log.read(channel, None)).tip == first


async def test_ids_are_scoped_per_publisher_and_channel(broker: Broker, channel: str) -> None:
    receipts = [
        await submit(broker, event(name, id="1", data=data), publisher)
        for name, publisher, data in (
            (channel, Publisher("key"), b"1"),
            (channel, Publisher("jwt:a"), b"2"),
            (channel + "/b", Publisher("key"), b"3"),
        )
    ]
    assert [receipt.failure for receipt in receipts] == [None] * 3
    assert not any(receipt.duplicate for receipt in receipts)


async def test_an_id_expires(broker: Broker, keyspace: redis.Redis, channel: str) -> None:
    first = await publish(broker, channel, id="1")
    id_key = keys.idempotency_key(channel, "key", "1")
    keyspace.pexpire(id_key, 1)
    await eventually(lambda: not keyspace.exists(id_key))
    receipt = await submit(broker, event(channel, id="1", data=b"2"))
    assert receipt.failure is None
    assert receipt.positions == {channel: f"{first.epoch}-2"}


async def test_conflict_on_one_channel_stores_nothing_on_any(
    broker: Broker, keyspace: redis.Redis, channel: str
) -> None:
    names = [f"{channel}/{number}" for number in range(5)]
    await publish(broker, names[3], id="1")
    kept = sorted(keyspace.keys("herald:*" + channel + "*"))
    with pytest.raises(IdempotencyConflict) as caught:
        await broker.log.submit(event(*names, id="1", data=b"2"), PUBLISHER)
    assert caught.value.channels == [names[3]]
    assert sorted(keyspace.keys("herald:*" + channel + "*")) == kept
    assert (await broker.log.read(names[3], None)).tip.seq == 1


async def test_repeat_completes_the_channels_that_are_missing(broker: Broker, channel: str) -> None:
    first = await submit(broker, event(channel, id="1"))
    both = await submit(broker, event(channel, channel + "/b", id="1"))
    assert both.failure is None
    assert not both.duplicate
    assert both.positions[channel] == first.positions[channel]
    assert (await broker.log.read(channel + "/b", None)).tip.seq == 1
    assert (await submit(broker, event(channel, channel + "/b", id="1"))).duplicate


async def test_scripts_that_the_engine_forgot_are_loaded_again(
    broker: Broker, keyspace: redis.Redis, channel: str
) -> None:
    keyspace.script_flush()
    submissions = [await broker.log.submit(event(channel, id="1"), PUBLISHER) for _ in range(3)]
    receipts = [await submission.receipt() for submission in submissions]
    assert [receipt.failure for receipt in receipts] == [None] * 3
    assert [receipt.duplicate for receipt in receipts] == [False, True, True]
    keyspace.script_flush()
    assert (await broker.log.read(channel, None)).tip.seq == 1


async def test_an_engines_refusal_is_a_failure_of_that_channel_only(
    broker: Broker, keyspace: redis.Redis, channel: str
) -> None:
    keyspace.set(keys.log_key(channel), "not a stream", ex=60)
    receipt = await submit(broker, event(channel, channel + "/b"))
    assert isinstance(receipt.failure, EngineError)
    assert "WRONGTYPE" in str(receipt.failure)
    assert list(receipt.positions) == [channel + "/b"]


async def test_too_much_in_flight_is_refused_before_anything_is_sent(
    engine: EmbeddedEngine, channel: str
) -> None:
    async with open_broker(engine.url, max_in_flight=3) as broker:
        with pytest.raises(Overloaded):
            await broker.log.submit(event(*(f"{channel}/{n}" for n in range(4))), PUBLISHER)
        assert await broker.log.tips([f"{channel}/0"]) == [None]


async def test_too_many_bytes_in_flight_are_refused_and_one_event_alone_never_is(
    engine: EmbeddedEngine, channel: str
) -> None:
    async with open_broker(engine.url, max_bytes=1000) as broker:
        large = event(channel, data=b'"' + b"x" * 2000 + b'"')
        first = await broker.log.submit(large, PUBLISHER)
        with pytest.raises(Overloaded):
            await broker.log.submit(large, PUBLISHER)
        assert (await first.receipt()).failure is None
        assert (await submit(broker, large)).failure is None
        assert len((await broker.log.read(channel, BEGINNING)).entries) == 2
