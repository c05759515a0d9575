"""One primary: its links, its subscription and whether it delivers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from service.broker import keys, scripts
from service.broker.copies import Copies, publish_link
from service.broker.endpoint import Locate
from service.broker.event_log import load_scripts
from service.broker.keeper import LinkKeeper
from service.broker.link import Link, is_primary
from service.broker.subscriber import ELSEWHERE, Strays, Subscriber
from service.broker.topology import Address
from service.core.errors import EngineError, EngineUnavailable
from service.supervision import log_failures, supervise

logger = logging.getLogger("herald.engine")

_PROBE_INTERVAL = 1.0
_FIRST_PROBES = 0.05
"""Seconds between probes until the first one is heard: readiness waits for it."""
_PROBE_STALE = 3.5
"""Seconds without a probe heard after which delivery counts as broken: readiness fails within 5."""
_PROBE = b"0-0 0 "
"""An event's form: one that comes late, to a name given up, is an event of no channel."""


class Shard:
    """Three links to one engine: for publishing, for reading, and for the subscription.

    Raises nothing at `start`: an engine that is away is waited for.

    Args:
        copies: see `LogPolicy`.
        address: which of a Cluster's primaries it is.
        strays: see `Subscriber`.
    """

    def __init__(
        self,
        locate: Locate,
        node: str,
        timeout: float,
        reopened: Callable[[str], None],
        copies: Copies | None = None,
        address: Address | None = None,
        strays: Strays | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.address = address
        of = f" {address}" if address else ""
        self._of = f" of {address}" if address else ""

        def told(name: str) -> None:
            reopened(name.partition(" ")[0])

        self.publish = LinkKeeper(
            "publish" + of,
            locate,
            timeout,
            load_scripts if copies is None else _prepare_to_wait,
            told,
            make=publish_link(copies),
        )
        self.read = LinkKeeper("read" + of, locate, timeout, load_scripts, told)
        self.subscriptions = Subscriber(locate, timeout, node, told, "subscribe" + of, strays)
        self._keepers = (self.publish, self.read, self.subscriptions.keeper)
        self._tasks: list[asyncio.Task[None]] = []
        self._probe_trouble: str | None = None
        # Probes go the way of the events, on which the engine may be waiting for replicas.
        self._stale = _PROBE_STALE + (0.0 if copies is None else copies.timeout)
        self._replicas: int | None = None

    def start(self) -> None:
        """Begin to connect."""
        for keeper in self._keepers:
            self._tasks.append(self._loop.create_task(keeper.run(), name=f"engine-{keeper.name}"))
        probing = supervise(self._probe, log_failures(logger, "the probe failed"), _PROBE_INTERVAL)
        self._tasks.append(self._loop.create_task(probing, name="engine-probe"))

    async def close(self) -> None:
        """Drop the links."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_open(self, patience: float) -> None:
        """Returns once all links are open.

        Raises:
            EngineUnavailable: after `patience` seconds, with the reason and the place.
        """
        for keeper in self._keepers:
            try:
                await keeper.wait_open(patience)
            except EngineUnavailable:
                trouble = keeper.trouble or "The engine is away."
                place = f"{keeper.place}: " if keeper.place else ""
                raise EngineUnavailable(place + trouble) from None

    def probe_age(self) -> float | None:
        """Seconds since this node last heard itself through the engine, or None."""
        heard = self.subscriptions.probed_at
        return None if heard is None else self._loop.time() - heard

    def probe_round_trip(self) -> float | None:
        """Seconds that the slowest probe of the last minute took, or None."""
        return None if self.absence() else max(self.subscriptions.round_trips, default=None)

    def replicas(self) -> int | None:
        """How many replicas are attached, as of about a second ago, or None."""
        return None if self.absence() else self._replicas

    def absence(self) -> str | None:
        """Which link is not open, or None."""
        for keeper in self._keepers:
            if keeper.link is None:
                return f"engine link {keeper.name}: {keeper.trouble or 'connection lost'}"
        return None

    def trouble(self) -> str | None:
        """See `Health.trouble`."""
        if (absence := self.absence()) is not None:
            return absence
        age = self.probe_age()
        if age is None:
            since = "yet"
        elif age > self._stale:
            since = f"for {age:.1f} s"
        else:
            return None
        reason = f": {self._probe_trouble}" if self._probe_trouble else ""
        return f"no probe came back through the subscription{self._of} {since}{reason}"

    async def _probe(self) -> None:
        """Publish to ourselves every second; a subscription that is deaf is given up."""
        connected_since: float | None = None
        while True:
            subscriber = self.subscriptions
            link = self.publish.link
            if link is not None and subscriber.keeper.link is not None:
                connected_since = connected_since or self._loop.time()
                try:
                    async with asyncio.timeout(_PROBE_INTERVAL):
                        await self._publish_probe(link)
                    self._probe_trouble = None
                except (EngineError, EngineUnavailable, TimeoutError) as error:
                    self._probe_trouble = str(error) or "no answer in time"
                    connected_since = self._loop.time()  # what was not published, nobody can hear
                deaf_since = max(connected_since, subscriber.probed_at or 0.0)
                if self._loop.time() - deaf_since > 2 * self._stale:
                    subscriber.keeper.drop("deaf: probes do not come back")
                    connected_since = None
                await self._leave_replicas()
            else:
                connected_since = None
            # A link that is opened anew is probed at once: until then nobody knows that it hears.
            if subscriber.probed_at is None and subscriber.keeper.link is not None:
                await asyncio.sleep(_FIRST_PROBES)
            else:
                await subscriber.prepared(_PROBE_INTERVAL)

    async def _publish_probe(self, link: Link) -> None:
        """Write and publish, as an event does: an engine may refuse the one and do the other."""
        subscriber = self.subscriptions
        key = keys.probe_key(subscriber.probe_name)
        script = (b"EVALSHA", scripts.PROBE.sha, b"1", key, subscriber.probe, _PROBE)
        subscriber.probe_sent()
        try:
            await link.call(*script)
        except EngineError as error:
            if not str(error).startswith(ELSEWHERE):
                raise
            # The probe's slot is on its way to another shard: what it pushes is still heard.
            await link.call("SPUBLISH", subscriber.probe, _PROBE)

    async def _leave_replicas(self) -> None:
        """Give up links to a server that was a primary when they were opened and is none now."""
        for keeper in self._keepers:
            link = keeper.link
            if link is None:
                continue
            try:
                async with asyncio.timeout(_PROBE_INTERVAL):
                    role = await link.call("ROLE")
            except (EngineError, EngineUnavailable, TimeoutError):
                continue  # its keeper sees to links that do not answer
            if is_primary(role):
                self._replicas = len(role[2])
            elif link is keeper.link:
                keeper.drop("the engine is a replica now")


async def _prepare_to_wait(link: Link) -> None:
    """Teach it the scripts, and find out at once where its user may not WAIT."""
    await load_scripts(link)
    async with asyncio.timeout(_PROBE_INTERVAL):
        await link.call("WAIT", 0, 1)
