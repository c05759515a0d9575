"""POSTs that go past ASGI: their order, their ends, and when they take the ordinary way instead."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.broker.embedded import EmbeddedEngine
from service.edge.answers import JSON, Answer
from service.edge.asgi import Headers, Receive, Scope, Send
from service.edge.doors import Doors, PostEndpoint, Respond, Upgrade
from service.edge.http import HeraldHttp
from service.edge.policy import HttpPolicy
from service.telemetry.metrics import Metrics
from tests.edge.wire import (
    AUTHORIZED,
    Head,
    check_problem,
    json_of,
    open_socket,
    read_answer,
    request_bytes,
)
from tests.harness.process import PATIENCE, Herald, eventually

LIVE = request_bytes("GET", "/healthz/live", {})


def event(channel: str, data: Any = None, **fields: Any) -> bytes:
    return json.dumps({"to": channel, "type": "t", "data": data, **fields}).encode()


def post(body: bytes, path: str = "/v1/events", **changes: str) -> bytes:
    """A whole POST; the names of `changes` with `_` for `-`."""
    headers = {**AUTHORIZED, "content-length": str(len(body))}
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    return request_bytes("POST", path, headers, body)


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


class Answers:
    """The answers of one connection, one by one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""

    def next(self) -> Head:
        status, headers, body = read_answer(self._sock, self._rest)
        length = int(headers["content-length"])
        self._rest = body[length:]
        return status, headers, body[:length]

    def ended(self) -> bool:
        return not self._rest and self._sock.recv(65536) == b""


def stored(herald: Herald, channel: str, member: str = "data") -> list[Any]:
    page = herald.get(f"/v1/channels/{channel}/events", limit="1000").json()
    return [entry[member] for entry in page["events"]]


def sockets_of(herald: Herald) -> int:
    """Open files of the process; a connection is one."""
    return len(list(Path(f"/proc/{herald.process.pid}/fd").iterdir()))


def errors_of(herald: Herald) -> list[str]:
    lines = herald.log().splitlines()
    return [line for line in lines if json.loads(line)["level"] in ("error", "critical")]


# Order


@pytest.mark.parametrize(
    "kinds", ["ppp", "pgp", "gpgp", "pbp", "bpb", "rpr", "prp", "pgbrpgbrp", "p" * 40]
)
def test_requests_in_one_write_are_answered_and_stored_in_order(
    herald: Herald, user: str, kinds: str
) -> None:
    channel = f"user:{user}"

    def request(kind: str, number: int) -> bytes:
        match kind:
            case "p":
                return post(event(channel, number))
            case "b":
                lines = event(channel, number) + b"\n" + event(channel, number)
                return post(lines, "/v1/events/batch", content_type="application/x-ndjson")
            case "r":
                return post(event(channel, number), authorization="Bearer nobody")
        return LIVE

    with open_socket(herald.port) as sock:
        answers = Answers(sock)
        sock.sendall(b"".join(request(kind, number) for number, kind in enumerate(kinds)))
        positions: list[str] = []
        for kind in kinds:
            status, _, body = answers.next()
            assert status == {"p": 202, "b": 200, "r": 401, "g": 200}[kind]
            document = json_of(body)
            if kind == "p":
                positions.append(document["positions"][channel])
            elif kind == "b":
                positions += [result["positions"][channel] for result in document["results"]]
            elif kind == "g":
                assert document == {"status": "live"}
        # The connection goes on.
        sock.sendall(LIVE)
        assert answers.next()[0] == 200
    expected = [n for n, kind in enumerate(kinds) for _ in range({"p": 1, "b": 2}.get(kind, 0))]
    assert stored(herald, channel) == expected
    assert stored(herald, channel, "id") == positions


@pytest.mark.parametrize("authorization", [AUTHORIZED["authorization"], "Bearer nobody"])
@pytest.mark.parametrize("together", [True, False])
def test_request_before_what_is_no_http_is_answered_first(
    herald: Herald, user: str, together: bool, authorization: str
) -> None:
    channel = f"user:{user}"
    good = authorization == AUTHORIZED["authorization"]
    request = post(event(channel, 1), authorization=authorization)
    garbage = b"\x00no HTTP\r\n\r\n"
    with open_socket(herald.port) as sock:
        answers = Answers(sock)
        sock.sendall(request + (garbage if together else b""))
        status, headers, _ = answers.next()
        assert status == (202 if good else 401)
        assert "connection" not in headers
        if not together:
            sock.sendall(garbage)
        status, headers, body = answers.next()
        check_problem(json_of(body), 400)
        assert (status, headers["connection"]) == (400, "close")
        assert answers.ended()
    assert stored(herald, channel) == ([1] if good else [])


# Bodies that do not come in one piece


