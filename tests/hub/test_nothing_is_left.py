"""However a connection ends, nothing of it stays: here, at the engine, or in the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis

from service.broker.embedded import EmbeddedEngine
from tests.harness.process import Herald, eventually, mint
from tests.hub.wire import BINARY, close, frame, handshake, opened, plain, text

_ROUNDS = 30


async def _clean(herald: Herald, user: str) -> None:
    async with plain(herald, user) as wire:
        await wire.send(close(1000))
        assert await wire.closed(answer=False) == 1000


async def _reset(herald: Herald, user: str) -> None:
    async with plain(herald, user) as wire:
        wire.reset()


async def _violation(herald: Herald, user: str) -> None:
    async with plain(herald, user) as wire:
        await wire.send(frame(BINARY))
        assert await wire.closed() == 1003


async def _during_join(herald: Herald, user: str) -> None:
    async with opened(herald) as wire:
        await wire.send(handshake(mint(user)))
        wire.reset()


async def _during_replay(herald: Herald, user: str) -> None:
    async with opened(herald) as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        request = handshake(mint(user, topics=["big"]))
        await wire.send(request.replace(b"?token", b"?since=topic:big@0-0&token"))
        await eventually(lambda: herald.metrics()["herald_outbox_bytes"] > 0, "a full buffer")
        wire.reset()


async def _subscribe_and_leave(herald: Herald, user: str) -> None:
    async with plain(herald, user, topics=["*"]) as wire:
        await wire.send(text(type="subscribe", topic="t", position="0-0"))


async def _leave_a_replay_and_come_again(herald: Herald, user: str) -> None:
    async with plain(herald, user, topics=["b*"]) as wire:
        again = text(type="subscribe", topic="big", position="0-0")
        await wire.send(again + text(type="unsubscribe", topic="big") + again)


async def _expired(herald: Herald, user: str) -> None:
    async with plain(herald, user, ttl=1.2) as wire:
        assert await wire.closed() == 3000


async def _refused(herald: Herald, user: str) -> None:
    async with opened(herald) as wire:
        await wire.send(handshake("nonsense"))
        assert await wire.head() == 401


async def _refused_after_upgrade(herald: Herald, user: str) -> None:
    async with opened(herald) as wire:
        # With a `connect` that must not be begun any more.
        await wire.send(handshake("nonsense", herald=True) + text(type="connect", token=mint(user)))
        assert await wire.head() == 101
        assert await wire.closed() == 3000


_WAYS: list[Callable[[Herald, str], Awaitable[None]]] = [
    _clean,
    _reset,
    _violation,
    _during_join,
    _during_replay,
    _subscribe_and_leave,
    _leave_a_replay_and_come_again,
    _expired,
    _refused,
    _refused_after_upgrade,
]


async def test_300_connections_that_end_in_every_way_leave_nothing(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, new_name: Callable[[], str]
) -> None:
    herald = start(own_engine.url, jwt_leeway="0", history_size="1000")
    for _ in range(200):  # 10 MB: more than the kernel takes for one socket
        herald.publish("topic:big", "x" * 50_000)
    descriptors = Path(f"/proc/{herald.process.pid}/fd")
    await _clean(herald, new_name())
    before = len(list(descriptors.iterdir()))
    for way in _WAYS:
        rounds = [way(herald, new_name()) for _ in range(_ROUNDS)]
        if way is _expired:  # they wait together
            await asyncio.gather(*rounds)
        else:
            for one in rounds:
                await one

    def all_gone() -> bool:
        now = herald.metrics()
        names = ("herald_connections", "herald_users", "herald_channels")
        return all(now[name] == 0 for name in names)

    await eventually(all_gone, "every connection was freed")
    with contextlib.closing(redis.Redis.from_url(own_engine.url)) as client:

        def only_the_probe() -> bool:
            channels = client.execute_command("PUBSUB", "SHARDCHANNELS")
            return len(channels) == 1 and b"probe:" in channels[0]

        await eventually(only_the_probe, "the engine's channels were given up")
    await eventually(lambda: len(list(descriptors.iterdir())) <= before, "files were closed")
    for line in herald.log().splitlines():
        assert json.loads(line)["level"] not in ("error", "critical"), line
