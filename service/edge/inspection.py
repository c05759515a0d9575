"""`GET /v1/channels/{channel}/state`: what an operator asks about a channel.

What the log has is the same on every node; who listens is said by the process that is asked, of its
own connections.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from service.core.channel import parse_channel
from service.core.errors import HeraldError
from service.core.event import read_fragment
from service.core.log import Page
from service.core.position import BEGINNING, Position
from service.edge.answers import JSON, Answer, problem_of
from service.hub.hub import Audience, Hub
from service.hub.live import Listener
from service.ports import EventLog, PublisherVerifier

MAX_LISTENERS = 100
"""Described one by one; the others are only counted."""
_MOST_COUNTED = 10_000
_PAGE = 1000
_NOT_KEPT = ((b"cache-control", b"no-store"),)

_encode = msgspec.json.Encoder().encode


class Process(NamedTuple):
    """Which one answers: the node's name, and which of how many workers."""

    node: str
    worker: int
    workers: int


class Inspection:
    """The endpoint, from its parameters to an `Answer`."""

    def __init__(
        self, log: EventLog, hub: Hub, publishers: PublisherVerifier, process: Process
    ) -> None:
        self._log = log
        self._hub = hub
        self._publishers = publishers
        self._process = process

    async def read(self, authorization: str | None, channel: str) -> Answer:
        """What is retained, and who listens here. Errors are answers too."""
        try:
            await self._publishers.verify(authorization)
            name = parse_channel(channel)
            state = await self._retained(name)
        except HeraldError as error:
            return problem_of(error).answer()
        state = {"channel": name, **state, "here": self._here(name)}
        return Answer(200, JSON, _encode(state), _NOT_KEPT)

    async def _retained(self, channel: str) -> dict[str, Any]:
        page = await self._log.read(channel, BEGINNING, 1)
        return {
            "position": str(page.tip),
            "first": None if page.first is None else str(page.first),
            "retained": await self._count(channel, page),
            "last": await self._last(channel, page.tip),
        }

    async def _last(self, channel: str, tip: Position) -> dict[str, str] | None:
        """The event at the tip, without its data; None where it has gone, or there never was one.

        What was published since the tip was read is left to the next question.
        """
        if not tip.seq:
            return None
        entries = (await self._log.read(channel, tip.before(), 1)).entries
        if not entries or entries[0].position != tip:
            return None
        kind, time = read_fragment(entries[0].fragment)
        return {"id": str(tip), "event": kind, "time": time}

    async def _count(self, channel: str, page: Page) -> int | None:
        """Events in the log. Within an epoch they are contiguous, so only older ones are counted.

        Those whose time to live has passed count until they are trimmed. None: too many to count.
        """
        tip, first = page.tip, page.first
        if first is None:
            return 0
        if first.epoch == tip.epoch:
            return tip.seq - first.seq + 1
        older, at, complete = 0, BEGINNING, False
        while at.epoch < tip.epoch and not complete:
            if older > _MOST_COUNTED:
                return None
            page = await self._log.read(channel, at, _PAGE)
            older += sum(1 for entry in page.entries if entry.position.epoch < tip.epoch)
            at, complete = page.end, page.complete
        return older + tip.seq

    def _here(self, channel: str) -> dict[str, Any]:
        audience: Audience = self._hub.audience(channel, MAX_LISTENERS)
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            **self._process._asdict(),
            "connections": audience.listening,
            "joining": audience.joining,
            "position": None if audience.position is None else str(audience.position),
            "listeners": [_told(listener) for listener in audience.listeners],
        }


def _told(listener: Listener) -> dict[str, Any]:
    return {
        "connection": listener.name,
        "transport": listener.transport,
        "age": round(listener.age, 3),
        "waiting": listener.waiting,
        "silent": round(listener.silent, 3),
        "acked": None if listener.acked is None else str(listener.acked),
    }
