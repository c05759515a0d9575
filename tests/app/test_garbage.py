"""Herald's own objects make no cycles: reference counts free them, without a collection."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.app.garbage import set_aside
from tests.harness.process import Herald, eventually, mint, open_herald, open_plain

CONNECTIONS = 200
_COLLECTED = 'python_gc_objects_collected_total{generation="%d"}'


def _collected(herald: Herald) -> float:
    metrics = herald.metrics()
    return sum(metrics[_COLLECTED % generation] for generation in range(3))


async def _connect_and_leave(herald: Herald, user: str, count: int) -> None:
    for number in range(count):
        opener = open_plain if number % 2 else open_herald
        client = await opener(herald, token=mint(user))
        await client.expect("welcome")
        if number % 3:
            await client.close()
        else:
            client.socket.transport.abort()
    await eventually(lambda: herald.metrics()["herald_connections"] == 0, "all being gone")


async def _stream_and_leave(herald: Herald, user: str, count: int) -> None:
    for number in range(count):
        topic = f"t{number % 7}"
        reader, writer = await asyncio.open_connection("127.0.0.1", herald.port)
        writer.write(
            f"GET /v1/stream?topics={topic} HTTP/1.1\r\nHost: herald\r\n"
            f"Authorization: Bearer {mint(user, topics=['t*'])}\r\n\r\n".encode()
        )
        if number % 5:  # the others leave before there is an answer
            await reader.readuntil(b'"type":"welcome"')
        if number % 3:
            writer.close()
        else:
            writer.transport.abort()
    await eventually(lambda: herald.metrics()["herald_connections"] == 0, "all being gone")


async def _ask_and_leave(herald: Herald, user: str, count: int) -> None:
    """What ASGI answers."""
    for number in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", herald.port)
        writer.write(b"GET /healthz/ready HTTP/1.1\r\nHost: herald\r\n\r\n")
        if number % 5:
            await reader.readuntil(b"\r\n\r\n")
        writer.close()


@pytest.mark.parametrize("come_and_leave", [_stream_and_leave, _ask_and_leave])
async def test_streams_and_requests_leave_no_cycles(
    herald: Herald,
    user: str,
    come_and_leave: Callable[[Herald, str, int], Coroutine[Any, Any, None]],
) -> None:
    await come_and_leave(herald, user, 20)
    before = _collected(herald)
    await come_and_leave(herald, user, CONNECTIONS)
    await asyncio.sleep(3)
    assert _collected(herald) - before < CONNECTIONS


async def test_connections_and_publishes_leave_no_cycles(herald: Herald, user: str) -> None:
    await _connect_and_leave(herald, user, 20)
    for _ in range(20):
        herald.publish(f"user:{user}")
    before = _collected(herald)
    await _connect_and_leave(herald, user, CONNECTIONS)
    for _ in range(CONNECTIONS):
        herald.publish(f"user:{user}")
    await asyncio.sleep(3)  # the collector looks every second, where there is anything
    # One object a connection would be seen; the scrapes themselves make a few.
    assert _collected(herald) - before < CONNECTIONS


def test_what_is_set_aside_is_still_freed_by_its_references() -> None:
    class Thing:
        pass

    seen: list[int] = []
    thing = Thing()
    weakref.finalize(thing, seen.append, 1)
    try:
        set_aside()
        del thing
        assert seen == [1]
    finally:
        gc.unfreeze()
