"""The node's subscription to the engine's pushes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from service.broker import keys
from service.broker.endpoint import Locate
from service.broker.keeper import LinkKeeper
from service.broker.link import Argument, Link
from service.core.errors import EngineUnavailable
from service.core.log import Entry
from service.core.position import Position
from service.ports import PushedHandler, RestoredHandler

logger = logging.getLogger("herald.engine")

_ROUND_TRIPS = 60
"""Of the last probes: one is sent each second."""
_BATCH = 512
"""Channels that are subscribed again before their confirmations are waited for."""
ELSEWHERE = ("MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN ")
"""How a Cluster's node refuses a channel whose slot it does not have now."""


Strays = Callable[["Subscriber", str], None]
"""Told by the subscriber of a Cluster's shard of a channel that is not, or no longer, there."""


class Subscriber:
    """The `Subscriptions` port, over a link of its own.

    After a loss it subscribes to everything again, and only when the engine has confirmed all of
    it does it call `on_restored`: what was pushed meanwhile must be read from the logs.

    In a Cluster, where `strays` is given, channels come from another shard (`adopt`) and go to
    another one (`take`).
    """

    def __init__(
        self,
        locate: Locate,
        timeout: float,
        node: str,
        reopened: Callable[[str], None],
        name: str = "subscribe",
        strays: Strays | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        # Wanted channels; the future is None once the engine has confirmed the subscription.
        self._wanted: dict[str, asyncio.Future[None] | None] = {}
        # SSUBSCRIBEs sent on this link and not confirmed. One that was sent before a channel was
        # given up and wanted again must not confirm the new wish.
        self._unconfirmed: dict[str, int] = {}
        self._link: Link | None = None
        self.probe_name = keys.probe_channel(node)
        self._probe = keys.live_channel(self.probe_name)
        self._pushed: PushedHandler = _nobody
        self._restored: RestoredHandler = _nothing
        self._opened_before = False
        self._renewed = asyncio.Event()
        self._strays = strays
        # Channels from another shard that are not confirmed here, and those that were this turn.
        self._adopted: set[str] = set()
        self._settled: list[str] = []
        self.probed_at: float | None = None
        """Loop time at which the last probe came back."""
        self.round_trips: deque[float] = deque(maxlen=_ROUND_TRIPS)
        """How many seconds the last probes took."""
        self._probe_sent_at: float | None = None  # the first one that has not come back
        self.keeper = LinkKeeper(
            name,
            locate,
            timeout,
            self._prepare,
            reopened,
            on_push=self._on_push,
            on_refused=self._on_refused if strays else None,
        )

    def on_pushed(self, handler: PushedHandler) -> None:
        """See `Subscriptions.on_pushed`."""
        self._pushed = handler

    def on_restored(self, handler: RestoredHandler) -> None:
        """See `Subscriptions.on_restored`."""
        self._restored = handler

    @property
    def probe(self) -> bytes:
        """The live channel on which this node hears itself."""
        return self._probe

    def probe_sent(self) -> None:
        """A probe is about to be published."""
        if self._probe_sent_at is None:
            self._probe_sent_at = time.perf_counter()  # finer than the loop's clock

    def __len__(self) -> int:
        return len(self._wanted)

    def open(self, channel: str, command: Sequence[Argument]) -> asyncio.Future[Any] | None:
        """Subscribe, and send a command behind that. None: without a link, or if it is wanted.

        The engine does one after the other, so when the command is answered, all that it did not
        see will be pushed.
        """
        link = self.keeper.link
        if link is None or channel in self._wanted:
            return None
        # If the link is lost before it is confirmed, the next one subscribes and tells `restored`.
        self._wanted[channel] = None
        self._send_subscribe([channel])
        return link.call(*command)

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

    # In a Cluster

    @property
    def channels(self) -> list[str]:
        """What is wanted here."""
        return list(self._wanted)

    def take(self, channel: str) -> asyncio.Future[None] | None:
        """Give a channel up for another shard to `adopt`, with who waits for its confirmation."""
        self._adopted.discard(channel)
        return self._wanted.pop(channel, None)

    def adopt(self, channel: str, confirmed: asyncio.Future[None] | None) -> None:
        """Subscribe to a channel that another shard had; `on_restored` tells when it is there."""
        self._wanted[channel] = confirmed or self._loop.create_future()
        self._adopted.add(channel)
        self._send_subscribe([channel])

    def probe_as(self, node: str) -> None:
        """Listen on another live channel for the probe: the slot of the old one has gone."""
        self.probe_name = keys.probe_channel(node)
        self._probe = keys.live_channel(self.probe_name)
        if self._link is not None:
            self._link.send_subscription("SSUBSCRIBE", self._probe)

    def _send_subscribe(self, channels: list[str]) -> None:
        if self._link is None:
            return
        for channel in channels:
            self._unconfirmed[channel] = self._unconfirmed.get(channel, 0) + 1
        if self._strays is None:
            self._link.send_subscription("SSUBSCRIBE", *map(keys.live_channel, channels))
            return
        for channel in channels:  # a Cluster wants one slot per command
            self._link.send_subscription("SSUBSCRIBE", keys.live_channel(channel))

    async def _prepare(self, link: Link) -> None:
        """Subscribe to everything that is wanted, and wait until it is confirmed."""
        self._link = link
        self._unconfirmed.clear()
        self.probed_at = None
        self._probe_sent_at = None  # what was sent before does not come back
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
        self._loop.call_soon(self._renewed.set)  # the keeper has it by then
        if self._opened_before:
            self._loop.call_soon(self._restored, list(self._wanted))
        self._opened_before = True

    async def prepared(self, patience: float) -> None:
        """Returns when a new link is there, or after `patience` seconds."""
        self._renewed.clear()
        try:
            async with asyncio.timeout(patience):
                await self._renewed.wait()
        except TimeoutError:
            pass

    async def _answered(self, link: Link) -> None:
        """Wait until all that was sent is answered; many channels may take many such waits."""
        async with asyncio.timeout(self._timeout):
            await link.call("PING")

    def _on_push(self, push: list[Any]) -> None:
        kind = push[0]
        if kind == b"smessage":
            live = push[1]
            if live == self._probe:
                self._probe_heard()
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
            if not self._is_last_answer(channel):
                return
            confirmed = self._wanted.get(channel)
            if confirmed is not None:
                self._wanted[channel] = None
                if not confirmed.done():
                    confirmed.set_result(None)
            if channel in self._adopted:
                self._adopted.discard(channel)
                if not self._settled:
                    self._loop.call_soon(self._tell_settled)
                self._settled.append(channel)
        elif kind == b"sunsubscribe" and self._strays is not None:
            channel = keys.channel_of(push[1])
            # Where an answer to an SSUBSCRIBE is still to come, that one decides. Otherwise a
            # channel that is wanted was not given up by us: its slot has left this node.
            if push[1] == self._probe or (
                channel in self._wanted and channel not in self._unconfirmed
            ):
                self._strays(self, channel)

    def _probe_heard(self) -> None:
        self.probed_at = self._loop.time()
        if self._probe_sent_at is not None:
            self.round_trips.append(time.perf_counter() - self._probe_sent_at)
            self._probe_sent_at = None

    def _on_refused(self, live: tuple[bytes, ...], reason: str) -> bool:
        if not reason.startswith(ELSEWHERE):
            return False
        assert self._strays is not None
        for name in live:
            channel = keys.channel_of(name)
            if name == self._probe or (self._is_last_answer(channel) and channel in self._wanted):
                self._strays(self, channel)
        return True

    def _is_last_answer(self, channel: str) -> bool:
        """Count an answer to an SSUBSCRIBE; whether no other is to come for this channel."""
        left = self._unconfirmed.get(channel, 0) - 1
        if left > 0:
            self._unconfirmed[channel] = left
            return False
        self._unconfirmed.pop(channel, None)
        return True

    def _tell_settled(self) -> None:
        settled, self._settled = self._settled, []
        self._restored(settled)


def _nobody(channel: str, entry: Entry, accepted: int) -> None:
    logger.debug("push without a handler")


def _nothing(channels: Collection[str]) -> None:
    pass
