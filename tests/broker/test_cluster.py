"""A real Cluster: each channel on its shard, and nothing lost or mixed up while slots move."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterator

import pytest
import redis

from service.broker import keys
from service.broker.broker import Broker
from service.broker.topology import Address, slot_of
from service.core.errors import EngineUnavailable, IdempotencyConflict, NotCopied
from service.core.position import BEGINNING
from service.ports import Receipt, Submission
from tests.broker.support import (
    PUBLISHER,
    TcpEngine,
    client_of,
    event,
    open_broker,
    publish,
    publish_again,
    running_broker,
    submit,
    tcp_engine,
)
from tests.broker.test_acl import RULES
from tests.harness.cluster import EngineCluster, Node, channels_of, running_cluster
from tests.harness.process import PATIENCE, eventually, free_port

KEEP = 100_000
SMALL = 4
CLUSTER_RULES = ("+cluster|info", "+cluster|slots", "+asking")
"""What docs/operations.md lists besides, for a Cluster."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[EngineCluster]:
    """Three primaries. Slots are moved by its tests, so ask it for the owner."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def replicated() -> Iterator[EngineCluster]:
    """Three primaries, of which the first has a replica."""
    with running_cluster(3, 1) as cluster:
        yield cluster


@pytest.fixture
def uneven() -> Iterator[EngineCluster]:
    """Three primaries, of which the first has few slots."""
    with running_cluster(small=SMALL) as cluster:
        yield cluster


@pytest.fixture
async def broker(cluster: EngineCluster) -> AsyncIterator[Broker]:
    async with open_broker(cluster.url, history_size=KEEP) as broker:
        await _healthy(broker)
        yield broker


async def _healthy(broker: Broker) -> None:
    await eventually(lambda: broker.trouble() is None, "health")


class _Listener:
    """Does what the hub does: takes pushes, and reads the log where some are missing."""

    def __init__(self, broker: Broker) -> None:
        self.heard: defaultdict[str, set[bytes]] = defaultdict(set)
        self.pushed: defaultdict[str, list[bytes]] = defaultdict(list)
        self._broker = broker
        self._reads: set[asyncio.Task[None]] = set()
        broker.subscriptions.on_pushed(
            lambda channel, entry, _: self._take(channel, entry.fragment)
        )
        broker.subscriptions.on_restored(self._restored)

    def _take(self, channel: str, fragment: bytes) -> None:
        self.heard[channel].add(fragment)
        self.pushed[channel].append(fragment)

    def _restored(self, channels: Collection[str]) -> None:
        for channel in channels:
            task = asyncio.create_task(self._read(channel))
            self._reads.add(task)
            task.add_done_callback(self._reads.discard)

    async def _read(self, channel: str) -> None:
        after = BEGINNING
        while True:
            try:
                page = await self._broker.log.read(channel, after, KEEP)
            except EngineUnavailable:
                await asyncio.sleep(0.05)
                continue
            self.heard[channel].update(entry.fragment for entry in page.entries)
            if page.complete:
                return
            after = page.end


async def _log(broker: Broker, channel: str) -> list[int]:
    """The numbers that were published as data."""
    found: list[int] = []
    after = BEGINNING
    while True:
        page = await broker.log.read(channel, after, KEEP)
        found += [_number(entry.fragment) for entry in page.entries]
        if page.complete:
            return found
        after = page.end


def _number(fragment: bytes) -> int:
    return int(fragment.partition(b'"data":')[2].partition(b",")[0].strip(b"}"))


def _together(name: str, count: int) -> list[str]:
    """Channels of one slot: the server's hash tag ends at the first brace."""
    return [f"user:{name}}}{number}" for number in range(count)]


def _others(cluster: EngineCluster, node: Node) -> list[Node]:
    return [other for other in cluster.primaries if other is not node]


# Each on its own shard


