"""The engine's face: logs, subscription and health of one primary, or of a Cluster's shards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from service.broker.cluster import Cluster
from service.broker.endpoint import Locate, Seeds
from service.broker.event_log import LogPolicy, RedisEventLog
from service.broker.shard import Shard
from service.broker.tickets import EngineTickets, on_link, on_shards
from service.ports import EventLog
from service.supervision import log_failures, supervise

logger = logging.getLogger("herald.engine")

_NEWCOMERS_PATIENCE = 1.0
"""Seconds of trouble for which newcomers are let in and wait; most reconnects take less."""
_LOOK_SECONDS = 0.25


class Broker:
    """What Herald asks of the engine, started and stopped together.

    Raises nothing at `start`: an engine that is away is waited for.
    """

    def __init__(
        self,
        where: Locate | Seeds,
        node: str,
        policy: LogPolicy,
        timeout: float,
        reopened: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.log: EventLog
        self._engine: Shard | Cluster
        if isinstance(where, Seeds):
            self._engine = cluster = Cluster(where, node, policy, timeout, reopened)
            self.log = cluster.log
            self.tickets = EngineTickets(on_shards(cluster.shards))
        else:
            self._engine = shard = Shard(where, node, timeout, reopened, policy.copies)
            self.log = RedisEventLog(shard.publish, shard.read, shard.subscriptions, policy)
            self.tickets = EngineTickets(on_link(shard.read))
        self.subscriptions = self._engine.subscriptions
        self._watch: asyncio.Task[None] | None = None
        self._troubled_at: float | None = self._loop.time() - _NEWCOMERS_PATIENCE

    def start(self) -> None:
        """Begin to connect."""
        self._engine.start()
        watching = supervise(
            self._look, log_failures(logger, "looking at the engine's health failed")
        )
        self._watch = self._loop.create_task(watching, name="engine-health")

    async def close(self) -> None:
        """Drop the links."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._engine.close()

    async def wait_open(self, patience: float) -> None:
        """Returns once all links are open.

        Raises:
            EngineUnavailable: after `patience` seconds, with the reason.
        """
        await self._engine.wait_open(patience)

    def probe_age(self) -> float | None:
        """Seconds since this node last heard itself through the engine, or None.

        In a Cluster: through the shard where it is longest ago.
        """
        return self._engine.probe_age()

    def probe_round_trip(self) -> float | None:
        """Seconds that the slowest probe of the last minute took to come back, or None.

        In a Cluster: through the shard where it took longest.
        """
        return self._engine.probe_round_trip()

    def replicas(self) -> int | None:
        """How many replicas are attached to the primary, or None while that is not known.

        In a Cluster: to the one that has the fewest.
        """
        return self._engine.replicas()

    def trouble(self) -> str | None:
        """See `Health.trouble`."""
        return self._engine.trouble()

    def is_away(self) -> bool:
        """See `Health.is_away`. Looks at the clock, so it is asked regularly (`_look`)."""
        now = self._loop.time()
        if self.trouble() is None:
            self._troubled_at = None
            return False
        self._troubled_at = self._troubled_at or now
        return now - self._troubled_at > _NEWCOMERS_PATIENCE

    async def _look(self) -> None:
        while True:
            self.is_away()
            await asyncio.sleep(_LOOK_SECONDS)
