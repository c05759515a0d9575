"""Engines that restart, fail over, forget, refuse, or stand still."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable

import redis

from service.broker.topology import slot_of
from tests.chaos.engines import (
    DURABLE,
    Durable,
    ReplicatedCluster,
    SentinelSet,
    Server,
    Single,
    until,
)
from tests.chaos.world import Scenario, World
from tests.harness.cluster import Node


async def _restarted(world: World) -> None:
    for _ in range(world.scale.repeats):
        server = world.single.server
        world.strike()
        server.process.kill()
        await world.all_unready()
        await asyncio.to_thread(server.process.restart)
        await world.all_ready()
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
    until(lambda: node.client.info("replication").get("master_link_status") == "up")


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
    with admin.client() as held:  # authenticated before, so it stays in
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