async def test_all_shards_store_push_and_read(
    cluster: EngineCluster, broker: Broker, channel: str
) -> None:
    names = [f"{channel}/{number}" for number in range(60)]
    assert len(channels_of(cluster, names)) == 3
    listener = _Listener(broker)
    async with open_broker(cluster.url) as other:
        await asyncio.gather(*(broker.subscriptions.subscribe(name) for name in names))
        for name in names:
            position = await publish(other, name, b"7")
            assert (await broker.log.read(name, None)).tip == position
            assert await _log(broker, name) == [7]
        await eventually(lambda: len(listener.heard) == len(names), "all pushes")
        tips = await broker.log.tips([*names, channel + "/none"])
        assert [tip is not None for tip in tips] == [True] * len(names) + [False]


async def test_no_shard_sees_what_is_anothers(
    cluster: EngineCluster, broker: Broker, channel: str
) -> None:
    names = [f"{channel}/{number}" for number in range(60)]
    mine = channels_of(cluster, names)
    await asyncio.gather(*(broker.subscriptions.subscribe(name) for name in names))
    for node in cluster.primaries:
        node.do("CONFIG", "RESETSTAT")
    for name in names:
        await publish(broker, name)
    for node in cluster.primaries:
        expected = mine[node.port]
        assert node.shard_channels() & set(names) == set(expected)
        calls = node.client.info("commandstats")
        assert calls["cmdstat_evalsha"]["calls"] == len(expected)
        assert calls["cmdstat_evalsha"]["rejected_calls"] == 0
    for name in names:
        broker.subscriptions.unsubscribe(name)
    await eventually(
        lambda: not any(node.shard_channels() & set(names) for node in cluster.primaries),
        "the end of the subscriptions",
    )


async def test_pipelined_events_keep_their_order_per_channel(broker: Broker, channel: str) -> None:
    names = [f"{channel}/{number}" for number in range(9)]
    sent = [
        await broker.log.submit(event(*names[number % 3 :: 3], data=b"%d" % number), PUBLISHER)
        for number in range(600)
    ]
    receipts = [await submission.receipt() for submission in sent]
    assert not [receipt for receipt in receipts if receipt.failure]
    for index, name in enumerate(names):
        assert await _log(broker, name) == list(range(index % 3, 600, 3))


async def test_one_event_to_channels_of_all_shards_is_idempotent(
    broker: Broker, channel: str
) -> None:
    names = [f"{channel}/{number}" for number in range(12)]
    first = await submit(broker, event(*names[:6], id="1"))
    again = await submit(broker, event(*names, id="1"))
    assert not first.duplicate
    assert not again.duplicate
    assert again.positions.items() >= first.positions.items()
    assert (await submit(broker, event(*names, id="1"))).duplicate
    with pytest.raises(IdempotencyConflict):
        await submit(broker, event(channel + "/new", *names, id="1", data=b"2"))
    assert await broker.log.tips([channel + "/new"]) == [None]


# Slots that move


class _Stream:
    """Publishes numbers to some channels for as long as it is open, several in flight."""

    def __init__(self, broker: Broker, names: list[str], *, with_ids: bool) -> None:
        self._broker = broker
        self._names = names
        self._with_ids = with_ids
        self._stop = False
        self.failures: list[Receipt] = []
        self.sent = 0

    async def __aenter__(self) -> _Stream:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await self._task

    async def _run(self) -> None:
        while not self._stop:
            window: list[Submission] = []
            for _ in range(20):
                # Every third has an id: it writes a third key, which is refused by other rules.
                mark = f"{self.sent}" if self._with_ids and self.sent % 3 == 0 else None
                sent = event(*self._names, data=b"%d" % self.sent, id=mark)
                window.append(await self._broker.log.submit(sent, PUBLISHER))
                self.sent += 1
                await asyncio.sleep(0)
            receipts = [await submission.receipt() for submission in window]
            self.failures += [receipt for receipt in receipts if receipt.failure]


