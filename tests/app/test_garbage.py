"""Herald's own objects make no cycles: reference counts free them, without a collection."""

from __future__ import annotations

import asyncio
import gc
import weakref

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
