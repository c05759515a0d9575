"""Writing past the transport keeps the order of the bytes, and never meets another's socket."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvloop

from service.hub.live import LiveChannel, Member
from service.hub.writing import BEHIND, Writer, descriptor
from tests.harness.process import PATIENCE, eventually
from tests.harness.servers import end_of

BUDGET = 1 << 20
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class FakeMember(asyncio.Protocol):
    """What the writer sees of a connection, on a real socket."""

    def __init__(self) -> None:
        self.fd = BEHIND
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.fd = descriptor(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        # Raises where the descriptor is no open socket any more.
        os.fstat(self.transport.get_extra_info("socket").fileno())
        self.lost.set_result(None)

    def put(self, writer: Writer, data: bytes) -> None:
        """As `Connection` writes what goes to it alone."""
        self.transport.write(data)
        if self.fd >= 0 and self.transport.get_write_buffer_size():
            self.fd = BEHIND
            writer.changed()


@asynccontextmanager
async def members(count: int) -> AsyncIterator[tuple[LiveChannel, list[socket.socket]]]:
    """A channel with so many members, and their clients' blocking sockets, in the same order."""
    loop = asyncio.get_running_loop()
    made: list[FakeMember] = []

    def make() -> FakeMember:
        made.append(FakeMember())
        return made[-1]

    server = await loop.create_server(make, "127.0.0.1", 0)
    clients: list[socket.socket] = []
    for number in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(server.sockets[0].getsockname())
        clients.append(client)
        while len(made) <= number or made[-1].fd == BEHIND:
            await asyncio.sleep(0)
    live = LiveChannel("all")
    live.members = {cast("Member", member): None for member in made}
    yield live, clients
    for member in made:
        member.transport.abort()
    for client in clients:
        client.close()
    await end_of(server)


def run(loop: Callable[[], asyncio.AbstractEventLoop], work: Any) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work)


def read(client: socket.socket, size: int) -> bytes:
    client.settimeout(PATIENCE)
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        assert piece, "the connection ended early"
        data += piece
    return data


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("count", [3, 40], ids=["few", "many"])
def test_bytes_keep_their_order_whatever_way_they_take(loop: Any, count: int) -> None:
    async def work() -> None:
        rng = random.Random(count)
        async with members(count) as (live, clients):
            writer = Writer()
            everyone = [cast("FakeMember", member) for member in live.members]
            sent = [b""] * count
            fell_behind = caught_up = 0
            for number in range(300):
                data = b"<%05d%s>" % (number, b"." * rng.randrange(2000))
                assert writer.write(live, data, 1 << 30) == []
                sent = [text + data for text in sent]
                for _ in range(3):  # what goes to one alone, between
                    index = rng.randrange(count)
                    own = b"[%d]" % number
                    everyone[index].put(writer, own)
                    sent[index] += own
                before = sum(member.fd == BEHIND for member in everyone)
                fell_behind += before
                for index in rng.sample(range(count), count // 3):  # some read all that there is
                    await asyncio.sleep(0)
                    size = len(sent[index])
                    assert await asyncio.to_thread(read, clients[index], size) == sent[index]
                    sent[index] = b""
                after = sum(member.fd == BEHIND for member in everyone)
                caught_up += max(0, before - after)
            for client, text in zip(clients, sent, strict=True):
                assert await asyncio.to_thread(read, client, len(text)) == text
            assert fell_behind, "no socket was ever full: the test shows nothing"
            assert writer.write(live, b"!", BUDGET) == []  # with nothing waiting any more
            assert all(member.fd >= 0 for member in everyone)

    run(loop, work())


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
def test_member_over_its_budget_gets_nothing_more_and_is_named(loop: Any) -> None:
    async def work() -> None:
        async with members(20) as (live, clients):
            writer = Writer()
            slow: list[Any] = []
            stuck = [cast("FakeMember", member) for member in live.members][7]
            sent = 0
            data = b"x" * 10_000
            for _ in range(10_000):
                slow = writer.write(live, data, BUDGET)
                if slow:
                    break
                sent += len(data)
                for index, client in enumerate(clients):
                    if index != 7:
                        await asyncio.to_thread(read, client, len(data))
            assert slow == [stuck]
            assert stuck.transport.get_write_buffer_size() <= BUDGET
            assert await asyncio.to_thread(read, clients[7], sent) == b"x" * sent

    run(loop, work())


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("how", ["close", "reset", "abort", "broken write"])
def test_protocol_hears_of_the_loss_while_the_descriptor_is_still_its_own(
    loop: Any, how: str
) -> None:
    async def work() -> None:
        async with members(20) as (live, clients):
            writer = Writer()
            member = cast("FakeMember", next(iter(live.members)))
            if how == "abort":
                member.transport.abort()
            elif how == "close":
                clients[0].close()
            else:
                reset = b"\1\0\0\0\0\0\0\0"
                clients[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                clients[0].close()
                if how == "broken write":  # before the loop has seen the reset
                    writer.write(live, b"data", BUDGET)
            await eventually(member.lost.done, "the loss")
            member.lost.result()

    run(loop, work())


def test_new_and_gone_members_are_seen() -> None:
    async def work() -> None:
        async with members(20) as (live, clients):
            writer = Writer()
            assert writer.write(live, b"a", BUDGET) == []
            gone = list(live.members)[3]
            del live.members[gone]
            live.fds = None
            assert writer.write(live, b"b", BUDGET) == []
            live.members[gone] = None
            live.fds = None
            assert writer.write(live, b"c", BUDGET) == []
            assert read(clients[3], 2) == b"ac"
            assert read(clients[4], 3) == b"abc"

    run(uvloop.new_event_loop, work())
