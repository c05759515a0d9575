"""Joins against a log whose engine is promoted meanwhile: what is told, and in which order."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Sequence
from typing import Any, cast

from service.core.log import Gap, Page, Piece
from service.core.position import BEGINNING, Position, parse_position
from service.hub.hub import Hub
from service.hub.joining import Joining, Start
from service.hub.live import LiveChannel, Member, Replays
from service.hub.policy import HubPolicy
from service.hub.writing import BEHIND
from service.telemetry.metrics import Metrics
from tests.core.world import ModelLog

CHANNEL = "user:alice"
_TOLD = re.compile(rb'"id":"([0-9-]+)"|"from":"([0-9-]+)","to":"([0-9-]+)"')


class Engine:
    """A log and subscriptions, after `service.ports`; it pushes nothing."""

    def __init__(self, page_size: int) -> None:
        self.log = ModelLog(page_size)
        self.reads = 0
        self.answers = asyncio.Event()
        """Reads wait for it; what they answer is what the log is then."""
        self.answers.set()

    def on_pushed(self, handler: Any) -> None: ...

    def on_restored(self, handler: Any) -> None: ...

    async def subscribe(self, channel: str) -> None: ...

    def unsubscribe(self, channel: str) -> None: ...

    def open(self, channel: str, after: Position | None) -> None: ...

    async def read(self, channel: str, after: Position | None) -> Page:
        self.reads += 1
        await self.answers.wait()
        return self.log.read(after)

    def publish(self, count: int) -> None:
        for _ in range(count):
            self.log.publish(0)


class Client:
    """A member that writes down what it is told: `1000-1` an event, `1000-1>1001-0` a gap."""

    takes_frames = True
    fd = BEHIND
    closing = 0
    congested = False

    def __init__(self) -> None:
        self.told: list[str] = []
        self.replays: Replays | None = None
        self.transport = self

    def deliver(self, live: LiveChannel, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, Gap):
                self.told.append(f"{piece.since}>{piece.to}")
            else:
                self.told.append(str(piece.position))

    async def drained(self) -> None: ...

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(work)

    # Its transport, to which go the frames of all members

    def write(self, data: bytes) -> None:
        for event, since, to in _TOLD.findall(data):
            self.told.append((event or since + b">" + to).decode())

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None: ...

    def is_closing(self) -> bool:
        return False


class Node:
    """A hub on an engine."""

    def __init__(self, page_size: int) -> None:
        self.engine = Engine(page_size)
        engine = cast("Any", self.engine)
        self.hub = Hub(engine, engine, HubPolicy(), Metrics())
        self.joining = Joining(self.hub)

    async def begin(self, since: str | None) -> Start:
        position = None if since is None else parse_position(since)
        return await self.joining.begin(self.joining.hold(CHANNEL, position))

    async def join(self, since: str | None) -> tuple[Client, Start]:
        client, start = Client(), await self.begin(since)
        self.joining.follow(cast("Member", client), start)
        return client, start

    async def settle(self) -> None:
        """Until everybody is live."""
        async with asyncio.timeout(10):
            while len(tasks := asyncio.all_tasks()) > 1:
                await asyncio.wait(tasks - {asyncio.current_task()})


async def test_an_epoch_s_end_is_told_behind_what_is_left_of_it() -> None:
    node = Node(page_size=2)
    node.engine.publish(5)
    node.engine.log.renew(lost=1)
    node.engine.publish(2)
    node.engine.log.renew(lost=0)
    client, start = await node.join("1000-1")
    assert (str(start.at), start.recovered) == ("1000-1", False)
    await node.settle()
    old = ["1000-2", "1000-3", "1000-4"]
    new = ["1000-4>1001-0", "1001-1", "1001-2", "1001-2>1002-0"]
    assert client.told == old + new
    # One that had more of the old epoch than is left, and one that keeps the last place.
    client, start = await node.join("1000-5")
    assert (str(start.at), start.recovered) == ("1001-0", False)
    await node.settle()
    assert client.told == ["1000-5>1001-0", *new[1:]]
    client, start = await node.join("1002-0")
    assert start.recovered
    assert client.told == []


async def test_members_and_who_joins_between_the_pages_of_a_crossing_are_told_the_same() -> None:
    node = Node(page_size=2)
    node.engine.publish(1)
    member, _ = await node.join(None)
    node.engine.publish(3)
    node.engine.log.renew(lost=0)
    node.engine.publish(1)
    (live,) = node.hub._channels.values()
    node.hub.heal(live)
    others = [(await node.join(f"1000-{seq}"))[0] for seq in (1, 2, 3, 4)]
    await node.settle()
    told = ["1000-2", "1000-3", "1000-4", "1000-4>1001-0", "1001-1"]
    for number, client in enumerate([member, *others]):
        assert client.told == told[max(0, number - 1) :]


async def test_who_asks_for_what_is_retained_is_told_of_later_losses_only() -> None:
    node = Node(page_size=2)
    engine = node.engine
    engine.publish(3)
    engine.log.renew(lost=1)
    engine.publish(3)
    client, start = await node.join(str(BEGINNING))
    assert (str(start.at), start.recovered) == ("1000-0", True)
    assert client.told == ["1000-1", "1000-2"]
    # Another promotion, while the second epoch is still to be read.
    engine.log.renew(lost=1)
    engine.publish(1)
    await node.settle()
    assert client.told[2:] == ["1001-1", "1001-2", "1001-2>1002-0", "1002-1"]


async def test_who_asks_for_what_is_retained_is_not_told_of_an_end_that_members_are_told_of() -> (
    None
):
    node = Node(page_size=2)
    node.engine.publish(2)
    member, _ = await node.join(None)
    node.engine.log.renew(lost=0)
    node.engine.publish(1)
    # Its first page ends where the members stand.
    client, _ = await node.join(str(BEGINNING))
    (live,) = node.hub._channels.values()
    node.hub.heal(live)
    await node.settle()
    assert client.told == ["1000-1", "1000-2", "1001-1"]
    assert member.told == ["1000-2>1001-0", "1001-1"]


async def test_a_replay_of_what_is_retained_outlives_a_log_that_went_back() -> None:
    node = Node(page_size=2)
    node.engine.publish(3)
    client, _ = await node.join(str(BEGINNING))
    node.engine.log.wipe()
    node.engine.publish(1)
    node.engine.log.renew(lost=0)
    node.engine.publish(1)
    await node.settle()
    assert client.told[:2] == ["1000-1", "1000-2"]
    assert client.told[2:] == ["1000-2>980-0", "980-1", "980-1>981-0", "981-1"]


async def test_a_log_that_went_back_is_given_from_its_beginning() -> None:
    node = Node(page_size=2)
    engine = node.engine
    engine.publish(3)
    member, _ = await node.join(None)
    engine.log.wipe()
    engine.publish(1)
    engine.log.renew(lost=0)
    engine.publish(1)
    client, start = await node.join("1000-2")
    assert (str(start.at), start.recovered) == ("980-0", False)
    await node.settle()
    told = ["980-0", "980-1", "980-1>981-0", "981-1"]
    assert client.told == ["1000-2>980-0", *told[1:]]
    assert member.told == ["1000-3>980-0", *told[1:]]


async def test_a_join_while_the_channel_is_mended_is_judged_by_the_log() -> None:
    node = Node(page_size=5)
    node.engine.publish(1)
    await node.join(None)
    node.engine.log.renew(lost=0)
    (live,) = node.hub._channels.values()
    node.engine.answers.clear()
    node.hub.heal(live)
    joining = asyncio.create_task(node.begin("1000-1"))
    await asyncio.sleep(0)
    node.engine.answers.set()
    start = await joining
    assert (str(start.at), start.recovered) == ("1001-0", False)
    # At rest it costs no read.
    reads = node.engine.reads
    assert (await node.begin("1001-0")).recovered
    assert node.engine.reads == reads
