"""The engine's face: links, logs, subscription and its health, started and stopped together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from service.broker.endpoint import Locate
from service.broker.event_log import LogPolicy, RedisEventLog, load_scripts
from service.broker.keeper import LinkKeeper
from service.broker.subscriber import Subscriber
from service.core.errors import EngineError, EngineUnavailable

logger = logging.getLogger("herald.engine")

_PROBE_INTERVAL = 1.0
_PROBE_STALE = 3.5
"""Seconds without a probe heard after which delivery counts as broken: readiness fails within 5."""


class Broker:
    """Three links to one engine: for publishing, for reading, and for the subscription.

    Raises nothing at `start`: an engine that is away is waited for.
    """

    def __init__(
        self,
        locate: Locate,
        node: str,
        policy: LogPolicy,
        timeout: float,
        reopened: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._publish = LinkKeeper("publish", locate, timeout, load_scripts, reopened)
        self._read = LinkKeeper("read", locate, timeout, load_scripts, reopened)
        self.subscriptions = Subscriber(locate, timeout, node, reopened)
        self.log = RedisEventLog(self._publish, self._read, policy)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to connect."""
        for name, work in (
            ("publish", self._publish.run()),
            ("read", self._read.run()),
            ("subscribe", self.subscriptions.keeper.run()),
            ("probe", self._probe()),
        ):
            self._tasks.append(self._loop.create_task(work, name=f"engine-{name}"))

    async def close(self) -> None:
        """Drop the links."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_open(self, patience: float) -> None:
        """Returns once all links are open.

        Raises:
            EngineUnavailable: after `patience` seconds, with the reason.
        """
        for keeper in (self._publish, self._read, self.subscriptions.keeper):
            try:
                await keeper.wait_open(patience)
            except EngineUnavailable:
                raise EngineUnavailable(keeper.trouble or "The engine is away.") from None

    def probe_age(self) -> float | None:
        """Seconds since this node last heard itself through the engine, or None."""
        heard = self.subscriptions.probed_at
        return None if heard is None else self._loop.time() - heard

    def trouble(self) -> str | None:
        """See `Health.trouble`."""
        for name, keeper in (
            ("publish", self._publish),
            ("read", self._read),
            ("subscribe", self.subscriptions.keeper),
        ):
            if keeper.link is None:
                return f"engine link {name}: {keeper.trouble or 'connection lost'}"
        age = self.probe_age()
        if age is None:
            return "no probe came back through the subscription yet"
        if age > _PROBE_STALE:
            return f"no probe came back through the subscription for {age:.1f} s"
        return None

    async def _probe(self) -> None:
        """Publish to ourselves every second; a subscription that is deaf is given up."""
        connected_since: float | None = None
        while True:
            subscriber = self.subscriptions
            link = self._publish.link
            if link is not None and subscriber.keeper.link is not None:
                now = self._loop.time()
                connected_since = connected_since or now
                try:
                    async with asyncio.timeout(_PROBE_INTERVAL):
                        await link.call("SPUBLISH", subscriber.probe, "")
                    deaf_since = max(connected_since, subscriber.probed_at or 0.0)
                    if self._loop.time() - deaf_since > 2 * _PROBE_STALE:
                        subscriber.keeper.drop("deaf: probes do not come back")
                        connected_since = None
                except (EngineError, EngineUnavailable, TimeoutError) as error:
                    logger.debug("probe not sent", extra={"reason": str(error)})
            else:
                connected_since = None
            await asyncio.sleep(_PROBE_INTERVAL)
