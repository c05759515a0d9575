"""WebSockets and streams as members of one channel: each is told everything once, in any turn."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from typing import Any, cast

import pytest

from service.core.log import Entry, Gap, Piece
from service.hub.live import LiveChannel, Member
from tests.hub.test_joining import CHANNEL, Client, Node

KINDS = ("socket", "stream")


class StreamClient(Client):
    """As `Client`, told as streams are. `room`: how many pieces it takes at once."""

    takes_frames = False  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.room = 1000

    def owe(
        self, channel: str, pieces: Sequence[Piece], blocks: Sequence[bytes], budget: int
    ) -> bool:
        assert channel == CHANNEL
        assert len(pieces) == len(blocks)
        for piece, block in zip(pieces, blocks, strict=True):
            at = piece.to if isinstance(piece, Gap) else piece.position
            assert str(at).encode() in block
        if len(pieces) > self.room:
            return False
        self.deliver(cast("LiveChannel", None), pieces)
        return True


def client_of(kind: str) -> Client:
    return Client() if kind == "socket" else StreamClient()


class Channel:
    """The only channel of a node, with what tests do to it."""

    def __init__(self) -> None:
        self.node = Node(page_size=3)

    def push(self, count: int = 1, *, lost: bool = False) -> list[str]:
        """Publish, and push in this turn of the loop; positions."""
        entries: list[Entry] = [self.node.engine.log.publish(0) for _ in range(count)]
        for entry in entries:
            if not lost:
                # Fragments of the model are positions: the frame must have the id's key.
                self.node.hub._pushed(CHANNEL, entry, 0)
        return [str(entry.position) for entry in entries]

    async def member(self, kind: str, since: str | None = None) -> Client:
        client = client_of(kind)
        start = await self.node.begin(since)
        client.began = start.at.seq  # type: ignore[attr-defined]
        self.node.joining.follow(cast("Member", client), start)
        return client

    async def settle(self) -> None:
        """Until everybody is live, and has what was pushed in this turn."""
        await asyncio.sleep(0)
        await self.node.settle()
        await asyncio.sleep(0)

    def leave(self, client: Client) -> None:
        self.node.hub.leave(cast("Member", client), CHANNEL, following=False)

    @property
    def live(self) -> LiveChannel:
        return self.node.hub._channels[CHANNEL]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(KINDS, KINDS)))
async def test_who_joins_in_the_turn_of_a_push_is_told_of_it_once(first: str, second: str) -> None:
    channel = Channel()
    member = await channel.member(first)
    before = channel.push(2)
    await asyncio.sleep(0)
    client = client_of(second)
    start = await channel.node.begin(before[0])
    pushed = channel.push(2)  # the feed has them now, and nobody was told yet
    channel.node.joining.follow(cast("Member", client), start)
    pushed += channel.push(1)
    await channel.settle()
    assert member.told == before + pushed
    assert client.told == before[1:] + pushed
    assert channel.live.has(cast("Member", client))


@pytest.mark.parametrize(("first", "second"), list(itertools.product(KINDS, KINDS)))
async def test_who_leaves_in_the_turn_of_a_push_is_told_of_it(first: str, second: str) -> None:
    channel = Channel()
    stays, leaves = await channel.member(first), await channel.member(second)
    pushed = channel.push(2)
    channel.leave(leaves)
    later = channel.push(1)
    await channel.settle()
    assert leaves.told == pushed
    assert stays.told == pushed + later
    channel.leave(stays)
    assert channel.node.hub.count_channels() == 0


async def test_who_is_closed_in_the_turn_of_a_push_is_told_nothing_more() -> None:
    channel = Channel()
    stays, closed = await channel.member("stream"), await channel.member("stream")
    pushed = channel.push(1)
    closed.closing = 1000
    channel.leave(closed)
    pushed += channel.push(1)
    late = await channel.member("stream")
    pushed += channel.push(1)
    await channel.settle()
    assert closed.told == []
    assert stays.told == pushed
    assert late.told == pushed[2:]


async def test_the_only_stream_goes_and_another_comes_in_one_turn() -> None:
    """What is kept for streams in a turn is of those that were there then."""
    channel = Channel()
    socket = await channel.member("socket")
    gone = await channel.member("stream")
    first = channel.push(1)
    gone.closing = 1000
    channel.leave(gone)
    second = channel.push(1)
    comes = await channel.member("stream")
    third = channel.push(1)
    await channel.settle()
    assert socket.told == first + second + third
    assert comes.told == third


@pytest.mark.parametrize("kinds", [("stream",), ("socket", "stream")], ids=str)
async def test_a_lost_push_is_mended_for_both(kinds: tuple[str, ...]) -> None:
    channel = Channel()
    clients = [await channel.member(kind) for kind in kinds]
    lost = channel.push(4, lost=True)
    pushed = channel.push(1)
    await channel.settle()
    for client in clients:
        assert client.told == lost + pushed


async def test_a_stream_that_cannot_take_a_catch_up_comes_forward_by_itself() -> None:
    channel = Channel()
    narrow, wide = await channel.member("stream"), await channel.member("stream")
    assert isinstance(narrow, StreamClient)
    before = channel.push(1)
    await asyncio.sleep(0)
    narrow.room = 1
    lost = channel.push(5, lost=True)
    pushed = channel.push(1)
    await channel.settle()
    narrow.room = 1000
    after = channel.push(2)
    await channel.settle()
    for client in (narrow, wide):
        assert client.told == before + lost + pushed + after
    assert channel.live.has(cast("Member", narrow))


async def test_a_stream_that_cannot_take_what_is_pushed_is_closed() -> None:
    channel = Channel()
    narrow, wide = await channel.member("stream"), await channel.member("stream")
    assert isinstance(narrow, StreamClient)
    narrow.room = 1
    closed: list[int] = []

    def close(code: int, reason: str) -> None:
        closed.append(int(code))
        narrow.closing = int(code)
        channel.leave(narrow)

    cast("Any", narrow).close = close
    pushed = channel.push(2) + channel.push(1)
    await channel.settle()
    assert closed == [4000]
    assert narrow.told == []
    assert wide.told == pushed


@pytest.mark.parametrize("seed", range(30))
async def test_in_whatever_order_members_come_and_go(seed: int) -> None:
    """Everybody is told, in order and once, everything since it came."""
    chance = random.Random(seed)
    channel = Channel()
    published: list[str] = []
    members = [await channel.member("socket")]
    for _ in range(40):
        match chance.randrange(6):
            case 0:
                since = chance.choice([None, *published])
                members.append(await channel.member(chance.choice(KINDS), since))
            case 1 if len(members) > 1:
                client = members[chance.randrange(1, len(members))]
                if channel.live.has(cast("Member", client)):
                    channel.leave(client)
                    members.remove(client)
                    _is_told(client, published)
            case 2:
                await asyncio.sleep(0)
            case 3:
                published += channel.push(chance.randrange(1, 4), lost=True)
            case _:
                published += channel.push(chance.randrange(1, 4))
    published += channel.push(1)
    await channel.settle()
    for client in members:
        _is_told(client, published)
        assert client.told[-1:] == published[-1:]


def _is_told(client: Client, published: list[str]) -> None:
    """From where it began on, in order and without a hole, everything so far."""
    first = client.began  # type: ignore[attr-defined]
    assert client.told == published[first : first + len(client.told)]
