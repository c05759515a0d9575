"""Guarantee 3 on streams: who vanished is freed in time, and who is there is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.broker.embedded import EmbeddedEngine
from tests.e2e.test_liveness import _Namespace, namespace  # noqa: F401
from tests.harness.process import PATIENCE, Herald, eventually, mint
from tests.harness.streams import open_stream, streaming

SLACK = 2.0
"""Seconds for a turn of the wheel and a busy machine."""


def _reaped(herald: Herald) -> bool:
    return bool(herald.metrics()['herald_disconnects_total{code="3008"}'])


def _nothing_left(herald: Herald) -> bool:
    now = herald.metrics()
    names = ("herald_connections", "herald_users", "herald_channels")
    return all(now[name] == 0 for name in names)


@contextlib.contextmanager
def _silent_stream(
    herald: Herald, token: str, host: str = "127.0.0.1", *prefix: str
) -> Iterator[Any]:
    url = f"http://{host}:{herald.port}/v1/stream"
    peer = subprocess.Popen(
        [*prefix, sys.executable, "-m", "tests.harness.silent_stream", url, token],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert peer.stdout is not None
        assert "welcome" in peer.stdout.readline()
        yield peer
    finally:
        peer.kill()
        peer.wait()
        assert peer.stdout is not None
        peer.stdout.close()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "with events"])
async def test_a_peer_that_vanished_without_fin_is_reaped_in_time(
    start: Callable[..., Herald],
    user: str,
    namespace: _Namespace,  # noqa: F811
    busy: bool,
) -> None:
    interval, timeout = 3.0, 1.0
    herald = start(host="0.0.0.0", heartbeat_interval=str(interval), heartbeat_timeout=str(timeout))
    netns = ("ip", "netns", "exec", namespace.name)
    with _silent_stream(herald, mint(user), namespace.host, *netns):
        # Cut off right after it has acknowledged a comment: what it has acknowledged by then must
        # not count as a sign of life of when that is next looked at.
        while herald.metrics()["herald_pings_total"] < 3:
            if busy:
                await asyncio.to_thread(herald.publish, f"user:{user}", "x" * 100)
            await asyncio.sleep(0.05)
        assert herald.metrics()["herald_connections"] == 1  # it is there
        await asyncio.sleep(0.1)
        namespace.cut()
        cut = time.monotonic()
        while not _reaped(herald):
            if busy:
                await asyncio.to_thread(herald.publish, f"user:{user}", "x" * 100)
            await asyncio.sleep(0.05)
            assert time.monotonic() - cut < PATIENCE
        took = time.monotonic() - cut
    assert took <= interval + timeout + SLACK, took
    assert took >= timeout, took
    await eventually(lambda: _nothing_left(herald), "its memory was freed")


async def test_a_peer_that_vanished_while_it_was_behind_is_reaped(
    start: Callable[..., Herald],
    user: str,
    namespace: _Namespace,  # noqa: F811
) -> None:
    herald = start(
        host="0.0.0.0",
        heartbeat_interval="1",
        heartbeat_timeout="1",
        send_queue_bytes="16777216",
    )
    netns = ("ip", "netns", "exec", namespace.name)
    with _silent_stream(herald, mint(user), namespace.host, *netns) as peer:
        peer.send_signal(signal.SIGSTOP)
        for _ in range(10):  # 9 MB: the kernel's buffers, and some in ours
            events = [{"to": f"user:{user}", "type": "t", "data": "x" * 30_000}] * 30
            await asyncio.to_thread(herald.post, "/v1/events/batch", {"events": events})
        namespace.cut()
        cut = time.monotonic()
        await eventually(lambda: _reaped(herald), "the vanished peer was reaped")
        # Its system may have taken more until then; what is left is cut off after the close.
        assert time.monotonic() - cut < 2 * 2.0 + 5.0 + SLACK
    await eventually(lambda: _nothing_left(herald), "its memory was freed")


async def test_a_client_that_only_reads_stays_for_many_intervals(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(heartbeat_interval="0.2", heartbeat_timeout="0.2")
    with _silent_stream(herald, mint(user)) as peer:
        async with streaming(herald, token=mint(user)) as stream:
            await stream.expect("welcome")
            await eventually(lambda: herald.metrics()["herald_pings_total"] >= 40, "pings")
            herald.publish(f"user:{user}", "still here")
            assert (await stream.expect("event"))["data"] == "still here"
            assert "event" in peer.stdout.readline()
            assert herald.metrics()["herald_connections"] == 2
            assert stream.parser.comments >= 15
            assert not _reaped(herald)


async def test_comments_come_at_least_every_interval(
    start: Callable[..., Herald], new_name: Callable[[], str]
) -> None:
    interval = 1.0
    herald = start(heartbeat_interval=str(interval), heartbeat_timeout="5")

    async def longest_silence() -> tuple[float, int]:
        async with streaming(herald, token=mint(new_name())) as stream:
            await stream.expect("welcome")
            began = last = time.monotonic()
            longest = 0.0
            while last - began < 6 * interval:
                async with asyncio.timeout(PATIENCE):
                    assert await stream.read()
                now = time.monotonic()
                longest, last = max(longest, now - last), now
            return longest, stream.parser.comments

    for longest, comments in await asyncio.gather(*(longest_silence() for _ in range(10))):
        assert longest <= interval + 1.0, longest
        assert 5 <= comments <= 14, comments


async def test_a_reader_that_is_behind_and_reads_on_is_not_taken_for_dead(
    start: Callable[..., Herald], user: str
) -> None:
    """Comments wait behind what it still has to read."""
    herald = start(heartbeat_interval="0.5", heartbeat_timeout="0.5", send_queue_bytes="33554432")
    stream = await open_stream(herald, token=mint(user))
    await stream.expect("welcome")
    stream.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(10):  # 15 MB
        events = [{"to": f"user:{user}", "type": "t", "data": "x" * 30_000}] * 50
        await asyncio.to_thread(herald.post, "/v1/events/batch", {"events": events})
    stream.writer.transport.resume_reading()  # type: ignore[attr-defined]
    began = time.monotonic()
    for number in range(500):
        await stream.expect("event")
        # Some 3 MB a second: it takes five times as long as silence may last.
        await asyncio.sleep(max(0.0, began + number * 0.01 - time.monotonic()))
    assert not _reaped(herald)
    herald.publish(f"user:{user}", "still here")
    assert (await stream.expect("event"))["data"] == "still here"
    await stream.close()


async def test_a_peer_that_is_there_is_not_reaped_after_the_server_was_stopped(
    start: Callable[..., Herald], user: str
) -> None:
    """The pings were late, so that nothing can be said of who has not acknowledged them."""
    herald = start(heartbeat_interval="0.5", heartbeat_timeout="0.5")
    async with streaming(herald, token=mint(user)) as stream:
        await stream.expect("welcome")
        for seconds in (1.5, 3.0, 0.7):
            await asyncio.sleep(0.8)
            herald.signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            herald.signal(signal.SIGCONT)
        await asyncio.sleep(1.5)
        assert not _reaped(herald)
        herald.publish(f"user:{user}", "still here")
        assert (await stream.expect("event"))["data"] == "still here"


async def test_a_stopped_process_is_there_as_long_as_its_system_acknowledges(
    start: Callable[..., Herald], user: str
) -> None:
    """As docs/sse.md says: what is not read costs bounded memory, and nothing else."""
    herald = start(heartbeat_interval="0.3", heartbeat_timeout="0.3")
    with _silent_stream(herald, mint(user)) as peer:
        peer.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.0)
        assert not _reaped(herald)
        peer.send_signal(signal.SIGCONT)
        herald.publish(f"user:{user}", 1)
        assert "event" in peer.stdout.readline()
    await eventually(lambda: _nothing_left(herald), "it has ended")


async def test_an_idle_stream_lives_while_the_engine_is_away(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    herald = start(own_engine.url, heartbeat_interval="0.2", heartbeat_timeout="0.2")
    async with streaming(herald, token=mint(user)) as stream:
        await stream.expect("welcome")
        os.kill(own_engine.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(1.5)
        finally:
            os.kill(own_engine.pid, signal.SIGCONT)
        assert not _reaped(herald)
        await eventually(herald.is_ready, "readiness")
        herald.publish(f"user:{user}", 1)
        assert (await stream.expect("event"))["data"] == 1
