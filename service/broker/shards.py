"""A Cluster's primaries as they are now: which are open, and which of them has a slot.

The map is read from any node that answers: when it is needed (a redirect, a channel that was left),
every quarter second while something is wrong, and every ten seconds otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol

from service.broker.copies import Copies, publish_link
from service.broker.endpoint import Endpoint, Locate, Seeds
from service.broker.event_log import load_scripts
from service.broker.link import Argument, Link, open_link
from service.broker.shard import Shard
from service.broker.subscriber import Strays
from service.broker.topology import (
    SLOTS,
    Address,
    Range,
    View,
    owners,
    parse_redirect,
    parse_view,
    probe_for,
    slot_of,
    uncovered,
)
from service.core.errors import EngineError, EngineUnavailable
from service.supervision import log_failures, supervise

logger = logging.getLogger("herald.engine")

_RENEW_SECONDS = 10.0
_TROUBLED_SECONDS = 0.25
_LEAST_SECONDS = 0.02
_VIEW_SECONDS = 1.0
"""For one node to say what it knows."""
_PAUSES = (0.01, 0.1)
"""Seconds between two tries of a command: the first pause, which is doubled, and the longest."""
_TRANSIENT = ("MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN ", "NOSCRIPT ")


class Reply(NamedTuple):
    """A command's reply. `source`: the slot's owner, where another node answered for it (ASK)."""

    value: Any
    source: Link | None


class Company(Protocol):
    """Who is told of shards that come and go."""

    def joined(self, shard: Shard) -> None:
        """It has slots now; called before it connects."""

    def left(self, shard: Shard) -> None:
        """It has none any more, and the map says who has them."""

    def settled(self) -> None:
        """The map has changed, and all shards of it have joined."""


class _NotDone(Exception):
    """A command was not carried out, and may be soon. `moved`: who has its slot now."""

    def __init__(self, reason: str, moved: Address | None = None) -> None:
        super().__init__(reason)
        self.moved = moved


def is_repeatable(error: EngineError) -> bool:
    """Whether a command was refused and not carried out, for a reason that passes."""
    return str(error).startswith(_TRANSIENT)


class Shards:
    """Keeps the map and one `Shard` open for each primary that has slots."""

    def __init__(
        self,
        seeds: Seeds,
        node: str,
        timeout: float,
        reopened: Callable[[str], None],
        strays: Strays,
        company: Company,
        copies: Copies | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._seeds = seeds
        self._node = node
        self._timeout = timeout
        self._reopened = reopened
        self._strays = strays
        self._company = company
        self._copies = copies
        self.by_slot: list[Shard | None] = [None] * SLOTS
        self._open: dict[Address, Shard] = {}
        self._ranges: tuple[Range, ...] = ()
        self._epoch = 0
        self._trouble: str | None = "not connected yet"
        self._hints: list[Address] = []
        self._next: asyncio.Future[None] | None = None
        self._wish = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to look for the Cluster."""
        self._spawn(
            supervise(
                self._run,
                log_failures(logger, "the map of the Cluster could not be read"),
                _TROUBLED_SECONDS,
            )
        )

    async def close(self) -> None:
        """Drop all links."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(shard.close() for shard in self._open.values()))

    @property
    def open(self) -> list[Shard]:
        """All that have slots."""
        return list(self._open.values())

    def trouble(self) -> str | None:
        """Why not every slot is served, or None."""
        if self._trouble is not None:
            return f"the Cluster: {self._trouble}"
        return next(filter(None, (shard.trouble() for shard in self._open.values())), None)

    def absence(self) -> str | None:
        """As `trouble`, but what is open need not have proved yet that it delivers."""
        if self._trouble is not None:
            return f"the Cluster: {self._trouble}"
        return next(filter(None, (shard.absence() for shard in self._open.values())), None)

    async def renew(self, patience: float, hint: Address | None = None) -> None:
        """Returns once the map was read anew, or after `patience` seconds.

        `hint` is a node that knows best.
        """
        if hint is not None:
            self._hints.append(hint)
        if self._next is None:
            self._next = self._loop.create_future()
        self._wish.set()
        try:
            async with asyncio.timeout(patience):
                await asyncio.shield(self._next)
        except TimeoutError:
            pass

    async def call(
        self, slot: int, command: Sequence[Argument], deadline: float, *, reads: bool = False
    ) -> Reply:
        """Have a command carried out by the node that has the slot, wherever that is.

        It is repeated only where it was not carried out, and not after `deadline` (loop time).

        Raises:
            EngineUnavailable, EngineError
        """
        pause, longest = _PAUSES
        while True:
            shard = self.by_slot[slot]
            try:
                return await self._try(shard, command, reads)
            except _NotDone as refusal:
                left = deadline - self._loop.time()
                if left <= 0:
                    raise EngineUnavailable(
                        f"The engine did not take a command in time: {refusal}"
                    ) from None
                if refusal.moved is not None:
                    await self.renew(left, refusal.moved)
                    if self.by_slot[slot] is not shard:
                        continue
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, longest)

    async def _try(self, shard: Shard | None, command: Sequence[Argument], reads: bool) -> Reply:
        link = None if shard is None else (shard.read if reads else shard.publish).link
        if shard is None or link is None:
            raise _NotDone(self.trouble() or "The engine is away.")
        try:
            return Reply(await link.call(*command), None)
        except EngineError as error:
            if not is_repeatable(error):
                raise
            fault = str(error)
        assert shard.address is not None
        redirect = parse_redirect(fault, shard.address)
        if redirect is None:
            raise _NotDone(fault)
        if not redirect.ask:
            raise _NotDone(fault, redirect.address)
        return Reply(await self._ask(redirect.address, command), link)

    async def _ask(self, address: Address, command: Sequence[Argument]) -> Any:
        """Have a command carried out by a node that is just taking its slot over."""
        shard = self._open.get(address)
        link = None if shard is None else shard.publish.link
        own: Link | None = None
        try:
            if link is None:  # a new node, whose first slot this is
                try:
                    async with asyncio.timeout(_VIEW_SECONDS):
                        link = own = await open_link(
                            self._seeds.endpoint(address), make=publish_link(self._copies)
                        )
                        await load_scripts(link)
                except (OSError, EngineError, EngineUnavailable) as error:
                    raise _NotDone(f"{address}: {str(error) or 'no answer in time'}") from None
            asking, reply = link.call("ASKING"), link.call(*command)
            try:
                async with asyncio.timeout(self._timeout):
                    await asyncio.wait((asking, reply))
            except TimeoutError:
                raise EngineUnavailable(f"{address}: no answer in time") from None
            try:
                asking.result()
                return reply.result()
            except EngineError as error:
                if not is_repeatable(error):
                    raise
                raise _NotDone(str(error)) from None
        finally:
            if own is not None:
                own.abort()

    # The map

    async def _run(self) -> None:
        while True:
            asked, self._next = self._next, None
            hints, self._hints = self._hints, []
            self._wish.clear()
            try:
                await self._refresh(hints)
            finally:
                if asked is not None:
                    asked.set_result(None)
            pause = _RENEW_SECONDS * (0.5 + random.random())
            try:
                async with asyncio.timeout(_TROUBLED_SECONDS if self.trouble() else pause):
                    await self._wish.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(_LEAST_SECONDS)

    async def _refresh(self, hints: list[Address]) -> None:
        """Ask one node after another until one knows as much as was known already."""
        best: View | None = None
        trouble = "no node answers"
        for address in dict.fromkeys((*hints, *self._candidates())):
            try:
                view = await self._view(address)
            # Whatever it is: the next one is asked.
            except Exception as error:
                trouble = f"{address}: {str(error) or 'no answer in time'}"
                continue
            if best is None or view.epoch > best.epoch:
                best = view
            if view.epoch >= self._epoch:
                break
        if best is not None:
            self._apply(best)
        elif not self._ranges:
            if self._trouble != trouble:
                logger.warning("engine not reachable", extra={"link": "map", "reason": trouble})
            self._trouble = trouble

    def _candidates(self) -> list[Address]:
        """Nodes to ask, those with an open link first."""
        known = list(self._open)
        random.shuffle(known)
        connected = [a for a in known if self._open[a].read.link is not None]
        return [*connected, *self._seeds.addresses, *known]

    async def _view(self, address: Address) -> View:
        shard = self._open.get(address)
        link = None if shard is None else shard.read.link
        own: Link | None = None
        try:
            async with asyncio.timeout(_VIEW_SECONDS):
                if link is None:
                    link = own = await open_link(self._seeds.endpoint(address), replica=True)
                info = await link.call("CLUSTER", "INFO")
                return parse_view(info, await link.call("CLUSTER", "SLOTS"), address)
        finally:
            if own is not None:
                own.abort()

    def _apply(self, view: View) -> None:
        self._epoch = view.epoch
        self._trouble = uncovered(view.ranges)
        if view.ranges == self._ranges:
            return
        self._ranges = view.ranges
        slots = owners(view.ranges)
        present = {address for address in slots if address is not None}
        gone = [self._open.pop(address) for address in list(self._open) if address not in present]
        fresh: list[Shard] = []
        for address in sorted(present - self._open.keys()):
            self._open[address] = shard = Shard(
                _at(self._seeds, address),
                probe_for(self._node, slots, address),
                self._timeout,
                self._reopened,
                self._copies,
                address,
                self._strays,
            )
            fresh.append(shard)
        self.by_slot[:] = [None if address is None else self._open[address] for address in slots]
        for address, shard in self._open.items():
            if slots[slot_of(shard.subscriptions.probe_name)] != address:
                shard.subscriptions.probe_as(probe_for(self._node, slots, address))
        for shard in fresh:
            logger.info("a shard was found", extra={"shard": str(shard.address)})
            self._company.joined(shard)
            shard.start()
        for shard in gone:
            logger.warning("a shard has no slots any more", extra={"shard": str(shard.address)})
            self._company.left(shard)
            self._spawn(self._retire(shard))
        self._company.settled()

    async def _retire(self, shard: Shard) -> None:
        """Close a shard once what it was asked is answered."""
        try:
            async with asyncio.timeout(self._timeout):
                while any(
                    keeper.link is not None and keeper.link.in_flight
                    for keeper in (shard.publish, shard.read)
                ):
                    await asyncio.sleep(_LEAST_SECONDS)
        except TimeoutError:
            pass
        finally:
            await shard.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _at(seeds: Seeds, address: Address) -> Locate:
    endpoint = seeds.endpoint(address)

    async def fixed() -> Endpoint:
        return endpoint

    return fixed
