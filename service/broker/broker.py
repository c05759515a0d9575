"""The engine's face: links, logs, subscription and its health, started and stopped together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from service.broker.endpoint import Locate
from service.broker.event_log import LogPolicy, RedisEventLog, load_scripts
from service.broker.keeper import LinkKeeper
from service.broker.link import is_primary
from service.broker.subscriber import Subscriber
from service.core.errors import EngineError, EngineUnavailable

logger = logging.getLogger("herald.engine")

_PROBE_INTERVAL = 1.0
_FIRST_PROBES = 0.05
"""Seconds between probes until the first one is heard: readiness waits for it."""
_NEWCOMERS_PATIENCE = 1.0
"""Seconds of trouble for which newcomers are let in and wait; most reconnects take less."""
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
        self._keepers = (self._publish, self._read, self.subscriptions.keeper)
        self.log = RedisEventLog(self._publish, self._read, policy)
        self._tasks: list[asyncio.Task[None]] = []
        self._probe_trouble: str | None = None
        self._troubled_at: float | None = self._loop.time() - _NEWCOMERS_PATIENCE

    def start(self) -> None:
        """Begin to connect."""
        for keeper in self._keepers:
            self._tasks.append(self._loop.create_task(keeper.run(), name=f"engine-{keeper.name}"))
        self._tasks.append(self._loop.create_task(self._probe(), name="engine-probe"))

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
        for keeper in self._keepers:
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
        for keeper in self._keepers:
            if keeper.link is None:
                return f"engine link {keeper.name}: {keeper.trouble or 'connection lost'}"
        age = self.probe_age()
        if age is None:
            reason = f": {self._probe_trouble}" if self._probe_trouble else ""
            return "no probe came back through the subscription yet" + reason
        if age > _PROBE_STALE:
            return f"no probe came back through the subscription for {age:.1f} s"
        return None

    def is_away(self) -> bool:
        """See `Health.is_away`. Looks at the clock, so it is asked regularly (`_probe_on`)."""
        now = self._loop.time()
        if self.trouble() is None:
            self._troubled_at = None
            return False
        self._troubled_at = self._troubled_at or now
        return now - self._troubled_at > _NEWCOMERS_PATIENCE

    async def _probe(self) -> None:
        """Probe for ever, whatever happens."""
        while True:
            try:
                await self._probe_on()
            except Exception:
                logger.exception("the probe failed")
            await asyncio.sleep(_PROBE_INTERVAL)

    async def _probe_on(self) -> None:
        """Publish to ourselves every second; a subscription that is deaf is given up."""
        connected_since: float | None = None
        while True:
            subscriber = self.subscriptions
            link = self._publish.link
            if link is not None and subscriber.keeper.link is not None:
                connected_since = connected_since or self._loop.time()
                try:
                    async with asyncio.timeout(_PROBE_INTERVAL):
                        await link.call("SPUBLISH", subscriber.probe, "")
                    self._probe_trouble = None
                except (EngineError, EngineUnavailable, TimeoutError) as error:
                    self._probe_trouble = str(error) or "no answer in time"
                deaf_since = max(connected_since, subscriber.probed_at or 0.0)
                if self._loop.time() - deaf_since > 2 * _PROBE_STALE:
                    subscriber.keeper.drop("deaf: probes do not come back")
                    connected_since = None
                await self._leave_replicas()
            else:
                connected_since = None
            # A link that is opened anew is probed at once: until then nobody knows that it hears.
            for _ in range(round(_PROBE_INTERVAL / _FIRST_PROBES)):
                await asyncio.sleep(_FIRST_PROBES)
                self.is_away()
                if subscriber.probed_at is None and subscriber.keeper.link is not None:
                    break

    async def _leave_replicas(self) -> None:
        """Give up links to a server that was a primary when they were opened and is none now."""
        for keeper in self._keepers:
            link = keeper.link
            if link is None:
                continue
            try:
                async with asyncio.timeout(_PROBE_INTERVAL):
                    primary = is_primary(await link.call("ROLE"))
            except (EngineError, EngineUnavailable, TimeoutError):
                continue  # its keeper sees to links that do not answer
            if not primary and link is keeper.link:
                keeper.drop("the engine is a replica now")
