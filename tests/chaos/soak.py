"""Connects, disconnects and publishing for a long time; everything must be flat at the end.

A third of the clients have streams of server-sent events instead of WebSockets.

`SOAK_SECONDS=3600 pytest -s tests/chaos/test_soak.py` runs for an hour and shows its progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.engines import Single
from tests.chaos.wire import ClientConnection, ClientSocket, ClientStream, HttpClient
from tests.harness.process import KEY, Herald, mint

_USERS = 200
_SAMPLES = 12


@dataclass(frozen=True)
class Sample:
    """What a gateway and the engine hold at a moment.

    Attributes:
        rss: bytes.
        descriptors, tasks: of the gateway.
        connections, streams: of the gateway; the second are some of the first.
        channels: listened to by the gateway, as it says.
        subscriptions: of the engine's clients, all gateways' probes among them.
        keys: of the engine.
    """

    rss: int
    descriptors: int
    tasks: int
    connections: int
    streams: int
    channels: int
    subscriptions: int
    keys: int


@dataclass
class Soak:
    """What was done, and what was there: at rest before, while it went on, at rest after.

    Attributes:
        connects, streams: the second are some of the first.
        received, streamed: events, and those of them that came over streams.
    """

    connects: int = 0
    streams: int = 0
    received: int = 0
    streamed: int = 0
    published: int = 0
    before: Sample | None = None
    during: list[Sample] = field(default_factory=list)
    after: Sample | None = None


def sample(node: Herald, engine: Single) -> Sample:
    metrics = node.metrics()
    admin = engine.server.admin
    names = admin.execute_command("PUBSUB", "SHARDCHANNELS")  # type: ignore[no-untyped-call]
    return Sample(
        int(metrics["process_resident_memory_bytes"]),
        len(list(Path(f"/proc/{node.process.pid}/fd").iterdir())),
        int(metrics["herald_tasks"]),
        int(metrics["herald_connections"]),
        int(metrics["herald_streams"]),
        int(metrics["herald_channels"]),
        len(names),
        len(admin.keys("*")),  # DBSIZE counts what has expired and is not gone yet
    )


async def soak(seconds: float, seed: int, directory: Path, tell: Callable[[str], None]) -> Soak:
    """Run it on one gateway, and give back the samples."""
    engine = await asyncio.to_thread(Single)
    node = Herald(engine.url, directory, history_ttl="2", heartbeat_interval="1", log_level="info")
    try:
        await asyncio.to_thread(node.wait_ready)
        return await _Work(node, engine, seed).run(seconds, tell)
    finally:
        await asyncio.to_thread(node.stop)
        await asyncio.to_thread(engine.stop)


class _Work:
    def __init__(self, node: Herald, engine: Single, seed: int) -> None:
        self._node = node
        self._engine = engine
        self._chance = random.Random(seed)
        self._stop = asyncio.Event()
        self._tokens = [mint(f"u{n}", topics=["t*"], ttl=86400.0) for n in range(_USERS)]
        self._soak = Soak()

    async def run(self, seconds: float, tell: Callable[[str], None]) -> Soak:
        soak = self._soak
        # Every name once: a channel's last position is kept for a month.
        for number in range(_USERS):
            await self._visit(number, 0.0)
        await self._publish_to_everybody()
        await self._at_rest()
        soak.before = await self._sample()
        work = [asyncio.create_task(self._churn()) for _ in range(16)]
        work.append(asyncio.create_task(self._publish()))
        for number in range(_SAMPLES):
            await asyncio.sleep(seconds / _SAMPLES)
            soak.during.append(await self._sample())
            connects = f"{soak.connects:,} connects, {soak.streams:,} of them streams"
            tell(f"{number + 1}/{_SAMPLES}: {connects}, {soak.during[-1]}")
        self._stop.set()
        await asyncio.gather(*work)
        await self._at_rest()
        soak.after = await self._sample()
        tell(f"before: {soak.before}")
        tell(f"after:  {soak.after}")
        return soak

    async def _sample(self) -> Sample:
        return await asyncio.to_thread(sample, self._node, self._engine)

    async def _churn(self) -> None:
        while not self._stop.is_set():
            await self._visit(self._chance.randrange(_USERS), self._chance.choice([0.0, 0.1, 1.0]))

    async def _visit(self, user: int, stay: float) -> None:
        """Connect, subscribe, listen for a while, and leave in one of the ways in which one can."""
        welcomed = asyncio.Event()
        topic = f"t{self._chance.randrange(20)}"
        positions = self._chance.choice([{}, {"all": "0-0"}, {f"user:u{user}": "0-0"}])
        streams = self._soak.connects % 3 == 1

        def take(message: dict[str, Any]) -> None:
            welcomed.set()
            event = message["type"] == "event"
            self._soak.received += event
            self._soak.streamed += event and streams

        def connection() -> ClientConnection:
            token = self._tokens[user]
            if not streams:
                connect = {"topics": [topic], "positions": positions}
                return ClientSocket({"type": "connect", "token": token, **connect}, take)
            query = f"topics={topic}" + "".join(f"&since={c}@{p}" for c, p in positions.items())
            return ClientStream(f"/v1/stream?{query}", token, None, lambda told, _: take(told))

        self._soak.connects += 1
        self._soak.streams += streams
        _, socket = await asyncio.get_running_loop().create_connection(
            connection, "127.0.0.1", self._node.port
        )
        if self._chance.random() < 0.9:  # the others leave in the middle of it
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(welcomed.wait(), 10)
            await asyncio.sleep(stay)
        if self._chance.random() < 0.5:
            socket.abort()
        else:
            assert socket.transport is not None
            socket.transport.close()

    async def _publish(self) -> None:
        http = HttpClient(KEY, 10.0)
        while not self._stop.is_set():
            user, topic = self._chance.randrange(_USERS), self._chance.randrange(20)
            target = self._chance.choice([f"user:u{user}", f"topic:t{topic}", "all"])
            event = {"to": target, "type": "soak", "data": "x" * self._chance.randrange(500)}
            status, answer = await http.post(self._node.port, "/v1/events", event)
            assert status == 202, answer
            self._soak.published += 1
        http.close()

    async def _publish_to_everybody(self) -> None:
        http = HttpClient(KEY, 30.0)
        for prefix, count in (("user:u", _USERS), ("topic:t", 20)):
            channels = [f"{prefix}{n}" for n in range(count)]
            event = {"to": [*channels, "all"], "type": "soak", "id": secrets.token_hex(8)}
            status, answer = await http.post(self._node.port, "/v1/events", event)
            assert status == 202, answer
        http.close()

    async def _at_rest(self) -> None:
        """Until nobody is connected and what was retained has expired."""
        admin = self._engine.server.admin

        def streams() -> int:
            return len(admin.keys("herald:log:*"))

        def nobody() -> bool:
            metrics = self._node.metrics()
            return metrics["herald_connections"] == metrics["herald_channels"] == streams() == 0

        while not await asyncio.to_thread(nobody):
            await asyncio.sleep(0.1)
