"""The engine restarts, hangs, drops its subscriber: nothing is lost in silence."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from service.broker.embedded import EmbeddedEngine
from tests.harness.process import Client, Herald, eventually, mint, open_herald, open_plain


@pytest.fixture
def durable_engine() -> Iterator[EmbeddedEngine]:
    """An engine that keeps every write on disk."""
    engine = EmbeddedEngine(("--appendonly", "yes", "--appendfsync", "always"))
    yield engine
    engine.stop()


async def _take_until(client: Client, data: object) -> list[dict[str, Any]]:
    """The messages up to the event with this data."""
    taken: list[dict[str, Any]] = []
    while True:
        taken.append(await client.next())
        if taken[-1]["type"] == "event" and taken[-1]["data"] == data:
            return taken


@pytest.mark.parametrize("durable", [False, True])
async def test_connections_live_through_an_engine_restart_and_are_told_of_a_possible_loss(
    start: Callable[..., Herald],
    own_engine: EmbeddedEngine,
    durable_engine: EmbeddedEngine,
    user: str,
    durable: bool,
) -> None:
    engine = durable_engine if durable else own_engine
    herald = start(engine.url)
    channel = f"user:{user}"
    client = await open_plain(herald, token=mint(user))
    await client.expect("welcome")
    herald.publish(channel, "before")
    seen = await client.expect("event")
    engine.kill()
    await eventually(lambda: not herald.is_ready(), "readiness fails")
    refused = herald.post("/v1/events", {"to": channel, "type": "t"})
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    engine.restart()
    await eventually(herald.is_ready, "readiness returns")
    herald.publish(channel, "after")
    # `all` may have lost something too: its gap comes beside this one.
    told = [
        message for message in await _take_until(client, "after") if message["channel"] == channel
    ]
    assert [message["type"] for message in told] == ["gap", "event"]
    assert told[0]["from"] == seen["id"]
    # What the engine kept is delivered to a client that missed it, after the same warning.
    late = await open_herald(herald, token=mint(user), positions={channel: "0-0"})
    assert (await late.expect("welcome"))["channels"][channel]["recovered"] is True
    kept = [event["data"] for event in await late.events(2 if durable else 1)]
    assert kept == (["before", "after"] if durable else ["after"])
    for open_client in (client, late):
        await open_client.close()


async def test_a_killed_subscription_under_publishing_loses_nothing(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    herald = start(own_engine.url, history_size="100000")
    channel = f"user:{user}"
    clients = [await open_plain(herald, token=mint(user)) for _ in range(3)]
    for client in clients:
        await client.expect("welcome")
    total = 1500

    async def publish() -> None:
        for first in range(0, total, 10):
            events = [
                {"to": channel, "type": "n", "data": number} for number in range(first, first + 10)
            ]
            answer = await asyncio.to_thread(herald.post, "/v1/events/batch", {"events": events})
            assert all("positions" in result for result in answer.json()["results"])

    async def kill_subscriptions() -> None:
        with redis.Redis.from_url(own_engine.url) as admin:
            for _ in range(10):
                await asyncio.to_thread(admin.execute_command, "CLIENT", "KILL", "TYPE", "pubsub")
                await asyncio.sleep(0.1)

    work = asyncio.gather(publish(), kill_subscriptions())
    for client in clients:
        assert [event["data"] for event in await client.events(total)] == list(range(total))
    await work
    assert herald.metrics()['herald_engine_reconnects_total{link="subscribe"}'] >= 1
    for client in clients:
        await client.close()


async def test_readiness_tells_of_a_hanging_engine_and_recovers(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    herald = start(own_engine.url, engine_timeout="1")
    client = await open_plain(herald, token=mint(user))
    await client.expect("welcome")
    os.kill(own_engine.pid, signal.SIGSTOP)
    try:
        await eventually(lambda: not herald.is_ready(), "readiness fails")
        assert herald.http.get("/healthz/live").status_code == 200
        answer = await asyncio.to_thread(
            herald.post, "/v1/events", {"to": f"user:{user}", "type": "t"}
        )
        assert answer.status_code == 503
    finally:
        os.kill(own_engine.pid, signal.SIGCONT)
    await eventually(herald.is_ready, "readiness returns")
    herald.publish(f"user:{user}", "after")
    await _take_until(client, "after")
    await client.close()


async def test_flushed_scripts_are_taught_again(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    herald = start(own_engine.url)
    with redis.Redis.from_url(own_engine.url) as admin:
        admin.script_flush()
        herald.publish(f"user:{user}", 1)
        admin.script_flush()
    client = await open_herald(herald, token=mint(user), positions={f"user:{user}": "0-0"})
    await client.expect("welcome")
    assert (await client.expect("event"))["data"] == 1
    await client.close()


async def test_flushed_data_is_told_with_a_gap(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    herald = start(own_engine.url)
    channel = f"user:{user}"
    client = await open_plain(herald, token=mint(user))
    await client.expect("welcome")
    for number in range(3):
        herald.publish(channel, number)
    last = (await client.events(3))[-1]["id"]
    with redis.Redis.from_url(own_engine.url) as admin:
        admin.flushall()
    herald.publish(channel, "after")
    assert (await client.expect("gap"))["from"] == last
    assert (await client.expect("event"))["data"] == "after"
    await client.close()


async def test_an_engine_that_is_away_turns_clients_away_for_now(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    herald = start(own_engine.url)
    own_engine.kill()
    await eventually(lambda: not herald.is_ready(), "readiness fails")
    client = await open_herald(herald, token=mint(user))
    assert await client.closed() == 1013
    own_engine.restart()
    await eventually(herald.is_ready, "readiness returns")
    with contextlib.closing(redis.Redis.from_url(own_engine.url)) as admin:
        assert admin.ping()
    client = await open_herald(herald, token=mint(user))
    await client.expect("welcome")
    await client.close()


async def test_herald_starts_before_its_engine(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, tmp_path: object, user: str
) -> None:
    own_engine.kill()
    herald = Herald(own_engine.url, own_engine.directory)
    try:
        await eventually(
            lambda: "listening" in herald.log_file.read_text(), "it listens without an engine"
        )
        assert not herald.is_ready()
        assert herald.http.get("/healthz/live").status_code == 200
        own_engine.restart()
        await eventually(herald.is_ready, "readiness")
    finally:
        assert herald.stop() == 0


async def test_a_full_engine_refuses_and_loses_nothing(
    start: Callable[..., Herald], user: str
) -> None:
    engine = EmbeddedEngine(("--maxmemory", "6mb"))
    try:
        herald = start(engine.url)
        channel = f"user:{user}"
        client = await open_plain(herald, token=mint(user))
        await client.expect("welcome")
        accepted = 0
        for number in range(400):
            body = {"to": f"topic:{user}-{number}", "type": "t", "data": "x" * 60_000}
            if herald.post("/v1/events", body).status_code == 503:
                break
            accepted += 1
        else:
            raise AssertionError("the engine was never full")
        with redis.Redis.from_url(engine.url) as admin:
            admin.config_set("maxmemory", "100mb")
        herald.publish(channel, accepted)
        assert (await client.expect("event"))["data"] == accepted
        await client.close()
    finally:
        engine.stop()
