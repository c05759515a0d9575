"""Guarantee 3, for a peer that read a little after its ping and then stopped for good."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from tests.harness.process import Herald, eventually, mint, websocket_request


async def test_a_peer_that_stops_reading_for_good_is_reaped(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(
        heartbeat_interval="0.4",
        heartbeat_timeout="3",
        send_queue_bytes="8MiB",
        max_event_bytes="4MiB",
    )
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", herald.port))
        await loop.sock_sendall(sock, websocket_request(mint(user)))
        await eventually(lambda: herald.metrics()["herald_connections"] == 1, "the connection")
        for _ in range(3):  # more than the kernel takes for one socket
            await asyncio.to_thread(herald.publish, f"user:{user}", "x" * 2_000_000)
        await eventually(lambda: herald.metrics()["herald_pings_total"] == 1, "the ping")
        left = 300_000
        while left > 0:
            left -= len(await loop.sock_recv(sock, left))
        await eventually(lambda: herald.metrics()["herald_connections"] == 0, "the reaping")
        assert herald.metrics()['herald_disconnects_total{code="3008"}'] == 1