def pieces_of(channel: str) -> dict[str, list[bytes]]:
    body = event(channel, 1)
    whole = post(body)
    head = whole[: -len(body)]
    in_chunks = request_bytes("POST", "/v1/events", {**AUTHORIZED, "transfer-encoding": "chunked"})
    return {
        "one piece": [whole],
        "head, then body": [head, body],
        "body in two": [whole[:-5], whole[-5:]],
        "byte by byte": [whole[n : n + 1] for n in range(len(whole))],
        "chunked in one piece": [in_chunks + chunked(body)],
        "many chunks in one piece": [in_chunks + chunked(*(bytes([byte]) for byte in body))],
        "chunk by chunk": [in_chunks, b"%x\r\n" % len(body), body, b"\r\n", b"0\r\n", b"\r\n"],
        "all but the last line": [in_chunks + chunked(body)[:-2], b"\r\n"],
        "with an empty line before": [b"\r\n" + whole],
        "its end with the next request": [whole[:-1], whole[-1:] + LIVE],
    }


@pytest.mark.parametrize("shape", pieces_of(""))
def test_request_is_answered_however_it_comes(herald: Herald, user: str, shape: str) -> None:
    channel = f"user:{user}"
    pieces = pieces_of(channel)[shape]
    with open_socket(herald.port) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = Answers(sock)
        for piece in pieces:
            sock.sendall(piece)
            if len(pieces) < 10:
                # What another connection is answered later, this one has been read before.
                assert herald.http.get("/healthz/live").status_code == 200
        status, headers, body = answers.next()
        assert (status, list(json_of(body)["positions"])) == (202, [channel])
        assert "connection" not in headers
        if pieces[-1].endswith(LIVE):
            assert json_of(answers.next()[2]) == {"status": "live"}
        sock.sendall(post(event(channel, 2)))
        assert answers.next()[0] == 202
    assert stored(herald, channel) == [1, 2]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/batch"])
async def test_request_that_breaks_off_stores_nothing_and_leaves_nothing(
    start: Callable[..., Herald], user: str, path: str, reset: bool
) -> None:
    herald = start()
    channel = f"user:{user}"
    herald.publish("topic:first")
    before = sockets_of(herald)
    body = event(channel, 1) if path == "/v1/events" else b'{"events":[%b]}' % event(channel, 1)
    whole = post(body, path)
    for cut in (1, 5, len(body) - 1, len(body)):
        with open_socket(herald.port) as sock:
            sock.sendall(whole[:-cut])
            assert herald.http.get("/healthz/live").status_code == 200
            # Others of the process come and go.
            await eventually(lambda: sockets_of(herald) == before + 1, "it is held")
            if reset:
                linger = (1).to_bytes(4, "little") + bytes(4)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await eventually(lambda: sockets_of(herald) == before, "the connection was let go")
    assert stored(herald, channel) == []
    assert errors_of(herald) == []


# The end of a connection


@pytest.mark.parametrize("authorization", [AUTHORIZED["authorization"], "Bearer nobody"])
@pytest.mark.parametrize(
    ("version", "connection"),
    [("1.1", "close"), ("1.1", "x, Close"), ("1.0", None), ("1.0", "keep-alive")],
)
def test_client_that_asks_for_the_end_gets_it_after_the_answer(
    herald: Herald, user: str, version: str, connection: str | None, authorization: str
) -> None:
    channel = f"user:{user}"
    good = authorization == AUTHORIZED["authorization"]
    fields = {} if connection is None else {"connection": connection}
    request = post(event(channel, 1), authorization=authorization, **fields)
    with open_socket(herald.port) as sock:
        answers = Answers(sock)
        # A request after the last is not served.
        sock.sendall(request.replace(b"HTTP/1.1", f"HTTP/{version}".encode()) + post(b"{}"))
        status, headers, _ = answers.next()
        assert (status, headers["connection"]) == (202 if good else 401, "close")
        with contextlib.suppress(ConnectionResetError):
            assert answers.ended()
    assert stored(herald, channel) == ([1] if good else [])


@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/batch"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_405(herald: Herald, method: str, path: str) -> None:
    with open_socket(herald.port) as sock:
        sock.sendall(request_bytes(method, path, AUTHORIZED) + LIVE)
        data = b""
        while b'{"status":"live"}' not in data:
            chunk = sock.recv(65536)
            assert chunk, data
            data += chunk
    first, _, rest = data.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 405 ")
    assert b"content-type: application/problem+json" in first
    assert b"allow: POST" in first
    body = rest[: rest.index(b"HTTP/1.1 200")]
    if method == "HEAD":
        assert body == b""
    else:
        check_problem(json_of(body), 405)