async def _move(
    cluster: EngineCluster, name: str, moves: int, pause: float, target: Node | None = None
) -> None:
    """Move a channel's slot from owner to owner, in another thread."""
    for _ in range(moves):
        source = cluster.owner(name)
        chosen = target or _others(cluster, source)[0]
        await asyncio.to_thread(cluster.migrate, slot_of(name), source, chosen, pause)
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("pause", [0.0, 0.03], ids=["at once", "slowly"])
async def test_a_slot_that_moves_under_load_loses_nothing_and_keeps_the_order(
    cluster: EngineCluster, broker: Broker, new_name: Callable[[], str], pause: float
) -> None:
    names = _together(new_name(), 3)
    async with open_broker(cluster.url, history_size=KEEP) as publisher:
        listener = _Listener(broker)
        for name in names:
            await broker.subscriptions.subscribe(name)
            await publish(publisher, name, b"-1")
        async with _Stream(publisher, names, with_ids=False) as stream:
            await _move(cluster, names[0], 4, pause)
        assert not stream.failures
        for name in names:
            assert await _log(broker, name) == list(range(-1, stream.sent))
        owner = cluster.owner(names[0])
        for node in cluster.primaries:
            expected = set(names) if node is owner else set()
            await eventually(
                lambda n=node, e=expected: n.shard_channels() & set(names) == e,  # type: ignore[misc]
                "the move of the subscriptions",
            )
        for name in names:
            await eventually(
                lambda n=name: (
                    {_number(f) for f in listener.heard[n]}  # type: ignore[misc]
                    == set(range(-1, stream.sent))
                ),
                "all events",
            )
            # Nothing is wrong any more: what follows is pushed.
            await publish(publisher, name, b"1000000")
            await eventually(
                lambda n=name: listener.pushed[n][-1:] and _number(listener.pushed[n][-1]) == 10**6,  # type: ignore[misc]
                "the push",
            )
    await _healthy(broker)


async def test_what_follows_waits_until_what_was_refused_is_repeated(
    cluster: EngineCluster, broker: Broker, new_name: Callable[[], str]
) -> None:
    name = f"user:{new_name()}"
    source = cluster.owner(name)
    cluster.assign(slot_of(name), source, _others(cluster, source)[0])
    # The broker has not heard of it: the first ones are refused, and the last ones find the way.
    sent: list[Submission] = []
    for number in range(500):
        sent.append(await broker.log.submit(event(name, data=b"%d" % number), PUBLISHER))
        await asyncio.sleep(0.0001)
    assert not [submission for submission in sent if (await submission.receipt()).failure]
    assert await _log(broker, name) == list(range(500))


async def test_what_follows_waits_until_what_is_in_flight_elsewhere_is_answered(
    cluster: EngineCluster, broker: Broker, new_name: Callable[[], str]
) -> None:
    name = f"user:{new_name()}"
    source = cluster.owner(name)
    target = _others(cluster, source)[0]
    cluster.assign(slot_of(name), source, target)
    sent: list[Submission] = []
    os.kill(source.engine.pid, signal.SIGSTOP)  # it will refuse them when it goes on
    try:
        for number in range(20):
            sent.append(await broker.log.submit(event(name, data=b"%d" % number), PUBLISHER))
        await asyncio.sleep(0.05)
        shards = broker._engine.shards  # type: ignore[union-attr]
        await shards.renew(PATIENCE, Address("127.0.0.1", target.port))
        assert shards.by_slot[slot_of(name)].address.port == target.port  # type: ignore[union-attr]
        for number in range(20, 40):
            sent.append(await broker.log.submit(event(name, data=b"%d" % number), PUBLISHER))
        await asyncio.sleep(0.05)
    finally:
        os.kill(source.engine.pid, signal.SIGCONT)
    assert not [submission for submission in sent if (await submission.receipt()).failure]
    assert await _log(broker, name) == list(range(40))


async def test_events_with_and_without_ids_keep_their_order_while_a_slot_moves(
    cluster: EngineCluster, broker: Broker, new_name: Callable[[], str]
) -> None:
    # A new id is refused for as long as its slot moves (TRYAGAIN), what has none is not.
    name = f"user:{new_name()}"
    await publish(broker, name, b"-1")
    async with _Stream(broker, [name], with_ids=True) as stream:
        await _move(cluster, name, 6, 0.02)
    log = await _log(broker, name)
    assert log == sorted(set(log))
    # What was overtaken is told, and everything else is there.
    assert len(log) == stream.sent + 1 - len(stream.failures)
    assert all(isinstance(lost.failure, EngineUnavailable) for lost in stream.failures)


