"""Engines that restart, fail over, forget, refuse, or stand still."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Awaitable, Callable, Sequence

import redis

from service.broker.topology import slot_of
from tests.chaos.actors import Subscriber
from tests.chaos.books import Gap
from tests.chaos.engines import (
    DURABLE,
    Durable,
    ReplicatedCluster,
    SentinelSet,
    Server,
    Single,
    until,
)
from tests.chaos.partition import SplitSentinelSet
from tests.chaos.world import PATIENCE, Scenario, World
from tests.harness.cluster import Node
from tests.harness.process import Herald


async def _restarted(world: World) -> None:
    for _ in range(world.scale.repeats):
        server = world.single.server
        world.strike()
        server.process.kill()
        await world.all_unready()
        await asyncio.to_thread(server.process.restart)
        await world.all_ready()
        await world.go_on()


async def _restarted_meanwhile(world: World) -> None:
    """The engine restarts, twice, while nobody listens; publishing goes on before and between."""
    for _ in range(world.scale.repeats):
        for subscriber in world.subscribers:
            subscriber.leave()
        await world.deserted()  # so that no gateway crosses the ends of epochs for anybody
        await world.go_on()
        for _ in range(2):
            world.strike()
            world.single.server.process.kill()
            await world.all_unready()
            await asyncio.to_thread(world.single.server.process.restart)
            await world.all_ready()
            await world.go_on()
        for subscriber in world.subscribers:
            subscriber.come_back()
        await world.connected()
        await world.go_on()


async def _failover(world: World) -> None:
    engine = world.engine
    assert isinstance(engine, SentinelSet)
    for _ in range(world.scale.repeats):
        old = await asyncio.to_thread(engine.primary)
        world.strike()
        old.process.kill()
        await world.all_unready()
        await asyncio.to_thread(engine.wait_for_another, old)
        await world.all_ready()
        await world.go_on()
        await asyncio.to_thread(old.process.restart)
        await asyncio.to_thread(engine.wait_whole)


async def _two_primaries(world: World) -> None:
    """The old primary and one gateway on one side, everybody else of the engine on the other.

    Clients and publishers reach all gateways, and some go from one side to the other.
    """
    engine = world.engine
    assert isinstance(engine, SplitSentinelSet)
    for _ in range(world.scale.repeats):
        old = await asyncio.to_thread(engine.primary)
        near = world.chance.choice(world.nodes)
        await asyncio.to_thread(engine.split, [old.process.pid, near.process.pid])
        await asyncio.to_thread(engine.wait_for_another, old)
        await _store(world.nodes)
        await _wander(world)
        await _store(world.nodes)
        assert old.admin.info("replication")["role"] == "master"
        assert await asyncio.to_thread(engine.primary) is not old
        await asyncio.to_thread(engine.heal)
        await asyncio.to_thread(until, functools.partial(_follows, old.admin))
        await asyncio.to_thread(engine.wait_whole)
        await world.all_ready()
        await world.go_on()


async def _wander(world: World) -> None:
    """Some break off and go anywhere, until one was led from the new log back to the old one."""
    wanderers = world.subscribers[2:]
    before = sum(map(_ways_back, wanderers))
    async with asyncio.timeout(PATIENCE):
        while sum(map(_ways_back, wanderers)) == before:
            for wanderer in wanderers:
                wanderer.welcomed.clear()
                wanderer.break_off()
            await world.connected()
            await asyncio.sleep(0.1)


def _ways_back(subscriber: Subscriber) -> int:
    records = (record for records in subscriber.book.records.values() for record in records)
    return sum(isinstance(record, Gap) and record.to < record.since for record in records)


async def _store(nodes: Sequence[Herald]) -> None:
    """Until each of them has had some more events stored, be they copied or not."""

    def stored(node: Herald) -> float:
        metrics = node.metrics()
        return metrics["herald_events_accepted_total"] + metrics["herald_events_uncopied_total"]

    def grown() -> bool:
        return all(stored(node) >= count + 3 for node, count in before.items())

    before = {node: await asyncio.to_thread(stored, node) for node in nodes}
    await asyncio.to_thread(until, grown)


def _follows(client: redis.Redis) -> bool:
    """Whether it is a replica, and has all that its primary has."""
    return bool(client.info("replication").get("master_link_status") == "up")


async def _cluster_failover(world: World) -> None:
    engine = world.engine
    assert isinstance(engine, ReplicatedCluster)
    for _ in range(world.scale.repeats):
        old = await asyncio.to_thread(engine.primary_of, "all")
        world.strike()
        old.engine.kill()
        await world.all_unready()
        await asyncio.to_thread(engine.wait_for_another, old)
        await world.all_ready()
        await world.go_on()
        await asyncio.to_thread(old.engine.restart)
        await asyncio.to_thread(_until_replica, old)


def _until_replica(node: Node) -> None:
    until(lambda: _follows(node.client))


async def _slots_moved(world: World) -> None:
    engine = world.engine
    assert isinstance(engine, ReplicatedCluster)
    for _ in range(world.scale.repeats):
        for channel in ("all", "user:u0", "topic:t0"):
            source = await asyncio.to_thread(engine.primary_of, channel)
            others = [node for node in engine.primaries() if node is not source]
            target = world.chance.choice(others)
            slot = slot_of(channel)
            await asyncio.to_thread(engine.cluster.migrate, slot, source, target, 0.2)
            await world.go_on()


async def _scripts_flushed(world: World) -> None:
    for _ in range(20 * world.scale.repeats):
        await asyncio.to_thread(world.single.server.admin.script_flush)
        await asyncio.sleep(0.05)


async def _subscribers_killed(world: World) -> None:
    for _ in range(10 * world.scale.repeats):
        await asyncio.to_thread(world.single.server.do, "CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.sleep(0.1)


async def _everybody_killed(world: World) -> None:
    for _ in range(10 * world.scale.repeats):
        for kind in ("normal", "pubsub"):
            await asyncio.to_thread(
                world.single.server.do, *("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            )
        await asyncio.sleep(0.2)


async def _buffer_overrun(world: World) -> None:
    """A gateway that does not read for a while, and an engine that keeps little for it."""
    server = world.single.server
    server.do("CONFIG", "SET", "client-output-buffer-limit", "pubsub 64kb 0 0")
    for publisher in world.publishers:
        publisher.padding = "x" * 30_000
    for _ in range(world.scale.repeats):
        before = _overruns(server)
        slow = world.nodes[0]
        slow.signal(signal.SIGSTOP)
        world.avoided.add(slow.port)
        try:
            for _ in range(600):  # the kernel's buffers are filled first
                if _overruns(server) > before:
                    break
                await world.go_on(10)
            else:
                raise AssertionError("the buffer never overran")
        finally:
            slow.signal(signal.SIGCONT)
            world.avoided.clear()
        await world.go_on()
    for publisher in world.publishers:
        publisher.padding = ""


def _overruns(server: Server) -> int:
    return int(server.admin.info("stats")["client_output_buffer_limit_disconnections"])


def _refusing(name: str, value: str, usual: str) -> Callable[[World], Awaitable[None]]:
    """A configuration with which the engine takes no writes, for a while."""

    async def fault(world: World) -> None:
        server = world.single.server
        for _ in range(world.scale.repeats):
            world.strike()
            server.do("CONFIG", "SET", name, value)
            await world.all_unready()
            await world.hold()
            server.do("CONFIG", "SET", name, usual)
            await world.all_ready()

    return fault


async def _demoted(world: World) -> None:
    """It becomes a replica of nobody who is there, and is promoted again."""
    server = world.single.server
    for _ in range(world.scale.repeats):
        world.strike()
        server.do("REPLICAOF", "127.0.0.1", "1")
        await world.all_unready()
        server.do("REPLICAOF", "NO", "ONE")
        await world.all_ready()
        await world.go_on()


async def _loading(world: World) -> None:
    """A restart from a large log, during which the engine answers LOADING."""
    server = world.single.server

    def fill() -> None:
        with server.admin.pipeline(transaction=False) as pipeline:
            for number in range(20_000):
                pipeline.set(f"filler:{number}", "x")
            pipeline.execute()
        server.admin.bgrewriteaof()
        until(lambda: not server.admin.info("persistence")["aof_rewrite_in_progress"])

    await asyncio.to_thread(fill)
    for _ in range(world.scale.repeats):
        server.process.kill()
        await asyncio.to_thread(server.process.restart)
        await world.all_ready()
        await world.go_on()


async def _stands_still(world: World) -> None:
    pid = world.single.server.process.pid
    for _ in range(world.scale.repeats):
        world.strike()
        os.kill(pid, signal.SIGSTOP)
        try:
            await world.all_unready()
            await asyncio.sleep(5.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        await world.all_ready()
        await world.go_on()


async def _wrong_password(world: World) -> None:
    server = world.single.server
    admin = server.admin
    with admin.client() as held:  # type: ignore[no-untyped-call]  # authenticated before, so it stays in
        for _ in range(world.scale.repeats):
            world.strike()
            held.execute_command("CONFIG", "SET", "requirepass", "changed")
            for kind in ("normal", "pubsub"):
                held.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await world.all_unready()
            await world.hold()
            held.execute_command("CONFIG", "SET", "requirepass", "")
            await world.all_ready()
            await world.go_on()
    with contextlib.suppress(redis.ConnectionError):
        admin.connection_pool.disconnect()


SCENARIOS = (
    Scenario(
        "engine restarted, nothing kept",
        "`kill -9` of an engine that keeps nothing on disk, started again",
        _restarted,
        gaps=True,
        unready=True,
    ),
    Scenario(
        "engine restarted, everything kept",
        "`kill -9` of an engine with an append-only file, fsync always, started again",
        _restarted,
        Durable,
        gaps=True,
        keeps=True,
        unready=True,
    ),
    Scenario(
        "engine restarted with clients away, nothing kept",
        "all clients away, meanwhile two times `kill -9` of an engine that keeps nothing on disk",
        _restarted_meanwhile,
        gaps=True,
        unready=True,
    ),
    Scenario(
        "engine restarted with clients away, everything kept",
        "all clients away, meanwhile two times `kill -9` of an engine with an append-only file",
        _restarted_meanwhile,
        Durable,
        gaps=True,
        keeps=True,
        unready=True,
    ),
    Scenario(
        "Sentinel failover",
        "`kill -9` of the primary of 1 + 2 with 3 sentinels; it comes back as a replica",
        _failover,
        SentinelSet,
        gaps=True,
        unready=True,
    ),
    Scenario(
        "two primaries",
        "the primary of 1 + 2 and one gateway cut off from replicas and sentinels, later healed",
        _two_primaries,
        SplitSentinelSet,
        gaps=True,
    ),
    Scenario(
        "two primaries, with copies",
        "the same with `HERALD_MIN_REPLICAS=1`",
        _two_primaries,
        SplitSentinelSet,
        settings={"min_replicas": "1", "replica_timeout": "0.2"},
        gaps=True,
        keeps=True,
    ),
    Scenario(
        "Cluster failover",
        "`kill -9` of one primary of 3 + 3; it comes back as a replica",
        _cluster_failover,
        ReplicatedCluster,
        gaps=True,
        unready=True,
    ),
    Scenario(
        "slots moved",
        "the slots of three channels moved to other shards, key by key",
        _slots_moved,
        ReplicatedCluster,
        gaps=True,
        keeps=True,
    ),
    Scenario("scripts flushed", "SCRIPT FLUSH, again and again", _scripts_flushed),
    Scenario(
        "subscriptions killed", "CLIENT KILL TYPE pubsub, again and again", _subscribers_killed
    ),
    Scenario("all links killed", "CLIENT KILL of everybody, again and again", _everybody_killed),
    Scenario(
        "output buffer overrun",
        "a stopped gateway, and 64 kB of output buffer: the engine cuts the subscription",
        _buffer_overrun,
    ),
    Scenario(
        "engine refuses writes",
        "min-replicas-to-write without replicas: NOREPLICAS",
        _refusing("min-replicas-to-write", "1", "0"),
        unready=True,
    ),
    Scenario(
        "engine read-only",
        "REPLICAOF somewhere, later REPLICAOF NO ONE",
        _demoted,
        gaps=True,
        keeps=True,
        unready=True,
    ),
    Scenario(
        "engine full",
        "maxmemory of one byte, noeviction: OOM",
        _refusing("maxmemory", "1", "0"),
        unready=True,
    ),
    Scenario(
        "engine loading",
        "restart with 20,000 keys, each of which takes 0.2 ms to load: LOADING",
        _loading,
        lambda: Single(
            *DURABLE,
            *("--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024"),
        ),
        gaps=True,
        keeps=True,
    ),
    Scenario(
        "engine stands still",
        "SIGSTOP of the engine for more than 5 s",
        _stands_still,
        unready=True,
    ),
    Scenario(
        "wrong password",
        "the engine's password changed and everybody thrown out, and changed back",
        _wrong_password,
        unready=True,
    ),
)
