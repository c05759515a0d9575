"""Publishing to and reading from the channels' logs on a Cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from service.broker import keys
from service.broker.cluster_subscriptions import ClusterSubscriptions
from service.broker.copies import UNCOPIED
from service.broker.event_log import (
    PATIENCE,
    TOO_MANY_BYTES,
    TOO_MANY_EVENTS,
    Commands,
    LogPolicy,
    Receipts,
    must_look_first,
    page_of,
    paged,
    refuse_conflicts,
    tip_of,
)
from service.broker.lanes import Errand, Lanes
from service.broker.link import Argument
from service.broker.shards import Reply, Shards
from service.broker.topology import slot_of
from service.core.errors import Overloaded
from service.core.event import Event, encode_fragment, fingerprint
from service.core.log import Page
from service.core.position import Position
from service.core.principal import Publisher


class ClusterLog:
    """The `EventLog` port. Each channel is stored and read on the shard that has its slot."""

    def __init__(
        self, shards: Shards, subscriptions: ClusterSubscriptions, policy: LogPolicy
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._shards = shards
        self._subscriptions = subscriptions
        self._policy = policy
        self._commands = Commands(policy)
        self.lanes = Lanes(shards, _push_at_source)

    def submit_now(self, event: Event, publisher: Publisher) -> ClusterSubmission | None:
        """See `EventLog.submit_now`."""
        return None if must_look_first(event) else self._submit(event, publisher)

    async def submit(self, event: Event, publisher: Publisher) -> ClusterSubmission:
        """See `EventLog.submit`."""
        if must_look_first(event):
            await self._check_ids(event, publisher, fingerprint(event))
        return self._submit(event, publisher)

    def _submit(self, event: Event, publisher: Publisher) -> ClusterSubmission:
        lanes = self.lanes
        if lanes.in_flight + len(event.channels) > self._policy.max_in_flight:
            raise Overloaded(TOO_MANY_EVENTS)
        now = time.time()
        fragment = encode_fragment(event, int(now * 1000))
        waiting = lanes.in_flight_bytes
        if waiting and waiting + len(fragment) * len(event.channels) > self._policy.max_bytes:
            raise Overloaded(TOO_MANY_BYTES)
        mark = None if event.id is None else fingerprint(event)
        accepted = b"%d" % (now * 1e6)
        commands = self._commands.publish(event, publisher, fragment, accepted, mark)
        event_id = self._commands.new_id() if event.id is None else event.id
        errands = [
            Errand(channel, command, len(fragment))
            for channel, command in zip(event.channels, commands, strict=True)
        ]
        return ClusterSubmission(event_id, event.channels, errands, lanes)

    def open(self, channel: str, after: Position | None) -> asyncio.Future[Page] | None:
        """See `EventLog.open`."""
        return paged(self._subscriptions.open(channel, self._commands.peek(channel, after)))

    async def read(self, channel: str, after: Position | None, limit: int | None = None) -> Page:
        """See `EventLog.read`."""
        return page_of(await self._read(channel, self._commands.read(channel, after, limit)))

    async def tips(self, channels: Sequence[str]) -> list[Position | None]:
        """See `EventLog.tips`."""
        replies = [self._read(channel, (b"GET", keys.meta_key(channel))) for channel in channels]
        return [tip_of(reply) for reply in await asyncio.gather(*replies)]

    async def _read(self, channel: str, command: tuple[Argument, ...]) -> Any:
        deadline = self._loop.time() + PATIENCE
        return (await self._shards.call(slot_of(channel), command, deadline, reads=True)).value

    async def _check_ids(self, event: Event, publisher: Publisher, mark: str) -> None:
        # As on a single engine: a reused id must store nothing anywhere.
        assert event.id is not None
        errands = [
            Errand(channel, (b"GET", keys.idempotency_key(channel, publisher.name, event.id)), 0)
            for channel in event.channels
        ]
        for errand in errands:
            self.lanes.send(errand)
        known = await asyncio.gather(*(errand.outcome for errand in errands))
        refuse_conflicts(event.channels, known, mark)


class ClusterSubmission(Receipts):
    """The `Submission` port: one script call per channel, sent when this is made."""

    __slots__ = ("_errands", "_lanes", "_losses")

    def __init__(
        self, event_id: str, channels: tuple[str, ...], errands: list[Errand], lanes: Lanes
    ) -> None:
        super().__init__(event_id, channels)
        self._errands = errands
        self._lanes = lanes
        self._losses = lanes.losses
        for errand in errands:
            lanes.send(errand)

    @property
    def lost(self) -> bool:
        """See `Submission.lost`: this one, or another that was on its way at the same time.

        Who sends several in turn asks the last one only, and the others may be on other shards.
        """
        return self._lanes.losses != self._losses

    def _outcome(self, index: int) -> asyncio.Future[Any]:
        return self._errands[index].outcome

    async def _reply(self, index: int) -> tuple[bytes, bytes]:
        reply = await self._errands[index].outcome
        return reply[0], reply[1]


def _push_at_source(errand: Errand, reply: Reply) -> None:
    """Push what the slot's next owner has stored to those who still listen at its owner.

    They are moved when the slot has moved; the next owner's push reaches nobody until then.
    """
    command = errand.command
    if reply.source is None or command[0] != b"EVALSHA":
        return
    # What is uncopied may have been known already; a push seen before does no harm.
    if reply.value[0] not in (b"stored", UNCOPIED):
        return
    first = 3 + int(command[2])  # where the script's arguments begin
    fragment, live, accepted = (command[first + at] for at in (0, 1, 5))
    assert isinstance(live, bytes)
    assert isinstance(fragment, bytes)
    assert isinstance(accepted, bytes)
    pushed = reply.source.call("SPUBLISH", live, b" ".join((reply.value[1], accepted, fragment)))
    # Where it fails, the slot is gone from there, and the listeners read the log.
    pushed.add_done_callback(lambda done: done.exception())
