"""Guarantee 5: a node that is told to stop moves its clients away and loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable

import pytest
from websockets.exceptions import InvalidStatus

from tests.harness.process import (
    KEY,
    Herald,
    eventually,
    mint,
    open_herald,
    open_plain,
    raw_websocket,
)


async def test_sigterm_tells_reconnect_closes_with_1012_and_exits_0(
    start: Callable[..., Herald], new_name: Callable[[], str]
) -> None:
    herald = start(drain_seconds="5")
    clients = [await open_herald(herald, token=mint(new_name())) for _ in range(10)]
    clients += [await open_plain(herald, token=mint(new_name())) for _ in range(10)]
    for client in clients:
        await client.expect("welcome")
    herald.signal(signal.SIGTERM)
    for client in clients:
        assert 0 <= (await client.expect("reconnect"))["after_ms"] <= 5000
        assert await client.closed() == 1012
    assert await asyncio.to_thread(herald.process.wait, 30) == 0


async def test_while_draining_readiness_fails_and_nobody_new_is_taken(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(drain_seconds="30")
    async with contextlib.AsyncExitStack() as stack:
        # Clients that answer nothing: the drain waits for their goodbye.
        for _ in range(3):
            reader, _ = await stack.enter_async_context(raw_websocket(herald, mint(user)))
            await reader.readuntil(b'"welcome"')
        herald.signal(signal.SIGTERM)
        await eventually(lambda: not herald.is_ready(), "readiness fails")
        with pytest.raises(InvalidStatus) as refused:
            await open_plain(herald, token=mint(user))
        answer = refused.value.response
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["content-type"] == "application/problem+json"
        late = await open_herald(herald, token=mint(user))
        assert await late.closed() == 1013
        assert herald.publish(f"user:{user}", "still accepted")["duplicate"] is False
    assert await asyncio.to_thread(herald.process.wait, 60) == 0


async def test_requests_in_flight_finish(start: Callable[..., Herald], user: str) -> None:
    herald = start(drain_seconds="0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", herald.port)
    body = json.dumps({"to": f"user:{user}", "type": "t", "data": "in flight"}).encode()
    writer.write(
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n" % (KEY.encode(), len(body))
    )
    writer.write(body[:10])
    await writer.drain()
    await asyncio.sleep(0.2)
    herald.signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    writer.write(body[10:])
    async with asyncio.timeout(30):
        answer = await reader.read(-1)
    assert answer.startswith(b"HTTP/1.1 202"), answer
    writer.close()
    assert await asyncio.to_thread(herald.process.wait, 30) == 0


async def test_clients_that_follow_the_advice_lose_nothing_in_a_rolling_restart(
    start: Callable[..., Herald], user: str
) -> None:
    old, new = start(drain_seconds="2"), start()
    channel = f"user:{user}"
    client = await open_herald(old, token=mint(user))
    await client.expect("welcome")
    position = old.publish(channel, 0)["positions"][channel]
    assert (await client.expect("event"))["data"] == 0
    old.signal(signal.SIGTERM)
    await client.expect("reconnect")
    new.publish(channel, 1)
    assert await client.closed() == 1012
    client = await open_herald(new, token=mint(user), positions={channel: position})
    assert (await client.expect("welcome"))["channels"][channel]["recovered"] is True
    assert (await client.expect("event"))["data"] == 1
    await client.close()


async def test_a_second_signal_cuts_the_drain_short(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(drain_seconds="600")
    async with raw_websocket(herald, mint(user)) as (reader, _):
        await reader.readuntil(b'"welcome"')
        herald.signal(signal.SIGTERM)
        await eventually(lambda: not herald.is_ready(), "draining")
        herald.signal(signal.SIGTERM)
        assert await asyncio.to_thread(herald.process.wait, 30) == 0
