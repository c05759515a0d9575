"""Guarantees 1 and 2 with everything at once: clients break off, subscriptions are killed.

The clients keep their own books: what each saw per channel must be the numbers that were
published, one after the other, from where it began, whatever broke off meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import redis
from websockets.exceptions import ConnectionClosed

from service.broker.embedded import EmbeddedEngine
from tests.harness.process import PATIENCE, Herald, mint, open_herald

SEED = int(os.environ.get("CHURN_SEED", "1"))
SECONDS = float(os.environ.get("CHURN_SECONDS", "6"))


@dataclass
class Books:
    """What was published, and what went wrong."""

    published: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    gaps: int = 0
    received: int = 0
    breaks: int = 0


async def _publish(
    nodes: list[Herald],
    channels: list[str],
    books: Books,
    chance: random.Random,
    stop: asyncio.Event,
) -> None:
    while not stop.is_set():
        events = []
        for _ in range(chance.randrange(1, 30)):
            channel = chance.choice(channels)
            number = books.published[channel] = books.published[channel] + 1
            events.append({"to": channel, "type": "n", "data": number})
        node = chance.choice(nodes)
        answer = await asyncio.to_thread(node.post, "/v1/events/batch", {"events": events})
        assert all("positions" in result for result in answer.json()["results"])


class Reader:
    """One client that resumes."""

    def __init__(self, nodes: list[Herald], token: str, books: Books, chance: random.Random):
        self.nodes, self.token, self.books, self.chance = nodes, token, books, chance
        self.positions: dict[str, str] = {}
        self.seen: dict[str, int] = {}

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            until = time.monotonic() + self.chance.choice([0.02, 0.1, 0.5, 2.0])
            await self.listen(lambda until=until: stop.is_set() or time.monotonic() > until)  # type: ignore[misc]
            self.books.breaks += 1
        deadline = time.monotonic() + PATIENCE
        await self.listen(lambda: self.is_level() or time.monotonic() > deadline)

    def is_level(self) -> bool:
        return all(self.seen[name] == self.books.published[name] for name in self.seen)

    async def listen(self, enough: Callable[[], bool]) -> None:
        client = await open_herald(
            self.nodes[self.chance.randrange(len(self.nodes))],
            token=self.token,
            positions=self.positions,
        )
        try:
            while not enough():
                try:
                    async with asyncio.timeout(0.1):
                        text = await client.socket.recv()
                except TimeoutError:
                    continue
                self.take(text)
        except ConnectionClosed:
            pass
        client.socket.transport.abort()

    def take(self, text: str | bytes) -> None:
        message = json.loads(text)
        if message["type"] == "welcome":
            for channel, joined in message["channels"].items():
                self.positions.setdefault(channel, joined["position"])
        elif message["type"] == "gap":
            self.books.gaps += 1
        elif message["type"] == "event":
            channel, number = message["channel"], message["data"]
            last = self.seen.get(channel)
            if last is not None:
                self.books.lost += max(0, number - last - 1)
                self.books.doubled += number <= last
            self.seen[channel] = number
            self.positions[channel] = message["id"]
            self.books.received += 1


async def test_clients_and_subscriptions_that_break_off_lose_and_double_nothing(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, new_name: Callable[[], str]
) -> None:
    nodes = [
        start(own_engine.url, history_size="100000", position_check_interval="1") for _ in range(2)
    ]
    users, topic = [new_name() for _ in range(4)], new_name()
    channels = ["all", f"topic:{topic}", *(f"user:{user}" for user in users)]
    books, stop, chance = Books(), asyncio.Event(), random.Random(SEED)
    readers = [
        Reader(nodes, mint(users[number % 4], topics=[topic]), books, random.Random(SEED + number))
        for number in range(12)
    ]
    work = [asyncio.create_task(reader.run(stop)) for reader in readers]
    publishing = asyncio.create_task(_publish(nodes, channels, books, chance, stop))
    until = time.monotonic() + SECONDS
    with redis.Redis.from_url(own_engine.url) as admin:
        while time.monotonic() < until:
            await asyncio.sleep(chance.random())
            await asyncio.to_thread(admin.execute_command, "CLIENT", "KILL", "TYPE", "pubsub")
    stop.set()
    await publishing
    await asyncio.gather(*work)
    print(f"seed {SEED}: {books}")
    assert books.received > 0
    assert books.breaks > 0
    assert (books.lost, books.doubled, books.gaps) == (0, 0, 0), f"CHURN_SEED={SEED}: {books}"
    assert all(reader.is_level() for reader in readers), "an event never came"
