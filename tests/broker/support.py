"""What the broker's tests share: a connected broker, events, and engines that listen on TCP."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import TypedDict, Unpack

import redis

from service.broker.broker import Broker
from service.broker.copies import Copies
from service.broker.embedded import EmbeddedEngine
from service.broker.endpoint import parse_engine_url
from service.broker.event_log import LogPolicy
from service.core.errors import EngineUnavailable
from service.core.event import Event
from service.core.position import Position, parse_position
from service.core.principal import Publisher
from service.ports import Receipt
from tests.harness.process import PATIENCE, eventually, free_port

PUBLISHER = Publisher("key")


def event(
    *channels: str,
    data: bytes = b"1",
    id: str | None = None,
    ttl_ms: int | None = None,
    type: str = "test",
) -> Event:
    return Event(channels, type, data, id, ttl_ms)


class Options(TypedDict, total=False):
    """What a test wants otherwise than here; the first seven are `LogPolicy`'s."""

    history_size: int
    history_ttl: float
    page_bytes: int
    max_in_flight: int
    max_bytes: int
    min_replicas: int
    replica_timeout: float
    timeout: float
    reopened: list[str]


@contextlib.asynccontextmanager
async def running_broker(url: str, **options: Unpack[Options]) -> AsyncIterator[Broker]:
    """A broker that has begun to connect; see also `open_broker`."""
    least = options.get("min_replicas", 0)
    default = LogPolicy(options.get("history_size", 100), options.get("history_ttl", 86400.0))
    broker = Broker(
        parse_engine_url(url),
        secrets.token_hex(6),
        LogPolicy(
            default.history_size,
            default.history_ttl,
            options.get("page_bytes", default.page_bytes),
            options.get("max_in_flight", default.max_in_flight),
            options.get("max_bytes", default.max_bytes),
            Copies(least, options.get("replica_timeout", 10.0)) if least else None,
        ),
        options.get("timeout", PATIENCE),
        options.get("reopened", []).append,
    )
    broker.start()
    try:
        yield broker
    finally:
        await broker.close()


@contextlib.asynccontextmanager
async def open_broker(url: str, **options: Unpack[Options]) -> AsyncIterator[Broker]:
    """A broker whose links are open."""
    async with running_broker(url, **options) as broker:
        await broker.wait_open(PATIENCE)
        yield broker


async def submit(broker: Broker, sent: Event, publisher: Publisher = PUBLISHER) -> Receipt:
    return await (await broker.log.submit(sent, publisher)).receipt()


async def publish(
    broker: Broker,
    channel: str,
    data: bytes = b"1",
    *,
    id: str | None = None,
    ttl_ms: int | None = None,
) -> Position:
    """Publish one event that must be stored; its position."""
    receipt = await submit(broker, event(channel, data=data, id=id, ttl_ms=ttl_ms))
    assert receipt.failure is None, receipt
    return parse_position(receipt.positions[channel])


async def publish_again(broker: Broker, channel: str) -> Position:
    """As `publish`, repeated while the engine is away."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(EngineUnavailable):
                receipt = await submit(broker, event(channel))
                if receipt.failure is None:
                    return parse_position(receipt.positions[channel])
            await asyncio.sleep(0.02)


@contextlib.contextmanager
def running_engine(*arguments: str) -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine(arguments)
    try:
        yield engine
    finally:
        engine.stop()


class TcpEngine:
    """An engine that listens on TCP too, as replication needs it."""

    def __init__(self, *arguments: str) -> None:
        self.port = free_port()
        self.embedded = EmbeddedEngine(
            # Without the delay a replica is copied to at once instead of after 5 s.
            ("--port", str(self.port), "--repl-diskless-sync-delay", "0", *arguments)
        )
        self.url = f"redis://127.0.0.1:{self.port}"


@contextlib.contextmanager
def tcp_engine(*arguments: str) -> Iterator[TcpEngine]:
    engine = TcpEngine(*arguments)
    try:
        yield engine
    finally:
        engine.embedded.stop()


@contextlib.contextmanager
def client_of(url: str) -> Iterator[redis.Redis]:
    """redis-py, to look at an engine from outside."""
    client = redis.Redis.from_url(url)
    try:
        yield client
    finally:
        client.close()


async def synced(replica: redis.Redis) -> None:
    """Wait until a replica has its primary's data."""
    await eventually(
        lambda: replica.info("replication").get("master_link_status") == "up", "the replica's copy"
    )


async def following(primary: redis.Redis, count: int) -> None:
    """Wait until so many replicas confirm what is written; they are online a second before."""

    def online() -> int:
        facts = primary.info("replication").values()
        return sum(isinstance(fact, dict) and fact["state"] == "online" for fact in facts)

    await eventually(lambda: online() == count, "the replicas")
    primary.set("written", "", px=60_000)
    await eventually(lambda: primary.execute_command("WAIT", count, 1) >= count, "the copies")


async def caught_up(primary: redis.Redis, replica: redis.Redis) -> None:
    """Wait until a replica has what was written so far (WAIT: only what its caller wrote)."""
    offset = primary.info("replication")["master_repl_offset"]
    await eventually(
        lambda: replica.info("replication")["slave_repl_offset"] >= offset, "the replication"
    )
