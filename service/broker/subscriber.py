"""The node's subscription to the engine's pushes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from service.broker import keys
from service.broker.endpoint import Locate
from service.broker.keeper import LinkKeeper
from service.broker.link import Link
from service.core.errors import EngineUnavailable
from service.core.log import Entry
from service.core.position import Position
from service.ports import PushedHandler

logger = logging.getLogger("herald.engine")

_BATCH = 512
"""Channels per SSUBSCRIBE when all are subscribed again."""


class Subscriber:
    """The `Subscriptions` port, over a link of its own.

    After a loss it subscribes to everything again, and only when the engine has confirmed all of
    it does it call `on_restored`: what was pushed meanwhile must be read from the logs.
    """

    def __init__(
        self, locate: Locate, timeout: float, node: str, reopened: Callable[[str], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        # Wanted channels; the future is None once the engine has confirmed the subscription.
        self._wanted: dict[str, asyncio.Future[None] | None] = {}
        # SSUBSCRIBEs sent on this link and not confirmed. One that was sent before a channel was
        # given up and wanted again must not confirm the new wish.
        self._unconfirmed: dict[str, int] = {}
        self._link: Link | None = None
        self._probe = keys.live_channel(keys.probe_channel(node))
        self._pushed: PushedHandler = _nobody
        self._restored: Callable[[], None] = _nothing
        self._opened_before = False
        self.probed_at: float | None = None
        """Loop time at which the last probe came back."""
        self.keeper = LinkKeeper(
            "subscribe", locate, timeout, self._prepare, reopened, on_push=self._on_push
        )

    def on_pushed(self, handler: PushedHandler) -> None:
        """See `Subscriptions.on_pushed`."""
        self._pushed = handler

    def on_restored(self, handler: Callable[[], None]) -> None:
        """See `Subscriptions.on_restored`."""
        self._restored = handler

    @property
    def probe(self) -> bytes:
        """The live channel on which this node hears itself."""
        return self._probe

    def __len__(self) -> int:
        return len(self._wanted)

    async def subscribe(self, channel: str) -> None:
        """See `Subscriptions.subscribe`."""
        if channel not in self._wanted:
            self._wanted[channel] = self._loop.create_future()
            self._send_subscribe([channel])
        confirmed = self._wanted[channel]
        if confirmed is not None:
            try:
                async with asyncio.timeout(self._timeout):
                    await asyncio.shield(confirmed)
            except TimeoutError:
                raise EngineUnavailable("The engine did not confirm a subscription.") from None

    def unsubscribe(self, channel: str) -> None:
        """See `Subscriptions.unsubscribe`."""
        if channel in self._wanted:
            del self._wanted[channel]
            if self._link is not None:
                self._link.send_subscription("SUNSUBSCRIBE", keys.live_channel(channel))

    def _send_subscribe(self, channels: list[str]) -> None:
        if self._link is not None:
            for channel in channels:
                self._unconfirmed[channel] = self._unconfirmed.get(channel, 0) + 1
            self._link.send_subscription("SSUBSCRIBE", *map(keys.live_channel, channels))

    async def _prepare(self, link: Link) -> None:
        """Subscribe to everything that is wanted, and wait until it is confirmed."""
        self._link = link
        self._unconfirmed.clear()
        self.probed_at = None
        link.send_subscription("SSUBSCRIBE", self._probe)
        await self._answered(link)
        wanted = list(self._wanted)
        for start in range(0, len(wanted), _BATCH):
            batch = [
                channel for channel in wanted[start : start + _BATCH] if channel in self._wanted
            ]
            if batch:
                self._send_subscribe(batch)
            # Answered after the confirmations, which are pushes: a barrier.
            await self._answered(link)
        if self._opened_before:
            self._loop.call_soon(self._restored)
        self._opened_before = True

    async def _answered(self, link: Link) -> None:
        """Wait until all that was sent is answered; many channels may take many such waits."""
        async with asyncio.timeout(self._timeout):
            await link.call("PING")

    def _on_push(self, push: list[Any]) -> None:
        kind = push[0]
        if kind == b"smessage":
            live = push[1]
            if live == self._probe:
                self.probed_at = self._loop.time()
                return
            position, _, rest = push[2].partition(b" ")
            accepted, _, fragment = rest.partition(b" ")
            epoch, _, seq = position.partition(b"-")
            self._pushed(
                keys.channel_of(live),
                Entry(Position(int(epoch), int(seq)), fragment),
                int(accepted),
            )
        elif kind == b"ssubscribe" and push[1] != self._probe:
            channel = keys.channel_of(push[1])
            left = self._unconfirmed.get(channel, 0) - 1
            if left > 0:
                self._unconfirmed[channel] = left
                return
            self._unconfirmed.pop(channel, None)
            confirmed = self._wanted.get(channel)
            if confirmed is not None:
                self._wanted[channel] = None
                if not confirmed.done():
                    confirmed.set_result(None)


def _nobody(channel: str, entry: Entry, accepted: int) -> None:
    logger.debug("push without a handler")


def _nothing() -> None:
    pass
