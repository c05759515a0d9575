"""Sends commands to a Cluster's shards so that those of one slot keep their order.

Usually a command goes straight to the shard of its slot, pipelined. Where a slot moves, commands in
flight are refused (MOVED, ASK, TRYAGAIN, CLUSTERDOWN: they were not carried out), while later ones
would already find the new owner. So each slot has a lane:

* Two links are never used at once: while anything is in flight on one, what is sent later waits.
* Once one was refused, what is sent later waits until all that is in flight is answered. Then the
  refused ones are repeated, in the order in which they were sent, and those in wait follow.
* A command that can no longer go before those sent behind it (one of its channel was carried out,
  or it was tried for too long) fails; in the second case those of its channel behind it fail too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from service.broker.event_log import PATIENCE
from service.broker.link import Argument, Link
from service.broker.shards import Reply, Shards, is_repeatable
from service.broker.topology import SLOTS, slot_of
from service.core.errors import EngineError, EngineUnavailable, HeraldError

logger = logging.getLogger("herald.engine")


class Errand:
    """One command of one channel. `outcome` gets the reply."""

    __slots__ = ("channel", "command", "deadline", "outcome", "size", "slot")

    def __init__(self, channel: str, command: tuple[Argument, ...], size: int) -> None:
        self.channel = channel
        self.slot = slot_of(channel)
        self.command = command
        self.size = size
        self.deadline = 0.0
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class _Lane:
    """What is under way for one slot."""

    __slots__ = ("in_flight", "link", "refused", "waiting", "working")

    def __init__(self) -> None:
        self.link: Link | None = None
        self.in_flight = 0
        self.refused: list[Errand] = []
        self.waiting: deque[Errand] = deque()
        self.working = False

    @property
    def free(self) -> bool:
        return not (self.refused or self.waiting or self.working)


class Lanes:
    """All slots.

    Args:
        asked: told of a reply that another node than the slot's owner gave.
    """

    def __init__(self, shards: Shards, asked: Callable[[Errand, Reply], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._shards = shards
        self._asked = asked
        self._lanes: list[_Lane | None] = [None] * SLOTS
        self._tasks: set[asyncio.Task[None]] = set()
        self.in_flight = 0
        """Commands without an outcome."""
        self.in_flight_bytes = 0
        self.losses = 0
        """Commands that failed for want of the engine: grows with every one."""

    def send(self, errand: Errand) -> None:
        """Send a command, after all that were sent before to its channel."""
        self.in_flight += 1
        self.in_flight_bytes += errand.size
        lane = self._lanes[errand.slot]
        if lane is None:
            lane = self._lanes[errand.slot] = _Lane()
        self._route(lane, errand)

    async def close(self) -> None:
        """Give up what waits."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _route(self, lane: _Lane, errand: Errand) -> None:
        if lane.free:
            shard = self._shards.by_slot[errand.slot]
            link = None if shard is None else shard.publish.link
            if link is not None and (link is lane.link or not lane.in_flight):
                lane.link = link
                lane.in_flight += 1
                link.call(*errand.command).add_done_callback(partial(self._answered, lane, errand))
                return
        errand.deadline = self._loop.time() + PATIENCE
        lane.waiting.append(errand)
        self._work_on(lane)

    def _answered(self, lane: _Lane, errand: Errand, reply: asyncio.Future[Any]) -> None:
        lane.in_flight -= 1
        error = reply.exception()
        if error is None:
            self._done(errand, reply.result())
            if lane.refused:
                self._overtaken(lane, errand.channel)
        elif isinstance(error, EngineError) and is_repeatable(error):
            errand.deadline = self._loop.time() + PATIENCE
            lane.refused.append(errand)
        else:
            self._fail(errand, error)
        self._work_on(lane)

    def _overtaken(self, lane: _Lane, channel: str) -> None:
        """One of this channel was carried out, so those refused before it come too late."""
        for late in lane.refused:
            if late.channel == channel:
                self._fail(late, EngineUnavailable("A later command overtook this one."))
        lane.refused = [late for late in lane.refused if late.channel != channel]

    def _work_on(self, lane: _Lane) -> None:
        if not lane.in_flight and not lane.working and (lane.refused or lane.waiting):
            task = self._loop.create_task(self._work(lane))
            lane.working = True
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, lane: _Lane) -> None:
        """Carry out one at a time, until the slot's owner takes them again."""
        lane.waiting.extendleft(reversed(lane.refused))
        lane.refused.clear()
        asked = True
        while lane.waiting and asked:
            errand = lane.waiting.popleft()
            if errand.outcome.done():  # nobody waits for it any more
                self._done(errand, None)
                continue
            try:
                reply = await self._shards.call(errand.slot, errand.command, errand.deadline)
            except Exception as error:  # whatever it is: the lane goes on
                self._fail(errand, error)
                if not isinstance(error, EngineError):
                    self._fail_behind(lane, errand.channel)
                continue
            asked = reply.source is not None
            if asked:
                self._asked(errand, reply)
            self._done(errand, reply.value)
        lane.working = False
        rest, lane.waiting = lane.waiting, deque()
        for errand in rest:
            self._route(lane, errand)

    def _fail_behind(self, lane: _Lane, channel: str) -> None:
        """Whoever repeats the failed one must not find those behind it stored."""
        for behind in lane.waiting:
            if behind.channel == channel:
                self._fail(behind, EngineUnavailable("An earlier command was not carried out."))
        lane.waiting = deque(behind for behind in lane.waiting if behind.channel != channel)

    def _done(self, errand: Errand, value: Any) -> None:
        self.in_flight -= 1
        self.in_flight_bytes -= errand.size
        if not errand.outcome.done():
            errand.outcome.set_result(value)

    def _fail(self, errand: Errand, error: BaseException) -> None:
        self.in_flight -= 1
        self.in_flight_bytes -= errand.size
        if not isinstance(error, EngineError):
            self.losses += 1
        if not errand.outcome.done():
            if not isinstance(error, HeraldError):
                logger.error("a command failed", exc_info=error)
                error = EngineUnavailable("A command failed.")
            errand.outcome.set_exception(error)
