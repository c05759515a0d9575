"""What one connection may hold, and for how long, where its client does its worst.

With a server in this process, whose limits are made small; against a live one the same attacks are
in test_floods.py. Each end is counted under its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from service.core.errors import HeraldError
from service.edge.answers import Answer, ProblemError
from service.edge.body import body_chunks, read_body
from service.edge.doors import Respond, Upgrade
from service.edge.http import HeraldHttp
from service.edge.lobby import Lobby
from service.edge.policy import HttpPolicy
from service.telemetry.metrics import Metrics
from tests.edge.test_http_ends import (
    HEAD_BYTES,
    OPENING,
    Lab,
    Peer,
    cut_offs,
    dial,
    post,
    running_lab,
)
from tests.harness.process import PATIENCE, eventually

CHUNKED = b" HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
SMALL = b"GET / HTTP/1.1\r\n\r\n"
SOON = 0.3
"""Seconds, for limits that are meant to be reached."""
LATER = 2.0
"""For those that are not: longer than a busy machine holds this process up."""
IMPATIENT = HttpPolicy(unread_timeout=SOON)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab


@contextlib.asynccontextmanager
async def deaf(port: int) -> AsyncIterator[Peer]:
    """A client with a small window that reads nothing unless told to."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await loop.sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


# Trailers: fields that come after all limits of a head


@pytest.mark.parametrize("request_", [b"GET /get", b"POST /p"])
@pytest.mark.parametrize("piece", [b"a:b\r\n" * 2_000, b"x" * 10_000], ids=["many", "one"])
async def test_trailers_without_an_end_are_cut_off(request_: bytes, piece: bytes) -> None:
    policy = HttpPolicy(max_head_bytes=HEAD_BYTES)
    async with running_lab(policy) as lab, dial(lab.port) as peer:
        peer.send(request_ + CHUNKED + b"1\r\na\r\n0\r\nx: ")
        sent = 0
        while not peer.writer.transport.is_closing() and sent < 100 * HEAD_BYTES:
            peer.send(piece)
            sent += len(piece)
            with contextlib.suppress(ConnectionError):
                await peer.writer.drain()
            await asyncio.sleep(0.001)
        assert sent < 100 * HEAD_BYTES, "it would go on for ever"
        assert lab.came == [], "a request that broke off was done"
        assert lab.cut_offs() == {"trailers_large": 1}


async def test_trailers_are_no_headers(lab: Lab) -> None:
    """What a proxy has looked at are the headers (RFC 9110, 6.5.1)."""
    seen: list[bytes] = []

    def keep(headers: list[tuple[bytes, bytes]], body: bytes, respond: Respond) -> None:
        seen.extend(name for name, _ in headers)
        respond(Answer(200, b"text/plain", body))

    lab.post = keep  # type: ignore[method-assign, assignment]
    async with dial(lab.port) as peer:
        trailer = b"authorization: Bearer stolen\r\nidempotency-key: x\r\n\r\n"
        peer.send(b"POST /p" + CHUNKED + b"1\r\na\r\n0\r\n" + trailer)
        assert await peer.bodies() == [b"a"]
        # The next request's are its own again.
        peer.send(post(b"b", "x-mine: 1"))
        assert await peer.bodies() == [b"b"]
    assert seen == [b"host", b"transfer-encoding", b"host", b"content-length", b"x-mine"]


async def test_body_in_tiny_chunks_is_no_trailer() -> None:
    chunks = b"1\r\na\r\n" * 100_000
    policy = HttpPolicy(max_head_bytes=HEAD_BYTES)
    async with running_lab(policy) as lab, dial(lab.port) as peer:
        peer.send(b"POST /p" + CHUNKED)
        for begin in range(0, len(chunks), 10_000):
            peer.send(chunks[begin : begin + 10_000])
            await asyncio.sleep(0)
        peer.send(b"0\r\nx: y\r\n\r\n")
        assert await peer.bodies() == [b"a" * 100_000]


# Requests that come faster than they are answered


def waiting(lab: Lab) -> int:
    """Requests that were parsed and are not answered."""
    return sum(len(protocol.pipeline) for protocol in lab.protocols)


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("request_", [SMALL, post(b""), post(b"a" * 100)])
async def test_requests_are_taken_only_as_they_are_answered(
    lab: Lab, reads: bool, request_: bytes
) -> None:
    """A parsed request takes a hundred times the bytes that asked for it."""
    async with dial(lab.port) if reads else deaf(lab.port) as peer:
        peer.send(post(b"hold"))
        await eventually(lambda: lab.held, "the first")
        count = 200_000 // len(request_)
        peer.send(request_ * count)
        most = 0
        for round_ in range(300):
            if round_ == 100:
                lab.release()
            await asyncio.sleep(0.001)
            most = max(most, waiting(lab))
        assert most < 500
        if reads:  # none is lost by waiting
            async with asyncio.timeout(PATIENCE):
                answered = 0
                while answered < count + 1:
                    answered += (await peer.reader.read(1 << 20)).count(b"HTTP/1.1 200")


