"""The subscription: confirmed before it is relied on, and complete again after a loss."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Collection

import pytest
import redis

from service.broker.broker import Broker
from service.broker.embedded import EmbeddedEngine
from service.core.errors import EngineUnavailable
from service.core.log import Entry
from tests.broker.support import client_of, open_broker, publish, running_broker
from tests.harness.process import PATIENCE, eventually

MANY = 2000


class _Pushed:
    """What a broker's subscription pushed."""

    def __init__(self, broker: Broker) -> None:
        self.entries: defaultdict[str, list[Entry]] = defaultdict(list)
        broker.subscriptions.on_pushed(self._push)

    def _push(self, channel: str, entry: Entry, accepted: int) -> None:
        assert accepted > 1_600_000_000_000_000  # microseconds
        self.entries[channel].append(entry)

    def seqs(self, channel: str) -> list[int]:
        return [entry.position.seq for entry in self.entries[channel]]


def _kill_subscriptions(client: redis.Redis) -> int:
    """As an operator does; gives back how many there were."""
    return int(client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))


async def _barrier(broker: Broker) -> None:
    """Every push that the engine wrote before now has been read after this."""
    link = await broker.subscriptions.keeper.wait_open(PATIENCE)
    await link.call("PING")


async def test_publish_right_after_subscribe_always_arrives(
    engine: EmbeddedEngine, broker: Broker, channel: str
) -> None:
    pushed = _Pushed(broker)
    async with open_broker(engine.url) as other:
        for number in range(100):
            name = f"{channel}/{number}"
            await broker.subscriptions.subscribe(name)
            position = await publish(other, name)
            await _barrier(broker)
            assert [entry.position for entry in pushed.entries[name]] == [position]


async def test_push_is_what_is_stored(broker: Broker, channel: str) -> None:
    pushed = _Pushed(broker)
    await broker.subscriptions.subscribe(channel)
    start = (await broker.log.read(channel, None)).tip
    for number in range(20):
        await publish(broker, channel, b'{"a b":"\xe2\x98\x83 %d"}' % number)
    await _barrier(broker)
    assert pushed.entries[channel] == (await broker.log.read(channel, start)).entries


async def test_unsubscribed_channel_is_silent(broker: Broker, channel: str) -> None:
    pushed = _Pushed(broker)
    await broker.subscriptions.subscribe(channel)
    await publish(broker, channel)
    await _barrier(broker)
    broker.subscriptions.unsubscribe(channel)
    await _barrier(broker)
    await publish(broker, channel)
    await _barrier(broker)
    assert pushed.seqs(channel) == [1]
    broker.subscriptions.unsubscribe(channel)  # once more, and no harm
    await _barrier(broker)


@pytest.mark.parametrize("rounds", [1, 2, 10])
async def test_subscribing_again_at_once_is_confirmed_by_its_own_answer(
    engine: EmbeddedEngine, broker: Broker, channel: str, rounds: int
) -> None:
    # The answers to the given up wishes are still on their way when the last one is waited for.
    pushed = _Pushed(broker)
    async with open_broker(engine.url) as other:
        for number in range(30):
            name = f"{channel}/{number}"
            for _ in range(rounds):
                given_up = asyncio.ensure_future(broker.subscriptions.subscribe(name))
                await asyncio.sleep(0)
                broker.subscriptions.unsubscribe(name)
                given_up.cancel()
            await broker.subscriptions.subscribe(name)
            await publish(other, name)
            await _barrier(broker)
            assert pushed.seqs(name) == [1]
    assert len(broker.subscriptions) == 30


async def test_an_answer_to_a_given_up_wish_confirms_nothing(
    own_engine: EmbeddedEngine, channel: str
) -> None:
    with client_of(own_engine.url) as client:
        async with open_broker(own_engine.url) as broker:
            subscriptions = broker.subscriptions
            first = asyncio.ensure_future(subscriptions.subscribe(channel))
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # it is written; this loop does not read the answer yet
            while not client.execute_command("PUBSUB", "SHARDNUMSUB", *_live(channel))[1]:
                pass
            os.kill(own_engine.pid, signal.SIGSTOP)
            subscriptions.unsubscribe(channel)
            second = asyncio.ensure_future(subscriptions.subscribe(channel))
            await asyncio.sleep(0.05)  # now the first answer is read
            assert not second.done()
            os.kill(own_engine.pid, signal.SIGCONT)
            await second
            first.cancel()


def _live(channel: str) -> list[str]:
    return ["herald:live:{" + channel + "}"]


