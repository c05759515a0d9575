"""A rollout under load: publishers publish, thousands are connected, and every pod is replaced.

Publishers and subscribers are those of `tests.chaos`, with their books; its checker judges them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.chaos.checker import Verdict, check
from tests.chaos.world import CALM, CALM_SILENCE, Scale, Scenario, World, running_world
from tests.harness.process import Herald
from tests.rollout.deployment import Deployment, Moment, Times, sampled

_SAMPLE_SECONDS = 0.25


class Sample(NamedTuple):
    """Up to `at` (loop time).

    Attributes:
        connected: subscribers that have their welcome and no end yet.
        welcomes: connections that were welcomed, ever.
        accepted: events, ever.
    """

    at: float
    connected: int
    welcomes: int
    accepted: int


@dataclass(frozen=True)
class Rehearsal:
    """What came of it.

    Attributes:
        seconds: from the first new pod to the end of the last old one.
        statuses: of the old pods.
        refusals: attempts to connect that found no open door, by how.
        retries: publishers' tries that failed, by how; each was repeated until accepted.
    """

    verdict: Verdict
    subscribers: int
    seconds: float
    statuses: list[int]
    killed: int
    refusals: Counter[str]
    closes: Counter[str]
    retries: Counter[str]
    samples: list[Sample]
    history: list[Moment]

    def reconnects(self) -> list[tuple[float, float]]:
        """Seconds since the beginning, and reconnects a second then."""
        begin = self.samples[0].at
        return [
            (after.at - begin, (after.welcomes - before.welcomes) / (after.at - before.at))
            for before, after in zip(self.samples, self.samples[1:], strict=False)
            if after.at > before.at
        ]

    @property
    def holds(self) -> bool:
        """None refused, no event lost, every pod ended by itself."""
        return (
            self.verdict.holds
            and not self.verdict.gaps
            and not self.refusals
            and not self.retries
            and not self.killed
            and set(self.statuses) == {0}
        )


async def rehearse(
    pods: int, connections: int, times: Times, pause: float, seed: int, directory: Path
) -> Rehearsal:
    """Play it; `pause` is a publisher's mean one between two events, in seconds."""
    scenario = Scenario(
        "rollout",
        "every pod is replaced by a new one",
        _nothing,
        nodes=pods,
        size=lambda _: connections,
        settings={**CALM, "drain_seconds": str(times.drain)},
        silence=CALM_SILENCE,
    )
    scale = Scale(publishers=4, pause=pause)
    async with running_world(scenario, scale, seed, directory, _Namespace) as world:
        return await world.roll(times)


async def _nothing(world: World) -> None:
    """The rollout is no fault."""


class _Namespace(World):
    """A world whose gateways come and go, and are found by their Service."""

    _deployment: Deployment | None = None

    def _client_ports(self) -> list[int]:
        return super()._client_ports() if self._deployment is None else self._deployment.endpoints

    _publish_ports = _client_ports

    async def roll(self, times: Times) -> Rehearsal:
        old = self.nodes[0]

        def start() -> Herald:
            settings = {k: v for k, v in old.settings.items() if k not in ("port", "redis_url")}
            return Herald(self.engine.url, self.directory, **settings)

        deployment = Deployment(start, times)
        deployment.pods = self.nodes  # one list: this world stops what is left in the end
        deployment.endpoints = [node.port for node in self.nodes]
        self._deployment = deployment
        samples: list[Sample] = []
        loop = asyncio.get_running_loop()

        def sample() -> None:
            up = sum(1 for s in self.subscribers if s.connected)
            # The first connection of each was made before.
            made = sum(s.book.connections for s in self.subscribers) - len(self.subscribers)
            samples.append(Sample(loop.time(), up, made, self._accepted()))

        try:
            async with sampled(sample, _SAMPLE_SECONDS):
                began = loop.time()
                statuses = await deployment.roll()
                seconds = loop.time() - began
                await deployment.settled()
                await self.recovered()
            await self.go_on()
            await self.publishing_ends()
            await self.level()
            self.stop_listening.set()
        finally:
            await deployment.close()
        books = [publisher.book for publisher in [*self.publishers, self.marker]]
        closes: Counter[str] = Counter()
        for subscriber in self.subscribers:
            closes += subscriber.book.closes
        retries: Counter[str] = Counter()
        for book in books:
            retries += book.failures
        return Rehearsal(
            check(books, [subscriber.book for subscriber in self.subscribers]),
            len(self.subscribers),
            seconds,
            statuses,
            deployment.killed,
            Counter({how: n for how, n in closes.items() if how not in ("1012", "stopped")}),
            closes,
            retries,
            samples,
            deployment.history,
        )