async def test_head_that_waits_for_its_turn_is_not_slow() -> None:
    """It may be cut in two by a piece of what was read; the answers before it take their time."""
    async with running_lab(HttpPolicy(head_timeout=SOON)) as lab, dial(lab.port) as peer:
        peer.send(post(b"hold") + SMALL * 1_000)
        await eventually(lambda: lab.held, "the first")
        await asyncio.sleep(3 * SOON)
        lab.release()
        assert await peer.bodies(1_001) == [b"released", *[b"/"] * 1_000]
        assert lab.cut_offs() == {}


async def test_what_waits_to_be_parsed_is_no_more_than_one_read(lab: Lab) -> None:
    """Whoever is being answered may ask for more of a body: it is not for the others to come."""
    async with dial(lab.port) as peer:
        peer.send(SMALL * 300_000)
        await eventually(lambda: len(lab.came) > 1_000, "some are answered")
        (protocol,) = lab.protocols
        assert len(protocol._read) <= 1 << 18
        assert len(protocol.pipeline) < 500
        peer.writer.transport.abort()


async def test_flood_of_requests_leaves_the_others_their_turns(lab: Lab) -> None:
    """However much one read brings: else each piece of it would hold up everybody."""
    async with dial(lab.port) as flood, dial(lab.port) as other:
        flood.send(post(b"") * 30_000)
        await eventually(lambda: lab.came, "the flood has begun")
        for number in range(20):
            before = len(lab.came)
            other.send(post(b"other"))
            assert await other.bodies() == [b"other"]
            # Counted and not timed: what was done of the flood meanwhile.
            assert len(lab.came) - before < 2_000, number