def test_large_body_does_not_count_as_a_head_and_the_next_head_does(herald: Herald) -> None:
    lines = b"\n" * 300_000
    batch = post(lines, "/v1/events/batch", content_type="application/x-ndjson")

    def head(size: int) -> bytes:
        return request_bytes("GET", "/healthz/live", {"x-large": "x" * size})

    with open_socket(herald.port) as sock:
        answers = Answers(sock)
        for _ in range(2):
            sock.sendall(batch)
            assert answers.next()[0] == 200
            sock.sendall(head(HttpPolicy().max_head_bytes - 1000))
            assert answers.next()[0] == 200
        sock.sendall(post(b"{}"))
        assert answers.next()[0] == 400
        sock.sendall(head(HttpPolicy().max_head_bytes))
        status, headers, _ = answers.next()
        assert (status, headers["connection"]) == (431, "close")


async def test_clients_that_leave_and_a_process_that_stops_leave_no_request_undone(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    herald = start(own_engine.url, engine_timeout="60", drain_seconds="0")
    channel = f"user:{user}"
    herald.publish(channel, 0)
    before = sockets_of(herald)
    os.kill(own_engine.pid, signal.SIGSTOP)  # what is published now stays in flight
    try:
        with open_socket(herald.port) as leaving:
            leaving.sendall(post(event(channel, 1)))
            assert herald.http.get("/healthz/live").status_code == 200
        await eventually(lambda: sockets_of(herald) == before, "the connection was let go")
        with open_socket(herald.port) as sock, open_socket(herald.port) as idle:
            sock.sendall(post(event(channel, 2)))
            idle.sendall(LIVE)
            assert Answers(idle).next()[0] == 200
            herald.signal(signal.SIGTERM)
            await eventually(lambda: '"stopping"' in herald.log(), "the drain begins")
            # The idle one is closed while the busy one is waited for.
            assert await asyncio.to_thread(idle.recv, 1) == b""
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)
            sock.settimeout(PATIENCE)
            os.kill(own_engine.pid, signal.SIGCONT)
            answers = Answers(sock)
            status, headers, body = await asyncio.to_thread(answers.next)
            assert (status, headers["connection"]) == (202, "close")
            assert answers.ended()
    finally:
        os.kill(own_engine.pid, signal.SIGCONT)
    assert await asyncio.to_thread(herald.process.wait, PATIENCE) == 0
    assert errors_of(herald) == []
    herald.restart()
    assert stored(herald, channel) == [0, 1, 2]
    assert stored(herald, channel, "id")[-1] == json_of(body)["positions"][channel]


# In this process, for times and endpoints of the tests' own

OK = Answer(200, JSON, b"{}")
NO_BODY = (b"content-length", b"0")


async def _ordinary(scope: Scope, receive: Receive, send: Send) -> None:
    """Says that a request came through ASGI."""
    await send({"type": "http.response.start", "status": 203, "headers": [NO_BODY]})
    await send({"type": "http.response.body", "body": b""})


def _no_websocket(upgrade: Upgrade) -> None:
    raise AssertionError("no WebSocket is opened here")


