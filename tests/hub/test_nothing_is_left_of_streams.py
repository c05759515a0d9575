"""However a stream ends, nothing of it stays: here, at the engine, or in the log."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis

from service.broker.embedded import EmbeddedEngine
from tests.harness.process import Herald, eventually, mint
from tests.harness.streams import Stream, dial, stream_request, streaming

_PHASES = 5
_AT_ONCE = 20
_EACH = 2 * _AT_ONCE
"""Streams of a phase that end in the same way: 2,000 in all."""
_SMALL = 500_000
"""Bytes by which memory grows in some phase at most: the allocator takes what it needs once, but
what is left of a stream, 3 KB each, would come in every phase."""


def _reset(stream: Stream) -> None:
    """RST instead of FIN."""
    sock = stream.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.writer.transport.abort()


async def _left(herald: Herald, user: str) -> None:
    async with streaming(herald, token=mint(user)) as stream:
        await stream.expect("welcome")


async def _reset_when_open(herald: Herald, user: str) -> None:
    async with streaming(herald, token=mint(user)) as stream:
        await stream.expect("welcome")
        _reset(stream)


async def _half_closed(herald: Herald, user: str) -> None:
    async with streaming(herald, token=mint(user)) as stream:
        await stream.expect("welcome")
        stream.writer.write_eof()
        assert await stream.closed() == 1006


async def _reset_during_join(herald: Herald, user: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", herald.port)
    writer.write(stream_request(token=mint(user, topics=["a", "b", "c"])))
    await writer.drain()
    _reset(Stream(reader, writer))


async def _reset_during_replay(herald: Herald, user: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", herald.port)
    writer.transport.pause_reading()
    writer.write(stream_request("since=topic:big@0-0", token=mint(user, topics=["big"])))
    await asyncio.sleep(0.05)
    _reset(Stream(reader, writer))


async def _with_topics_and_a_resume(herald: Herald, user: str) -> None:
    topics = [f"{user}-{n}" for n in range(10)]
    last_id = ",".join(f"topic:{topic}@1-1" for topic in topics)
    async with streaming(herald, token=mint(user, topics=topics), last_id=last_id) as stream:
        await stream.expect("welcome")


async def _refused(herald: Herald, user: str) -> None:
    stream = await dial(herald, stream_request(token="nonsense"))
    assert stream.status == 401
    await stream.close()


async def _bad_request_on_a_connection_that_goes_on(herald: Herald, user: str) -> None:
    stream = await dial(herald, stream_request("topics=a%20b", token=mint(user)))
    assert stream.status == 400
    await stream.body()
    stream.writer.write(stream_request(token=mint(user)))
    await stream.head()
    await stream.expect("welcome")
    await stream.close()


async def _more_requests_behind_it(herald: Herald, user: str) -> None:
    request = stream_request(token=mint(user))
    stream = await dial(herald, request * 3 + b"x" * 10_000)
    await stream.expect("welcome")
    await stream.close()


async def _expired(herald: Herald, user: str) -> None:
    async with streaming(herald, token=mint(user, ttl=1.2)) as stream:
        assert await stream.closed() == 3000


_WAYS: list[Callable[[Herald, str], Awaitable[None]]] = [
    _left,
    _reset_when_open,
    _half_closed,
    _reset_during_join,
    _reset_during_replay,
    _with_topics_and_a_resume,
    _refused,
    _bad_request_on_a_connection_that_goes_on,
    _more_requests_behind_it,
    _expired,
]


async def test_2000_streams_that_end_in_every_way_leave_nothing(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, new_name: Callable[[], str]
) -> None:
    herald = start(own_engine.url, jwt_leeway="0", history_size="1000", log_level="info")
    for _ in range(20):  # 10 MB: more than the kernel takes for one socket
        events = [{"to": "topic:big", "type": "t", "data": "x" * 50_000}] * 10
        assert herald.post("/v1/events/batch", {"events": events}).status_code == 200
    process = Path(f"/proc/{herald.process.pid}")

    async def every_way() -> None:
        for way in _WAYS:
            for _ in range(_EACH // _AT_ONCE):
                await asyncio.gather(*(way(herald, new_name()) for _ in range(_AT_ONCE)))

    def all_gone() -> bool:
        now = herald.metrics()
        names = ("herald_connections", "herald_users", "herald_channels", "herald_outbox_bytes")
        return all(now[name] == 0 for name in names)

    async def measure() -> tuple[int, int, float]:
        """Resident bytes, open files and tasks, once every stream was freed."""
        await eventually(all_gone, "every stream was freed")
        await eventually(lambda: _idle(process), "its connections are closed")
        await asyncio.sleep(1.5)  # cycles of the HTTP server's are collected once a second
        pages = int((process / "statm").read_text().split()[1])
        descriptors = len(list((process / "fd").iterdir()))
        return pages * 4096, descriptors, herald.metrics()["herald_tasks"]

    found = []
    for _ in range(_PHASES):
        await every_way()
        found.append(await measure())
    grown = [later[0] - earlier[0] for earlier, later in itertools.pairwise(found)]
    print("memory", *(f"{size:+,}" for size in grown), "files", *(files for _, files, _ in found))
    assert found[-1][1] <= found[0][1]
    assert found[-1][2] <= found[0][2]
    assert min(grown) < _SMALL, grown
    with contextlib.closing(redis.Redis.from_url(own_engine.url)) as client:

        def only_the_probe() -> bool:
            channels = client.execute_command("PUBSUB", "SHARDCHANNELS")
            return len(channels) == 1 and b"probe:" in channels[0]

        await eventually(only_the_probe, "the engine's channels were given up")
        assert client.keys("herald:ticket:*") == []
    for line in herald.log().splitlines():
        assert json.loads(line)["level"] not in ("error", "critical"), line


def _idle(process: Path) -> bool:
    """Whether it has no sockets but its listener, its links and the test's client."""
    sockets = sum(
        1 for path in (process / "fd").iterdir() if str(path.readlink()).startswith("socket:")
    )
    return sockets <= 12
