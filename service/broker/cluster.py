"""A Cluster as one engine: its shards, logs and subscriptions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service.broker.cluster_log import ClusterLog
from service.broker.cluster_subscriptions import ClusterSubscriptions
from service.broker.endpoint import Endpoint, Seeds
from service.broker.event_log import LogPolicy
from service.broker.shards import Shards
from service.broker.subscriber import Subscriber
from service.core.errors import EngineUnavailable

_LOOK_SECONDS = 0.02


class Cluster:
    """What `Shard` is for one primary. It delivers while every slot's shard does."""

    def __init__(
        self,
        seeds: Seeds,
        node: str,
        policy: LogPolicy,
        timeout: float,
        reopened: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()

        async def nowhere() -> Endpoint:
            raise EngineUnavailable("Nobody has the slot.")

        self.subscriptions = ClusterSubscriptions(
            lambda slot: self.shards.by_slot[slot],
            lambda patience: self.shards.renew(patience),
            Subscriber(nowhere, timeout, node, reopened, strays=lambda *_: None),
        )
        self.shards = Shards(
            seeds,
            node,
            timeout,
            reopened,
            self.subscriptions.stray,
            self.subscriptions,
            policy.copies,
        )
        self.log = ClusterLog(self.shards, self.subscriptions, policy)

    def start(self) -> None:
        """Begin to connect."""
        self.shards.start()

    async def close(self) -> None:
        """Drop the links."""
        await self.subscriptions.close()
        await self.log.lanes.close()
        await self.shards.close()

    async def wait_open(self, patience: float) -> None:
        """Returns once all links to all shards are open.

        Raises:
            EngineUnavailable: after `patience` seconds, with the reason.
        """
        deadline = self._loop.time() + patience
        while (trouble := self.shards.absence()) is not None:
            if self._loop.time() > deadline:
                raise EngineUnavailable(trouble)
            await asyncio.sleep(_LOOK_SECONDS)

    def probe_age(self) -> float | None:
        """See `Broker.probe_age`."""
        ages = [shard.probe_age() for shard in self.shards.open]
        known = [age for age in ages if age is not None]
        return max(known) if known and len(known) == len(ages) else None

    def probe_round_trip(self) -> float | None:
        """See `Broker.probe_round_trip`."""
        times = [shard.probe_round_trip() for shard in self.shards.open]
        known = [time for time in times if time is not None]
        return max(known) if known and len(known) == len(times) else None

    def replicas(self) -> int | None:
        """See `Broker.replicas`."""
        counts = [shard.replicas() for shard in self.shards.open]
        known = [count for count in counts if count is not None]
        return min(known) if known and len(known) == len(counts) else None

    def trouble(self) -> str | None:
        """See `Health.trouble`."""
        return self.shards.trouble()
