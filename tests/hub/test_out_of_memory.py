"""One allocation fails, be it which it may: nobody misses an event without being broken off."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import cast

import pytest

from service.core.log import Entry
from service.hub.live import Member
from tests.harness.starving import ALL, needs_starving, starve
from tests.hub import test_joining as joining
from tests.hub.test_joining import CHANNEL, Node

pytestmark = needs_starving

_BEFORE, _STARVED, _AFTER = 2, 3, 2
_MOST = 5_000
"""Allocations of one trial; they are some hundreds."""


class Process:
    """Ends itself, where its clients must resume elsewhere. That takes no memory, as in reality."""

    ended = False

    def end(self, line: bytes = b"") -> None:
        self.ended = True
        raise _ENDED


_ENDED = SystemExit()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    process = Process()
    monkeypatch.setattr("service.hub.hub.fail_stop", process.end)
    logging.disable()  # pytest's own handler does not survive it
    yield process
    logging.disable(logging.NOTSET)


class Client(joining.Client):
    """One that can be broken off, as a connection can."""

    def __init__(self, node: Node, takes_frames: bool) -> None:
        super().__init__()
        self.node = node
        self.takes_frames = takes_frames

    def break_off(self) -> None:
        if not self.closing:
            self.closing = 1
            self.node.hub.leave(cast("Member", self), CHANNEL, following=False)

    def owe(self, channel: str, pieces: object, blocks: list[bytes], budget: int) -> bool:
        self.write(b"".join(blocks))
        return True


class World:
    """Two clients that get frames and two that get streams, all live."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.node = Node(page_size=10)
        self.clients: list[Client] = []
        self.expected: list[str] = []
        self.link_lost = False

    async def begin(self) -> None:
        for takes_frames in (True, True, False, False):
            client = Client(self.node, takes_frames)
            self.node.joining.follow(cast("Member", client), await self.node.begin(None))
            self.clients.append(client)

    def publish(self) -> Entry:
        entry = self.node.engine.log.publish(0)
        self.expected.append(str(entry.position))
        return entry

    def push_and_flush(self, count: int) -> None:
        self.turn([self.publish() for _ in range(count)])

    def turn(self, entries: list[Entry]) -> None:
        """A turn of the loop in which these are pushed. What fails there ends a link, or all."""
        try:
            for entry in entries:
                self.node.hub._pushed(CHANNEL, entry, 0)
        except MemoryError:
            self.link_lost = True
        try:
            self.node.hub._flush()
        except MemoryError:
            self.process.end()  # `on_loop_error`

    async def all_have_everything(self) -> bool:
        """After coming again, where one was broken off; whether anyone was."""
        broken = False
        await self.node.settle()
        for client in self.clients:
            if not client.closing:
                assert client.told == self.expected
                continue
            broken = True
            assert client.told == self.expected[: len(client.told)]
            again = Client(self.node, client.takes_frames)
            since = client.told[-1] if client.told else "1000-0"
            self.node.joining.follow(cast("Member", again), await self.node.begin(since))
            await self.node.settle()
            assert client.told + again.told == self.expected
        return broken


async def _outcome(process: Process, number: int, count: int) -> tuple[bool, str]:
    world = World(process)
    await world.begin()
    world.push_and_flush(_BEFORE)
    entries = [world.publish() for _ in range(_STARVED)]
    process.ended = False
    starved = True
    with contextlib.suppress(SystemExit, MemoryError):
        starved = starve(number, count, partial(world.turn, entries))
    if process.ended:
        return True, "ended"
    if world.link_lost:
        world.node.hub.heal_all([CHANNEL])
        await world.node.settle()
    world.push_and_flush(_AFTER)
    return starved, "broken off" if await world.all_have_everything() else "whole"


async def test_pushed_events_reach_everyone_or_break_off(process: Process) -> None:
    outcomes: Counter[str] = Counter()
    number, starved = 0, True
    while starved:
        assert number < _MOST, "memory never sufficed"
        starved, outcome = await _outcome(process, number, 1)
        outcomes[outcome] += 1
        number += 1
    assert number > 50
    assert outcomes["broken off"] > outcomes["ended"], outcomes
    for first in range(number):
        await _outcome(process, first, 2)
        await _outcome(process, first, ALL)
