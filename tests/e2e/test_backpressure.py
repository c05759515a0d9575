"""Guarantee 4: a slow client costs bounded memory and delays nobody else."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

from tests.harness.process import (
    Herald,
    eventually,
    mint,
    open_herald,
    open_plain,
    websocket_request,
)


async def _stopped_reader(herald: Herald, token: str) -> socket.socket:
    """A client that reads its welcome and then never again, with a small window."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", herald.port))
    await loop.sock_sendall(sock, websocket_request(token))
    head = b""
    while b'"welcome"' not in head:
        head += await loop.sock_recv(sock, 4096)
    return sock


async def test_a_stopped_reader_is_closed_with_4000_and_the_others_get_everything(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(send_queue_bytes="131072", history_size="10000")
    channel = f"user:{user}"
    readers = [await open_plain(herald, token=mint(user)) for _ in range(3)]
    for client in readers:
        await client.expect("welcome")
    stopped = await _stopped_reader(herald, mint(user))
    data = "x" * 50_000
    for rounds in range(0, 300, 10):  # 15 MB: more than the kernel takes for one socket
        for number in range(rounds, rounds + 10):
            await asyncio.to_thread(herald.publish, channel, [number, data])
        for client in readers:
            for number in range(rounds, rounds + 10):
                assert (await client.expect("event"))["data"][0] == number
        assert herald.metrics()["herald_outbox_deepest_bytes"] <= 131072 + 60_000

    def cut_off() -> bool:
        return herald.metrics().get('herald_disconnects_total{code="4000"}', 0.0) == 1

    await eventually(cut_off, "the stopped reader was cut off")
    stopped.close()
    for client in readers:
        await client.close()


async def test_overflow_says_4000_and_resume_recovers(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(send_queue_bytes="65536", history_size="10000")
    channel = f"user:{user}"
    slow = await open_herald(herald, token=mint(user))
    position = (await slow.expect("welcome"))["channels"][channel]["position"]
    slow.socket.transport.pause_reading()
    count = 0

    def overflowed() -> bool:
        return herald.metrics()["herald_connections"] == 0 or (
            herald.metrics()["herald_channels"] == 0
        )

    while not overflowed():
        assert count < 2000
        for _ in range(20):
            await asyncio.to_thread(herald.publish, channel, [count, "x" * 30_000])
            count += 1
    slow.socket.transport.resume_reading()
    assert await slow.closed() in (4000, 1006)  # cut off where it takes too long to read
    client = await open_herald(herald, token=mint(user), positions={channel: position})
    assert (await client.expect("welcome"))["channels"][channel]["recovered"] is True
    for number in range(count):
        assert (await client.expect("event"))["data"][0] == number
    await client.close()


async def test_one_event_larger_than_the_outbox_is_delivered(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(send_queue_bytes="1024")
    client = await open_plain(herald, token=mint(user))
    await client.expect("welcome")
    herald.publish(f"user:{user}", "x" * 60_000)
    assert len((await client.expect("event"))["data"]) == 60_000
    await client.close()


async def test_a_client_that_asks_and_never_reads_is_cut_off(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(send_queue_bytes="16384", heartbeat_interval="300")
    sock = await _stopped_reader(herald, mint(user))
    loop = asyncio.get_running_loop()
    ping = b"\x89\xfd\0\0\0\0" + b"x" * 125

    async def flood() -> None:
        while True:
            await loop.sock_sendall(sock, ping * 100)

    flooding = asyncio.create_task(flood())
    await eventually(lambda: herald.metrics()["herald_connections"] == 0, "it was cut off")
    flooding.cancel()
    await asyncio.gather(flooding, return_exceptions=True)
    sock.close()
    assert herald.metrics()['herald_disconnects_total{code="4000"}'] == 1


async def test_replays_that_nobody_reads_hold_one_page_for_a_connection(
    start: Callable[..., Herald], user: str, new_name: Callable[[], str]
) -> None:
    herald = start(send_queue_bytes="262144", heartbeat_interval="300")
    topic = new_name()
    for number in range(20):
        herald.publish(f"topic:{topic}", [number, "x" * 30_000])
    loop = asyncio.get_running_loop()
    sock = await _stopped_reader(herald, mint(user, topics=["*"]))
    messages = [
        json.dumps({"type": "subscribe", "topic": topic, "position": "0-0"}).encode(),
        json.dumps({"type": "unsubscribe", "topic": topic}).encode(),
    ]
    wire = b"".join(b"\x81%c\0\0\0\0%b" % (0x80 | len(text), text) for text in messages)
    for _ in range(100):
        await loop.sock_sendall(sock, wire)
    deepest = 0.0
    for _ in range(20):
        await asyncio.sleep(0.05)
        deepest = max(deepest, herald.metrics()["herald_outbox_deepest_bytes"])
    assert deepest <= 3 * 262144
    sock.close()
    await eventually(lambda: herald.metrics()["herald_channels"] == 0, "nothing is left")
