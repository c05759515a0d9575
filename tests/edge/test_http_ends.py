"""How one HTTP connection goes on and ends, with doors that only keep what they were given.

Answers come in the order of the requests, also what ends the connection; a head's bytes and time
are its own; and nobody holds a connection, or fills it, for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.edge.answers import Answer
from service.edge.asgi import Headers, Receive, Scope, Send
from service.edge.doors import Doors, Respond, Upgrade
from service.edge.http import HeraldHttp
from service.edge.lobby import Lobby
from service.edge.policy import HttpPolicy
from service.telemetry.metrics import Metrics
from tests.harness.process import PATIENCE, eventually

OPENING = (
    b"GET /ws HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
GARBAGE = b"this is no HTTP\r\n\r\n"
HEAD_BYTES = 8192
"""The least that the setting allows."""


class Lab:
    """A server that answers with the body it was sent, or the path, and keeps how it came.

    A POST whose body is `hold` is answered when the test says so.
    """

    def __init__(self) -> None:
        self.port = 0
        self.came: list[tuple[str, bytes]] = []
        self.held: list[Respond] = []
        self.protocols: list[HeraldHttp] = []
        self.state = ServerState()
        self.stats = Metrics()

    def cut_offs(self) -> dict[str, float]:
        """How many connections were ended for which reason, as it is scraped."""
        return cut_offs(self.stats)

    def post(self, headers: Headers, body: bytes, respond: Respond) -> None:
        self.came.append(("direct", body))
        if body == b"hold":
            self.held.append(respond)
        else:
            respond(Answer(200, b"text/plain", body))

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.came.append(("asgi", body))
        answer = body or scope["path"].encode()
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def websocket(self, upgrade: Upgrade) -> None:
        self.came.append(("websocket", b""))
        upgrade.refuse(Answer(404, b"text/plain", b""))

    def release(self) -> None:
        while self.held:
            self.held.pop()(Answer(200, b"text/plain", b"released"))


def cut_offs(stats: Metrics) -> dict[str, float]:
    """The samples of the counter that are not 0, by their reasons."""
    (family,) = (each for each in stats.collect() if each.name == "herald_http_cut_off")
    return {sample.labels["reason"]: sample.value for sample in family.samples if sample.value}


@contextlib.asynccontextmanager
async def running_lab(
    policy: HttpPolicy = HttpPolicy(), *, idle: float = 75, lobby: Lobby = Lobby()
) -> AsyncIterator[Lab]:
    lab = Lab()
    # uvicorn's own type wants whole seconds, for which no test waits.
    seconds: Any = idle
    config = uvicorn.Config(
        lab.app,  # type: ignore[arg-type]
        interface="asgi3",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=seconds,
    )
    config.load()

    def protocol() -> HeraldHttp:
        doors = Doors(lab.websocket, {b"/p": lab.post}, lobby)
        made = HeraldHttp(
            doors, policy, lab.stats, config=config, server_state=lab.state, app_state={}
        )
        lab.protocols.append(made)
        return made

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    lab.port = server.sockets[0].getsockname()[1]
    try:
        yield lab
    finally:
        server.close()
        for made in lab.protocols:
            made.transport.abort()
        await eventually(lambda: not lab.state.connections, "the end of the connections")
        await server.wait_closed()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab


class Peer:
    """A client of bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body

    async def bodies(self, count: int = 1) -> list[bytes]:
        """The next answers, which must be good."""
        bodies = []
        for _ in range(count):
            status, _, body = await self.answer()
            assert status == 200, body
            bodies.append(body)
        return bodies

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionResetError):
                return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def dial(port: int) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def post(body: bytes, *fields: str, path: str = "/p", version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "host: a", f"content-length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(*chunks: bytes) -> bytes:
    text = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return b"POST /p HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + text


H2C = ("connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMA")


@pytest.mark.parametrize(
    ("data", "way"),
    [
        (post(b"a"), "direct"),
        (chunked(b"a"), "direct"),
        (post(b"a", version="1.0"), "direct"),
        (post(b"a", *H2C), "direct"),
        (post(b"a", "expect: 100-continue"), "asgi"),
        (post(b"a", path="/p?q=1"), "asgi"),
        (post(b"a", path="/other"), "asgi"),
        (post(b"a").replace(b"POST", b"PUT"), "asgi"),
    ],
)
async def test_post_in_one_piece_goes_past_asgi_and_no_other_request(
    lab: Lab, data: bytes, way: str
) -> None:
    async with dial(lab.port) as peer:
        peer.send(data)
        await eventually(lambda: lab.came, "the request")
    assert lab.came == [(way, b"a")]


async def test_requests_wait_for_their_turn_and_keep_their_order(lab: Lab) -> None:
    async with dial(lab.port) as peer:
        get = b"GET /three HTTP/1.1\r\n\r\n"
        peer.send(post(b"hold") + post(b"2") + get + chunked(b"4") + post(b"5", *H2C) + post(b"6"))
        await eventually(lambda: lab.held, "the first")
        assert lab.came == [("direct", b"hold")]
        lab.release()
        assert await peer.bodies(6) == [b"released", b"2", b"/three", b"4", b"5", b"6"]


# What ends a connection


@pytest.mark.parametrize("first", [b"hold", b"now"])
@pytest.mark.parametrize(
    "second",
    [GARBAGE, chunked(b"x").replace(b"\r\n1\r\n", b"\r\nzz\r\n"), OPENING],
    ids=["garbage", "a broken body", "a WebSocket"],
)
async def test_what_ends_a_connection_is_said_after_the_answers(
    lab: Lab, first: bytes, second: bytes
) -> None:
    """Else the client takes a 400 for the answer to a request that was done."""
    async with dial(lab.port) as peer:
        peer.send(post(first) + second)
        await eventually(lambda: lab.came, "the first")
        lab.release()
        assert await peer.bodies() == [b"released" if first == b"hold" else b"now"]
        # A WebSocket is opened only where there is nothing left to answer.
        opened = second == OPENING and first == b"now"
        status, headers, _ = await peer.answer()
        assert (status, headers["connection"]) == (404 if opened else 400, "close")
        assert await peer.rest() == b""
    assert (("websocket", b"") in lab.came) == opened
    assert lab.cut_offs() == ({} if opened else {"bad_request": 1})


async def test_all_requests_before_the_garbage_are_answered(lab: Lab) -> None:
    async with dial(lab.port) as peer:
        peer.send(post(b"hold") + post(b"2") + post(b"3") + GARBAGE)
        await eventually(lambda: lab.held, "the first")
        lab.release()
        assert await peer.bodies(3) == [b"released", b"2", b"3"]
        assert (await peer.answer())[0] == 400
        assert await peer.rest() == b""


@pytest.mark.parametrize(
    "request_",
    [post(b"last", version="1.0"), post(b"last", "connection: close")],
    ids=["HTTP/1.0", "close"],
)
async def test_request_after_the_last_is_not_done(lab: Lab, request_: bytes) -> None:
    async with dial(lab.port) as peer:
        peer.send(request_ + post(b"after the last"))
        status, headers, body = await peer.answer()
        assert (status, body, headers["connection"]) == (200, b"last", "close")
        assert await peer.rest() == b""
    assert lab.came == [("direct", b"last")]


@pytest.mark.parametrize("more", [b"", post(b"2")], ids=["alone", "with another behind it"])
async def test_answer_to_a_client_that_has_gone_is_no_error(
    lab: Lab, caplog: pytest.LogCaptureFixture, more: bytes
) -> None:
    async with dial(lab.port) as peer:
        peer.send(post(b"hold") + more)
        await eventually(lambda: lab.held, "the request")
        peer.writer.transport.abort()
    if not more:  # else nothing is read meanwhile, and its going is seen later
        await eventually(lambda: not lab.state.connections, "the end")
    lab.release()
    await eventually(lambda: not lab.state.connections, "the end")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# Time


@pytest.mark.parametrize("stray", [b"\r\n", b"\r\n\n\r\n"])
async def test_empty_lines_do_not_keep_a_connection_for_ever(stray: bytes) -> None:
    async with running_lab(idle=0.2) as lab, dial(lab.port) as peer:
        peer.send(post(b"a"))
        assert await peer.bodies() == [b"a"]
        peer.send(stray)
        assert await peer.rest() == b""


@pytest.mark.parametrize("first", [b"now", b"hold"])
async def test_second_head_that_dribbles_is_cut_off_after_the_first_answer(
    first: bytes,
) -> None:
    async with running_lab(HttpPolicy(head_timeout=0.2)) as lab, dial(lab.port) as peer:
        peer.send(post(first))
        await eventually(lambda: lab.came, "the first")
        peer.send(b"POST /p HT")
        if first == b"hold":
            await asyncio.sleep(0.4)  # its time is over: that alone ends nothing yet
            lab.release()
        assert await peer.bodies() == [b"released" if first == b"hold" else b"now"]
        async with asyncio.timeout(HttpPolicy().head_timeout / 2):  # the policy's, not the default
            assert await peer.rest() == b""
        assert lab.cut_offs() == {"head_slow": 1}


# Bytes


@pytest.mark.parametrize("first", [b"now", b"hold"])
async def test_second_head_that_is_too_large_is_431(first: bytes) -> None:
    policy = HttpPolicy(max_head_bytes=HEAD_BYTES)
    async with running_lab(policy) as lab, dial(lab.port) as peer:
        peer.send(post(first))
        await eventually(lambda: lab.came, "the first")
        # In one piece, or as it is cut on its way: there is no more of it than the limit allows.
        peer.send(b"GET / HTTP/1.1\r\nx: " + b"y" * HEAD_BYTES + b"\r\n\r\n")
        await asyncio.sleep(0.05)
        lab.release()
        assert await peer.bodies() == [b"released" if first == b"hold" else b"now"]
        status, _, body = await peer.answer()
        assert (status, str(HEAD_BYTES) in body.decode()) == (431, True)
        assert await peer.rest() == b""
        assert len(lab.came) == 1
        assert lab.cut_offs() == {"head_large": 1}


async def test_head_of_just_the_limit_is_fine_and_one_byte_more_is_not() -> None:
    empty = b"GET / HTTP/1.1\r\nx: "
    policy = HttpPolicy(max_head_bytes=HEAD_BYTES)
    async with running_lab(policy) as lab, dial(lab.port) as peer:
        # Its last empty line is not counted.
        for size, status in ((HEAD_BYTES, 200), (HEAD_BYTES + 1, 431)):
            peer.send(empty + b"y" * (size - len(empty)) + b"\r\n\r\n")
            assert (await peer.answer())[0] == status
        assert lab.cut_offs() == {"head_large": 1}


async def test_large_body_does_not_count_as_the_next_head(lab: Lab) -> None:
    body = b"x" * 60_000
    async with dial(lab.port) as peer:
        for _ in range(5):
            peer.send(post(body) + b"GET /next HTTP/1.1\r\n")
            assert await peer.bodies() == [body]
            peer.send(b"x: " + b"y" * 30_000 + b"\r\n")
            await asyncio.sleep(0.01)
            peer.send(b"\r\n")
            assert await peer.bodies() == [b"/next"]


async def test_many_small_requests_do_not_count_as_one_head(lab: Lab) -> None:
    requests = post(b"a") * 4000
    async with dial(lab.port) as peer:
        # Cut anywhere, so that reads begin and end within heads.
        for begin in range(0, len(requests), 40_001):
            peer.send(requests[begin : begin + 40_001])
            await asyncio.sleep(0.001)
        assert await peer.bodies(4000) == [b"a"] * 4000


async def test_answers_do_not_pile_up_for_a_client_that_does_not_read(lab: Lab) -> None:
    many = post(b"x" * 1000) * 100
    async with dial(lab.port) as peer:
        transport = peer.writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]
        (protocol,) = lab.protocols
        still, seen = 0, 0
        while still < 100:  # nothing has come for so many turns: the server waits
            if transport.get_write_buffer_size() < len(many):
                peer.send(many)
            await asyncio.sleep(0.002)
            still = 0 if len(lab.came) > seen else still + 1
            seen = len(lab.came)
            # One read may bring many requests, and their answers are what may wait.
            assert protocol.transport.get_write_buffer_size() < 1 << 20
        assert seen > 100
        transport.abort()
