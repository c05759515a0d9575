"""The node's subscriptions on a Cluster: each channel at the shard that has its slot.

A shard's `Subscriber` is told when a slot leaves its node, and is refused a channel that was never
there: both are strays. The map is read anew, and they are subscribed at the new owner; once that is
confirmed, their logs are read, as pushes are missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

from service.broker.link import Argument
from service.broker.shard import Shard
from service.broker.subscriber import Subscriber
from service.broker.topology import slot_of
from service.core.log import Entry
from service.ports import PushedHandler, RestoredHandler
from service.supervision import log_failures, supervise

logger = logging.getLogger("herald.engine")

_RENEW_PATIENCE = 5.0
_PAUSES = (0.02, 1.0)
"""Seconds between two rounds of moving strays: the first, doubled each time, and the longest."""


class ClusterSubscriptions:
    """The `Subscriptions` port.

    Args:
        owner: the shard that has a slot, where one has.
        renew: reads the map anew.
        nowhere: a subscriber without a link, for channels whose slot nobody has.
    """

    def __init__(
        self,
        owner: Callable[[int], Shard | None],
        renew: Callable[[float], Any],
        nowhere: Subscriber,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._renew = renew
        self._nowhere = nowhere
        self._places: dict[str, Subscriber] = {}
        self._shards: set[Subscriber] = set()
        self._strays: dict[str, Subscriber] = {}
        self._moving: asyncio.Task[None] | None = None
        self._pushed: PushedHandler = _nobody
        self._restored: RestoredHandler = _nothing

    def on_pushed(self, handler: PushedHandler) -> None:
        """See `Subscriptions.on_pushed`."""
        self._pushed = handler
        for subscriber in self._shards:
            subscriber.on_pushed(handler)

    def on_restored(self, handler: RestoredHandler) -> None:
        """See `Subscriptions.on_restored`."""
        self._restored = handler
        for subscriber in self._shards:
            subscriber.on_restored(handler)

    def __len__(self) -> int:
        return len(self._places)

    def open(self, channel: str, command: Sequence[Argument]) -> asyncio.Future[Any] | None:
        """See `Subscriber.open`."""
        if channel in self._places:
            return None
        place = self._place(channel)
        opened = place.open(channel, command)
        if opened is not None:
            self._places[channel] = place
        return opened

    async def subscribe(self, channel: str) -> None:
        """See `Subscriptions.subscribe`."""
        place = self._places.get(channel)
        if place is None:
            place = self._places[channel] = self._place(channel)
        await place.subscribe(channel)

    def unsubscribe(self, channel: str) -> None:
        """See `Subscriptions.unsubscribe`."""
        place = self._places.pop(channel, None)
        if place is not None:
            place.unsubscribe(channel)

    async def close(self) -> None:
        """Move nothing more."""
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.gather(self._moving, return_exceptions=True)

    # `Company`

    def joined(self, shard: Shard) -> None:
        """See `Company.joined`."""
        self._shards.add(shard.subscriptions)
        shard.subscriptions.on_pushed(self._pushed)
        shard.subscriptions.on_restored(self._restored)

    def left(self, shard: Shard) -> None:
        """See `Company.left`."""
        self._shards.discard(shard.subscriptions)
        for channel in shard.subscriptions.channels:
            self._move(channel, shard.subscriptions)

    def settled(self) -> None:
        """See `Company.settled`."""
        for channel in self._nowhere.channels:
            self._move(channel, self._nowhere)

    # Strays

    def stray(self, subscriber: Subscriber, channel: str) -> None:
        """See `Strays`. It may be a probe, for which reading the map anew is all."""
        self._strays[channel] = subscriber
        if self._moving is None or self._moving.done():
            self._moving = self._loop.create_task(
                supervise(
                    self._move_strays,
                    log_failures(logger, "channels could not be subscribed elsewhere"),
                )
            )

    async def _move_strays(self) -> None:
        pause, longest = _PAUSES
        while self._strays:
            await self._renew(_RENEW_PATIENCE)
            channels = list(self._strays)
            logger.info("channels are subscribed elsewhere", extra={"channels": len(channels)})
            for channel in channels:
                place = self._strays[channel]
                if self._places.get(channel) is place:
                    self._move(channel, place)
                del self._strays[channel]
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    def _place(self, channel: str) -> Subscriber:
        shard = self._owner(slot_of(channel))
        return self._nowhere if shard is None else shard.subscriptions

    def _move(self, channel: str, place: Subscriber) -> None:
        confirmed = place.take(channel)
        self._places[channel] = target = self._place(channel)
        target.adopt(channel, confirmed)


def _nobody(channel: str, entry: Entry, accepted: int) -> None:
    logger.debug("push without a handler")


def _nothing(channels: Collection[str]) -> None:
    pass
