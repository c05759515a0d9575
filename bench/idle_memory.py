"""Resident memory per authenticated idle connection: `python -m bench.idle_memory`.

Starts `herald serve` with an embedded engine, opens connections of as many different users (JWT
verified, subscribed to `user:<id>` and `all`, welcomed), answers pings, and divides the growth of
the server's RSS by the connections. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from service.broker.embedded import EmbeddedEngine
from tests.harness.process import Herald, mint, running

_PAGE_KB = 4
_PONG = b"\x8a\x80\0\0\0\0"


class IdleClient(asyncio.Protocol):
    """Shakes hands, waits for the welcome, answers pings, and nothing else."""

    def __init__(self, request: bytes, welcomed: asyncio.Semaphore) -> None:
        self._request = request
        self._done: asyncio.Semaphore | None = welcomed
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if self._done is not None:
            self._head += data
            if b'"welcome"' in self._head:
                self._done.release()
                self._done, self._head = None, b""
        if b"\x89\x00" in data:
            self._transport.write(_PONG)  # type: ignore[attr-defined]


def rss_kb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_KB


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def handshake(port: int, token: str) -> bytes:
    return (
        f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()


async def open_all(herald: Herald, first: int, count: int, window: int = 200) -> None:
    loop = asyncio.get_running_loop()
    welcomed = asyncio.Semaphore(window)
    for number in range(first, first + count):
        await welcomed.acquire()
        request = handshake(herald.port, mint(f"user-{number}"))
        await loop.create_connection(
            lambda request=request: IdleClient(request, welcomed),  # type: ignore[misc]
            "127.0.0.1",
            herald.port,
        )
    for _ in range(window):
        await welcomed.acquire()


async def measure(herald: Herald, connections: int, idle_seconds: float) -> dict[str, object]:
    pid = herald.process.pid
    await open_all(herald, 0, 200)  # code paths, allocator pools and buffers are there
    await asyncio.sleep(1.0)
    before, began = rss_kb(pid), time.perf_counter()
    await open_all(herald, 200, connections)
    seconds = time.perf_counter() - began
    await asyncio.sleep(2.0)
    after = rss_kb(pid)
    cpu, at = cpu_seconds(pid), time.perf_counter()
    await asyncio.sleep(idle_seconds)
    busy = (cpu_seconds(pid) - cpu) / (time.perf_counter() - at)
    later = rss_kb(pid)
    open_now = (await asyncio.to_thread(herald.metrics))["herald_connections"]
    return {
        "connections": connections,
        "open_at_the_end": open_now,
        "kb_per_connection": round((after - before) / connections, 2),
        "kb_per_connection_after_idling": round((later - before) / connections, 2),
        "connects_per_second": round(connections / seconds),
        "idle_cpu_percent": round(100 * busy, 2),
        "idle_seconds": idle_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    options = parser.parse_args()
    engine = EmbeddedEngine()
    try:
        with (
            TemporaryDirectory() as directory,
            running(engine.url, Path(directory), log_level="warning", drain_seconds="1") as herald,
        ):
            work = measure(herald, options.connections, options.idle_seconds)
            print(json.dumps(asyncio.run(work)))
    finally:
        engine.stop()


if __name__ == "__main__":
    main()