@contextlib.asynccontextmanager
async def serving(
    endpoint: PostEndpoint, keep_alive: int = 75, policy: HttpPolicy = HttpPolicy()
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server with one endpoint, at /post."""
    config = uvicorn.Config(
        _ordinary, ws="none", lifespan="off", log_config=None, timeout_keep_alive=keep_alive
    )
    config.load()
    state = ServerState()
    doors = Doors(_no_websocket, {b"/post": endpoint})

    def protocol() -> HeraldHttp:
        uvicorns = {"config": config, "server_state": state, "app_state": {}}
        return HeraldHttp(doors, policy, Metrics(), **uvicorns)

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        async with asyncio.timeout(PATIENCE):
            yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await eventually(lambda: not state.connections, "no connection is left")


def at_once(headers: Headers, body: bytes, respond: Respond) -> None:
    respond(OK)


async def read(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """First line and body of an answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
    return head.partition(b"\r\n")[0], await reader.readexactly(int(length or b"0"))


async def test_endpoint_gets_headers_and_the_whole_body() -> None:
    got: list[tuple[Headers, bytes]] = []

    def endpoint(headers: Headers, body: bytes, respond: Respond) -> None:
        got.append((headers, body))
        respond(OK)

    async with serving(endpoint) as (reader, writer):
        for body in (b"body", b"", b"x" * 10_000):
            writer.write(post(body, "/post", X_A="B"))
            assert await read(reader) == (b"HTTP/1.1 200 OK", b"{}")
            headers, whole = got.pop()
            assert whole == body
            assert (b"x-a", b"B") in headers  # names in lower case
    assert got == []


ASGIS = b"HTTP/1.1 203 Non-Authoritative Information"


@pytest.mark.parametrize(
    "request_",
    [
        post(b"body", "/post?a=b"),
        post(b"body", "/post/"),
        post(b"body", "/%70ost"),
        post(b"body", "http://localhost/post"),
        request_bytes("PUT", "/post", {"content-length": "0"}),
        post(b"", "/post", expect="100-continue"),
        post(b"", "/post", expect="100-Continue"),
        post(b"", "/post", content_length="4"),
    ],
)
async def test_what_is_no_whole_post_of_the_path_is_asgis(request_: bytes) -> None:
    def endpoint(headers: Headers, body: bytes, respond: Respond) -> None:
        raise AssertionError("this is not for the endpoint")

    async with serving(endpoint) as (reader, writer):
        writer.write(request_)
        assert (await read(reader))[0] == ASGIS


async def test_request_after_one_in_flight_is_asgis_and_begins_after_its_answer() -> None:
    in_flight: asyncio.Future[Respond] = asyncio.get_running_loop().create_future()

    def endpoint(headers: Headers, body: bytes, respond: Respond) -> None:
        in_flight.set_result(respond)

    async with serving(endpoint) as (reader, writer):
        writer.write(post(b"", "/post") * 2)
        respond = await in_flight
        reading = asyncio.ensure_future(read(reader))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not reading.done()
        respond(OK)
        respond(OK)  # answered once, whatever the endpoint does
        assert (await reading)[0] == b"HTTP/1.1 200 OK"
        assert (await read(reader))[0] == ASGIS


async def test_answer_for_a_client_that_has_gone_is_nobodys(
    caplog: pytest.LogCaptureFixture,
) -> None:
    in_flight: asyncio.Future[Respond] = asyncio.get_running_loop().create_future()

    def endpoint(headers: Headers, body: bytes, respond: Respond) -> None:
        in_flight.set_result(respond)

    async with serving(endpoint) as (_, writer):
        writer.write(post(b"", "/post"))
        respond = await in_flight
    respond(OK)  # `serving` has waited for the connection's end
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_endpoint_that_raises_is_500_and_logged_once_without_the_payload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = 0

    def endpoint(headers: Headers, body: bytes, respond: Respond) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("broken")
        respond(OK)
        if calls == 2:
            raise RuntimeError("broken after the answer")

    async with serving(endpoint) as (reader, writer):
        request = post(b"the payload", "/post")
        writer.write(request)
        line, body = await read(reader)
        assert line == b"HTTP/1.1 500 Internal Server Error"
        assert "broken" not in check_problem(json_of(body), 500)["detail"]
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert [(record.name, record.getMessage()) for record in errors] == [
            ("herald.http", "a request was not dealt with")
        ]
        for _ in range(2):  # answered once each, and the connection goes on
            writer.write(request)
            assert (await read(reader))[0] == b"HTTP/1.1 200 OK"
    assert calls == 3
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 2
    assert "payload" not in caplog.text


async def test_idle_connection_is_closed_and_a_busy_one_never() -> None:
    loop = asyncio.get_running_loop()
    keep_alive = 1
    answered = 0.0

    def endpoint(headers: Headers, body: bytes, respond: Respond) -> None:
        def answer() -> None:
            nonlocal answered
            answered = loop.time()
            respond(OK)

        loop.call_later(keep_alive * 2.2 if body == b"slow" else 0, answer)

    async with serving(endpoint, keep_alive) as (reader, writer):
        # The timer runs since the first answer; it finds the connection busy with the second.
        writer.write(post(b"", "/post"))
        await read(reader)
        writer.write(post(b"slow", "/post"))
        assert (await read(reader))[0] == b"HTTP/1.1 200 OK"
        assert await reader.read() == b""
        assert loop.time() - answered >= keep_alive - 0.05


async def test_head_of_a_second_request_must_come_in_time_and_idleness_is_no_head() -> None:
    loop = asyncio.get_running_loop()
    async with serving(at_once, policy=HttpPolicy(head_timeout=0.4)) as (reader, writer):
        writer.write(post(b"", "/post"))
        await read(reader)
        await asyncio.sleep(0.8)
        writer.write(post(b"", "/post"))
        await read(reader)
        began = loop.time()

        async def drip() -> None:
            for byte in LIVE[:-4] * 1000:
                writer.write(bytes([byte]) if byte not in b"\r\n" else b"x")
                await asyncio.sleep(0.05)

        dripping = asyncio.ensure_future(drip())
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert loop.time() - began >= 0.35
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


async def test_body_may_take_longer_than_a_head() -> None:
    async with serving(at_once, policy=HttpPolicy(head_timeout=0.2)) as (reader, writer):
        request = post(b"slow", "/post")
        writer.write(request[:-2])
        await asyncio.sleep(0.6)
        writer.write(request[-2:])
        assert (await read(reader))[0] == ASGIS