async def test_websocket_after_requests_gets_what_was_sent_early(lab: Lab) -> None:
    """All of it, although the requests before it were taken in pieces."""
    early: list[bytes] = []
    later = bytearray()

    class Protocol(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            later.extend(data)

    def websocket(upgrade: Upgrade) -> None:
        transport, data = upgrade.accept(None)
        early.append(data)
        transport.set_protocol(Protocol())
        transport.resume_reading()

    lab.websocket = websocket  # type: ignore[method-assign]
    async with dial(lab.port) as peer:
        frames = b"".join(b"%09d" % number for number in range(20_000))
        peer.send(post(b"a") * 300 + OPENING + frames)
        assert await peer.bodies(300) == [b"a"] * 300
        assert (await peer.answer())[0] == 101
        await eventually(lambda: len(early[0]) + len(later) == len(frames), "all of it")
        assert early[0] + later == frames


# Answers that nobody reads


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[HeraldHttp]:
    """Connections whose sockets are closed. Their clients hold on, so the server has ended them."""
    seen: list[HeraldHttp] = []
    original = HeraldHttp.connection_lost

    def connection_lost(self: HeraldHttp, exc: Exception | None) -> None:
        seen.append(self)
        original(self, exc)

    monkeypatch.setattr(HeraldHttp, "connection_lost", connection_lost)
    return seen


async def take_small_pieces(lab: Lab) -> asyncio.Transport:
    """Have the kernel take little of the answers: nearly all of them waits in the server."""
    await eventually(lambda: lab.protocols, "the connection")
    transport = lab.protocols[0].transport
    server = transport.get_extra_info("socket")
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return transport


async def fill(lab: Lab, peer: Peer) -> None:
    """Until some of an answer waits for its reader, and less than stops the server's reading."""
    while not lab.protocols or not lab.protocols[0].transport.get_write_buffer_size():
        peer.send(post(b"x" * 1_000) * 10)
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("path", ["/p", "/asgi"])
async def test_client_that_reads_no_answers_is_cut_off(lost: list[HeraldHttp], path: str) -> None:
    async with running_lab(IMPATIENT) as lab, deaf(lab.port) as peer:
        peer.send(post(b"x" * 10_000, path=path) * 2_000)
        await eventually(lambda: lost, "the end")
        assert lab.cut_offs() == {"unread": 1}


@pytest.mark.parametrize(
    "answers",
    [post(b"x" * 2_500_000), post(b"x" * 25_000) * 100, post(b"x" * 25_000, path="/asgi") * 100],
    ids=["one", "many", "many, asgi"],
)
async def test_client_that_reads_slowly_is_not(answers: bytes) -> None:
    """Also where as much waits for it each time that it is looked at."""
    async with running_lab(HttpPolicy(unread_timeout=LATER)) as lab, deaf(lab.port) as peer:
        await take_small_pieces(lab)
        peer.send(answers)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(PATIENCE):
            for _ in range(25):  # raises where it is cut off
                await peer.reader.readexactly(100_000)
                await asyncio.sleep(LATER / 10)
        assert lab.cut_offs() == {}


async def test_client_that_stops_reading_the_last_answer_is_cut_off(
    lost: list[HeraldHttp],
) -> None:
    """After most of it was read, so that nothing is waited for but its end."""
    async with running_lab(IMPATIENT) as lab, deaf(lab.port) as peer:
        transport = await take_small_pieces(lab)
        low, _ = transport.get_write_buffer_limits()
        peer.send(post(b"x" * 400_000, "connection: close"))
        await eventually(transport.is_closing, "the whole answer is written")
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        while transport.get_write_buffer_size() > low:
            async with asyncio.timeout(PATIENCE):
                assert await peer.reader.read(1024)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        assert transport.get_write_buffer_size() > 0
        await eventually(lambda: lost, "the end")
        assert lab.cut_offs() == {"unread": 1}


@pytest.mark.parametrize(
    "last",
    [
        post(b"x", "connection: close"),
        post(b"x", "connection: close", path="/asgi"),
        b"no HTTP\r\n\r\n",
        OPENING,
    ],
    ids=["close", "close, asgi", "no HTTP", "a WebSocket that is refused"],
)
async def test_last_answer_is_not_waited_for_for_ever(lost: list[HeraldHttp], last: bytes) -> None:
    """The socket is closed when all was read, which would be never."""
    async with running_lab(IMPATIENT) as lab, deaf(lab.port) as peer:
        await fill(lab, peer)
        peer.send(last)
        await eventually(lambda: lost, "the end")
        assert lab.cut_offs()["unread"] == 1


async def test_idle_client_with_an_unread_answer_is_cut_off(lost: list[HeraldHttp]) -> None:
    async with running_lab(IMPATIENT, idle=SOON) as lab, deaf(lab.port) as peer:
        await fill(lab, peer)
        await eventually(lambda: lost, "the end")
        assert lab.cut_offs() == {"unread": 1}


# Connections that keep others out


async def test_those_who_make_room_are_counted() -> None:
    async with running_lab(lobby=Lobby(places=2)) as lab, contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            last = await stack.enter_async_context(dial(lab.port))
            await eventually(lambda: len(lab.state.connections) in (1, 2), "it has come")
        last.send(post(b"a"))
        assert await last.bodies() == [b"a"]
        assert lab.cut_offs() == {"no_room": 3}


# Bodies that come slowly


async def read(
    pieces: Callable[[], bytes | None], pause: float, timeout: float, stats: Metrics
) -> bytes:
    """Read a body of which a piece comes after each pause, as the application does."""

    async def receive() -> dict[str, object]:
        await asyncio.sleep(pause)
        piece = pieces()
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async with asyncio.timeout(PATIENCE):
        return await read_body(body_chunks(receive, timeout, stats), 1 << 30)


async def test_body_that_trickles_is_given_up() -> None:
    """A byte now and then is a sign of life, and would hold a connection for days."""
    stats = Metrics()
    with pytest.raises(ProblemError) as refused:
        await read(lambda: b"x", SOON / 20, SOON, stats)
    assert refused.value.status == 408
    assert (b"connection", b"close") in refused.value.headers
    assert cut_offs(stats) == {"body_slow": 1}


async def test_body_that_stops_is_given_up() -> None:
    """However much has come of it."""
    stats = Metrics()
    pieces = iter([b"x" * 1_000_000, None])

    async def receive() -> dict[str, object]:
        if (piece := next(pieces)) is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": piece, "more_body": True}

    with pytest.raises(HeraldError, match="slowly"):
        async with asyncio.timeout(PATIENCE):
            await read_body(body_chunks(receive, SOON, stats), 1 << 30)
    assert cut_offs(stats) == {"body_slow": 1}


async def test_body_that_is_long_and_steady_is_read() -> None:
    """In all it takes longer than the time in which something must come."""
    stats = Metrics()
    pieces = iter([*[b"x" * 100] * 30, None])
    assert len(await read(lambda: next(pieces), LATER / 25, LATER, stats)) == 3_000
    assert cut_offs(stats) == {}