async def test_listeners_hear_at_once_what_is_stored_while_a_slot_moves(
    cluster: EngineCluster, broker: Broker, new_name: Callable[[], str]
) -> None:
    name = f"user:{new_name()}"
    source = cluster.owner(name)
    target, _ = _others(cluster, source)
    listener = _Listener(broker)
    await broker.subscriptions.subscribe(name)
    await publish(broker, name, b"1")
    slot = slot_of(name)
    target.do("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    for key in source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
        source.do("MIGRATE", "127.0.0.1", target.port, key.decode(), 0, 5000)
    # The keys are there, the slot and its listeners are here.
    await publish(broker, name, b"2")
    await eventually(lambda: len(listener.pushed[name]) == 2, "the push")
    assert await _log(broker, name) == [1, 2]
    assert len(await broker.log.tips([name])) == 1
    cluster.assign(slot, source, target)
    await eventually(lambda: name in target.shard_channels(), "the subscription")
    await publish(broker, name, b"3")
    await eventually(lambda: len(listener.pushed[name]) == 3, "the push")


async def test_a_slot_without_keys_answers_when_it_has_moved(
    cluster: EngineCluster, broker: Broker, new_name: Callable[[], str]
) -> None:
    # While it moves, neither node takes commands of several keys that are not there.
    name = f"user:{new_name()}"
    source = cluster.owner(name)
    target, _ = _others(cluster, source)
    slot = slot_of(name)
    target.do("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    refused = await submit(broker, event(name))
    assert isinstance(refused.failure, EngineUnavailable)
    waiting = asyncio.create_task(submit(broker, event(name)))
    await asyncio.sleep(0.1)
    cluster.assign(slot, source, target)
    assert (await waiting).failure is None


async def test_a_new_node_takes_its_first_slot_and_then_all_of_a_shard(
    uneven: EngineCluster,
) -> None:
    cluster = uneven
    source, *_ = cluster.primaries
    async with open_broker(cluster.url, history_size=KEEP) as broker:
        listener = _Listener(broker)
        name = next(n for n in (f"user:{i}" for i in range(10**6)) if slot_of(n) < SMALL)
        new = await asyncio.to_thread(cluster.add)
        await broker.subscriptions.subscribe(name)
        await publish(broker, name, b"-1")
        async with _Stream(broker, [name], with_ids=False) as stream:
            await _move(cluster, name, 1, 0.05, target=new)
        assert not stream.failures
        assert await _log(broker, name) == list(range(-1, stream.sent))
        await eventually(lambda: name in new.shard_channels(), "the subscription")
        await eventually(lambda: len(listener.heard[name]) == stream.sent + 1, "all events")
        await _healthy(broker)  # it hears itself through a shard of one slot
        # The source is left without any; first goes the one through which it is probed.
        probe = next(
            slot_of(shard.subscriptions.probe_name)
            for shard in broker._engine.shards.open  # type: ignore[union-attr]
            if shard.address.port == source.port
        )
        for slot in sorted(range(SMALL), key=lambda slot: slot != probe):
            if slot != slot_of(name):
                await asyncio.to_thread(cluster.migrate, slot, source, new)
                shards = broker._engine.shards  # type: ignore[union-attr]
                await shards.renew(PATIENCE, Address("127.0.0.1", new.port))
                assert shards.by_slot[slot].address.port == new.port  # type: ignore[union-attr]
                assert _probes_are_at_home(broker)
        ports = {node.port for node in cluster.nodes} - {source.port}
        await eventually(lambda: _connected(cluster) == ports, "the links to the new shards only")
        await publish(broker, name)
        await _healthy(broker)


def _probes_are_at_home(broker: Broker) -> bool:
    shards = broker._engine.shards  # type: ignore[union-attr]
    names = {shard: shard.subscriptions.probe_name for shard in shards.open}
    return all(shards.by_slot[slot_of(name)] is shard for shard, name in names.items())


def _connected(cluster: EngineCluster) -> set[int]:
    """Ports of the nodes to which a broker has links."""
    return {
        node.port
        for node in cluster.nodes
        if any(entry["name"] == "herald" for entry in node.client.client_list())
    }


async def test_a_slot_that_moves_in_one_step_loses_nothing(
    cluster: EngineCluster, broker: Broker, new_name: Callable[[], str]
) -> None:
    name = f"user:{new_name()}"
    source = cluster.owner(name)
    if int(source.client.info("server").get("valkey_version", "0").partition(".")[0]) < 9:
        pytest.skip("this engine has no CLUSTER MIGRATESLOTS (Valkey 9)")
    target, _ = _others(cluster, source)
    listener = _Listener(broker)
    await broker.subscriptions.subscribe(name)
    async with _Stream(broker, [name], with_ids=True) as stream:
        await eventually(lambda: stream.sent > 100, "the stream")
        slot = slot_of(name)
        source.do("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id)
        await eventually(lambda: cluster.owner(name) is target, "the move")
    assert not stream.failures
    assert await _log(broker, name) == list(range(stream.sent))
    await eventually(lambda: len(listener.heard[name]) == stream.sent, "all events")
    await eventually(lambda: name in target.shard_channels(), "the subscription")


# Nodes that fail


async def test_a_killed_primary_is_replaced_by_its_replica(
    replicated: EngineCluster, new_name: Callable[[], str]
) -> None:
    cluster = replicated
    dying, replica = cluster.primaries[0], cluster.replicas[0]
    names = [f"user:{new_name()}" for _ in range(30)]
    theirs = [name for name in names if cluster.owner(name) is dying]
    others = [name for name in names if name not in theirs]
    assert theirs
    async with open_broker(cluster.url, history_size=KEEP) as broker:
        await _healthy(broker)
        listener = _Listener(broker)
        for name in names:
            await broker.subscriptions.subscribe(name)
        old = {name: await publish(broker, name, b"1") for name in names}
        before = dying.client.info("replication")["master_repl_offset"]
        await eventually(
            lambda: replica.client.info("replication")["slave_repl_offset"] >= before, "the copy"
        )
        dying.engine.kill()
        await eventually(lambda: broker.trouble() is not None, "the trouble")
        assert f"127.0.0.1:{dying.port}" in (broker.trouble() or "")
        for name in others:  # no other shard is in any way concerned
            await publish(broker, name, b"2")
        for name in theirs:
            assert (await publish_again(broker, name)).epoch > old[name].epoch
            await broker.wait_open(PATIENCE)  # one reads by another link
            assert len((await broker.log.read(name, BEGINNING)).entries) == 2
        await _healthy(broker)
        for name in names:
            await eventually(lambda n=name: len(listener.heard[n]) == 2, "all events")  # type: ignore[misc]
        await publish(broker, theirs[0], b"3")
        await eventually(lambda: len(listener.heard[theirs[0]]) == 3, "the push")
        # The old primary comes back as a replica, and nobody minds.
        dying.engine.restart()
        await asyncio.sleep(1.0)
        await publish(broker, theirs[0], b"4")
        await _healthy(broker)


async def test_a_stopped_primary_fails_its_own_channels_only(
    cluster: EngineCluster, new_name: Callable[[], str]
) -> None:
    stopped = cluster.primaries[2]
    names = [f"user:{new_name()}" for _ in range(20)]
    theirs = next(name for name in names if cluster.owner(name) is stopped)
    other = next(name for name in names if cluster.owner(name) is not stopped)
    async with open_broker(cluster.url, timeout=0.5) as broker:
        os.kill(stopped.engine.pid, signal.SIGSTOP)
        try:
            receipt = await submit(broker, event(theirs, other))
            assert isinstance(receipt.failure, EngineUnavailable)
            assert receipt.positions.keys() == {other}
            with pytest.raises(EngineUnavailable):
                await broker.log.read(theirs, None)
            assert str(stopped.port) in (broker.trouble() or "")
        finally:
            os.kill(stopped.engine.pid, signal.SIGCONT)
        await publish_again(broker, theirs)
        await _healthy(broker)


async def test_a_lost_subscription_is_told_for_the_channels_of_its_shard(
    cluster: EngineCluster, broker: Broker, channel: str
) -> None:
    names = [f"{channel}/{number}" for number in range(30)]
    for name in names:
        await broker.subscriptions.subscribe(name)
    told: list[str] = []
    broker.subscriptions.on_restored(told.extend)
    node = cluster.primaries[1]
    node.do("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: told, "the restoration")
    await _healthy(broker)
    assert sorted(told) == sorted(name for name in names if cluster.owner(name) is node)


async def test_forgotten_scripts_are_taught_again_in_order(
    cluster: EngineCluster, broker: Broker, channel: str
) -> None:
    await publish(broker, channel, b"-1")
    cluster.owner(channel).do("SCRIPT", "FLUSH")
    sent = [
        await broker.log.submit(event(channel, data=b"%d" % number), PUBLISHER)
        for number in range(50)
    ]
    receipts = [await submission.receipt() for submission in sent]
    assert not [receipt for receipt in receipts if receipt.failure]
    assert await _log(broker, channel) == list(range(-1, 50))


# What is wrong is said


async def test_an_engine_that_is_no_cluster_is_named() -> None:
    with tcp_engine() as engine:
        url = engine.url.replace("redis:", "redis+cluster:")
        async with running_broker(url) as broker:
            await eventually(lambda: "cluster support disabled" in (broker.trouble() or ""))
            assert f"127.0.0.1:{engine.port}" in (broker.trouble() or "")
            with pytest.raises(EngineUnavailable, match="cluster support disabled"):
                await broker.wait_open(0.0)


async def test_seeds_that_are_away_are_named_and_publishing_fails_in_time(channel: str) -> None:
    port = free_port()
    async with running_broker(f"redis+cluster://127.0.0.1:{port}") as broker:
        await eventually(lambda: f"127.0.0.1:{port}" in (broker.trouble() or ""))
        receipt = await submit(broker, event(channel))
        assert isinstance(receipt.failure, EngineUnavailable)
        with pytest.raises(EngineUnavailable):
            await broker.log.read(channel, None)
        assert broker.probe_age() is None


async def test_slots_that_nobody_has_are_trouble(channel: str) -> None:
    with tcp_engine("--cluster-enabled", "yes", "--cluster-port", str(free_port())) as engine:
        await _wait_for_slots(engine, channel)


async def _wait_for_slots(engine: TcpEngine, channel: str) -> None:
    async with running_broker(engine.url.replace("redis:", "redis+cluster:")) as broker:
        await eventually(lambda: "no primary has the slots 0-16383" in (broker.trouble() or ""))
        waiting = asyncio.create_task(broker.subscriptions.subscribe(channel))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        with client_of(engine.url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await waiting  # it waited for its slot's owner
        await publish_again(broker, channel)
        await _healthy(broker)


async def test_bad_credentials_are_the_trouble(cluster: EngineCluster) -> None:
    async with running_broker(cluster.url_as("herald:wrong-secret@")) as broker:
        await eventually(lambda: "WRONGPASS" in (broker.trouble() or ""), "the refusal")
        assert "wrong-secret" not in (broker.trouble() or "")


@pytest.mark.parametrize("missing", [None, *CLUSTER_RULES[:2]])
async def test_the_listed_rules_are_enough_and_none_is_too_much(
    cluster: EngineCluster, missing: str | None, new_name: Callable[[], str]
) -> None:
    rules = [rule for rule in (*RULES, *CLUSTER_RULES) if rule != missing]
    user = new_name()
    for node in cluster.nodes:
        node.do("ACL", "SETUSER", user, "reset", "on", ">secret", *rules)
    async with running_broker(cluster.url_as(f"{user}:secret@")) as broker:
        if missing is not None:
            await eventually(lambda: "permission" in (broker.trouble() or ""), "the refusal")
            return
        await broker.wait_open(PATIENCE)
        await _healthy(broker)
        names = [f"user:{user}/{number}" for number in range(9)]
        for name in names:
            await broker.subscriptions.subscribe(name)
        await publish(broker, names[0])
        await _move(cluster, names[0], 1, 0.05)
        assert (await submit(broker, event(*names, id="1"))).failure is None
        for name in names:
            await broker.log.read(name, BEGINNING)
            broker.subscriptions.unsubscribe(name)
        await _healthy(broker)


async def test_closed_broker_leaves_no_connection(cluster: EngineCluster) -> None:
    def named() -> int:
        return sum(
            entry["name"] == "herald"
            for node in cluster.primaries
            for entry in node.client.client_list()
        )

    await eventually(lambda: named() == 0, "the end of other tests' connections")
    async with open_broker(cluster.url):
        await eventually(lambda: named() == 9, "three connections a shard")
    await eventually(lambda: named() == 0, "the end of the connections")


# Copies before the answer


@pytest.fixture
def copied() -> Iterator[EngineCluster]:
    """Three primaries, each with a replica."""
    with running_cluster(3, 3) as cluster:
        yield cluster


async def test_each_shards_own_replicas_are_waited_for(copied: EngineCluster, channel: str) -> None:
    cluster = copied
    names = [f"{channel}/{number}" for number in range(30)]
    late = cluster.replicas[0]
    theirs = [name for name in names if cluster.owner(name) is cluster.primaries[0]]
    assert 0 < len(theirs) < len(names)
    async with open_broker(cluster.url, min_replicas=1, replica_timeout=3.0) as broker:
        await _healthy(broker)
        await eventually(lambda: broker.replicas() == 1, "the count")
        for name in names:
            position = await publish(broker, name, id="1")
            replica = cluster.replicas[cluster.primaries.index(cluster.owner(name))]
            assert _position_at(replica, name) == str(position)  # at once
        os.kill(late.engine.pid, signal.SIGSTOP)
        try:
            receipt = await submit(broker, event(*names, id="2"))
            assert isinstance(receipt.failure, NotCopied)
            assert list(receipt.failure.positions) == theirs
            assert receipt.positions.keys() == set(names) - set(theirs)
            assert broker.trouble() is None
        finally:
            os.kill(late.engine.pid, signal.SIGCONT)
        again = await submit(broker, event(*names, id="2"))
        assert again.duplicate
        assert again.positions == {**receipt.positions, **receipt.failure.positions}


def _position_at(replica: Node, channel: str) -> str:
    """The last position that a replica knows of."""
    with redis.Redis(port=replica.port, single_connection_client=True) as client:
        client.readonly()
        meta = client.get(keys.meta_key(channel)) or b"- -"
    return "-".join(meta.decode().split()[:2])


async def test_a_slot_that_moves_under_load_keeps_the_order_and_its_copies(
    copied: EngineCluster, new_name: Callable[[], str]
) -> None:
    cluster = copied
    names = _together(new_name(), 3)
    async with open_broker(cluster.url, history_size=KEEP, min_replicas=1) as broker:
        for name in names:
            await publish(broker, name, b"-1")
        async with _Stream(broker, names, with_ids=False) as stream:
            await _move(cluster, names[0], 4, 0.01)
        assert not stream.failures
        for name in names:
            assert await _log(broker, name) == list(range(-1, stream.sent))


async def test_what_was_accepted_is_with_the_replica_that_takes_over(
    copied: EngineCluster, new_name: Callable[[], str]
) -> None:
    cluster = copied
    dying = cluster.primaries[0]
    name = next(n for n in iter(lambda: f"user:{new_name()}", "") if cluster.owner(n) is dying)
    async with open_broker(
        cluster.url, history_size=KEEP, min_replicas=1, replica_timeout=3.0
    ) as broker:
        await _healthy(broker)
        sent = [
            await broker.log.submit(event(name, data=b"%d" % number, id=str(number)), PUBLISHER)
            for number in range(200)
        ]
        await sent[0].receipt()
        dying.engine.kill()
        receipts = [await submission.receipt() for submission in sent]
        accepted = [n for n, receipt in enumerate(receipts) if receipt.failure is None]
        assert accepted
        # It has no replica of its own now: what it stores is not accepted.
        async with asyncio.timeout(PATIENCE):
            while not isinstance(
                (alone := await submit(broker, event(name, data=b"1000", id="1000"))).failure,
                NotCopied,
            ):
                assert isinstance(alone.failure, EngineUnavailable)
        log = await _log(broker, name)
        assert set(accepted) <= set(log)
        assert log == sorted(set(log))
        dying.engine.restart()  # as its replica
        async with asyncio.timeout(PATIENCE):
            while (again := await submit(broker, event(name, data=b"1000", id="1000"))).failure:
                await asyncio.sleep(0.1)
        assert again.duplicate