async def test_two_callers_for_one_channel_share_its_confirmation(
    broker: Broker, channel: str
) -> None:
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(broker.subscriptions.subscribe(channel) for _ in range(5)))
        await broker.subscriptions.subscribe(channel)
    assert len(broker.subscriptions) == 1


async def test_a_caller_that_gives_up_leaves_the_confirmation_to_others(
    broker: Broker, channel: str
) -> None:
    first = asyncio.ensure_future(broker.subscriptions.subscribe(channel))
    second = asyncio.ensure_future(broker.subscriptions.subscribe(channel))
    await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(PATIENCE):
        await second


async def test_subscribe_fails_while_the_engine_is_stopped(
    own_engine: EmbeddedEngine, channel: str
) -> None:
    async with open_broker(own_engine.url, timeout=0.5) as broker:
        os.kill(own_engine.pid, signal.SIGSTOP)
        with pytest.raises(EngineUnavailable):
            await broker.subscriptions.subscribe(channel)
        broker.subscriptions.unsubscribe(channel)
        assert len(broker.subscriptions) == 0
        os.kill(own_engine.pid, signal.SIGCONT)


async def test_subscribe_while_the_engine_is_away_holds_when_it_is_back(
    own_engine: EmbeddedEngine, channel: str
) -> None:
    own_engine.kill()
    async with running_broker(own_engine.url) as broker:
        pushed = _Pushed(broker)
        wish = asyncio.ensure_future(broker.subscriptions.subscribe(channel))
        own_engine.restart()
        await wish
        await broker.wait_open(PATIENCE)
        await publish(broker, channel)
        await _barrier(broker)
        assert pushed.seqs(channel) == [1]


async def test_first_connection_is_no_restoration(broker: Broker, channel: str) -> None:
    restored: list[None] = []
    broker.subscriptions.on_restored(lambda _: restored.append(None))
    await broker.subscriptions.subscribe(channel)
    await _barrier(broker)
    assert not restored


async def test_all_channels_are_there_again_before_restoration_is_told(
    own_engine: EmbeddedEngine, new_name: Callable[[], str]
) -> None:
    names = [f"user:{new_name()}" for _ in range(MANY)]
    live = [_live(name)[0] for name in names]
    reopened: list[str] = []
    with client_of(own_engine.url) as client:
        async with open_broker(own_engine.url, reopened=reopened) as broker:
            counts: list[list[int]] = []

            def restored(_: Collection[str]) -> None:
                counts.append(client.execute_command("PUBSUB", "SHARDNUMSUB", *live)[1::2])

            broker.subscriptions.on_restored(restored)
            await asyncio.gather(*map(broker.subscriptions.subscribe, names))
            for round_number in range(1, 3):
                assert _kill_subscriptions(client) == 1
                await eventually(lambda n=round_number: len(counts) == n, "the restoration")  # type: ignore[misc]
                assert counts[-1] == [1] * MANY
            await eventually(lambda: reopened == ["subscribe"] * 2, "the word of the new link")
            pushed = _Pushed(broker)
            for name in (names[0], names[-1]):
                await publish(broker, name)
            await _barrier(broker)
            assert [pushed.seqs(name) for name in (names[0], names[-1])] == [[1], [1]]


async def test_wishes_that_change_while_links_break_are_all_kept(
    own_engine: EmbeddedEngine, channel: str
) -> None:
    with client_of(own_engine.url) as client:
        async with open_broker(own_engine.url) as broker:
            subscriptions = broker.subscriptions
            kept = [f"{channel}/{number}" for number in range(600)]
            await asyncio.gather(*map(subscriptions.subscribe, kept))
            for _ in range(5):
                _kill_subscriptions(client)
                for name in kept[::3]:
                    subscriptions.unsubscribe(name)
                wishes = [asyncio.ensure_future(subscriptions.subscribe(n)) for n in kept[::3]]
                await asyncio.sleep(0.01)
                for name in kept[1::3]:
                    subscriptions.unsubscribe(name)
                wishes += [asyncio.ensure_future(subscriptions.subscribe(n)) for n in kept[1::3]]
                await asyncio.gather(*wishes)
            for name in kept[2::3]:
                subscriptions.unsubscribe(name)
            await _barrier(broker)
            wanted = {_live(name)[0] for i, name in enumerate(kept) if i % 3 != 2}
            there = {
                name.decode()
                for name in client.execute_command("PUBSUB", "SHARDCHANNELS")
                if not name.startswith(b"herald:live:{probe:")
            }
            assert there == wanted
