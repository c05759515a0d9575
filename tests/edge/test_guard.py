"""What the HTTP side does with requests that are too large, too slow or no HTTP at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import get_args

import pytest

from service.broker.embedded import EmbeddedEngine
from service.edge.policy import HttpPolicy
from service.ports import CutOff
from tests.edge.wire import (
    AUTHORIZED,
    check_problem,
    exchange,
    open_socket,
    read_answer,
    request_bytes,
)
from tests.harness.process import PATIENCE, Herald, eventually, running

HEAD_BYTES = 8192
"""The least that the setting allows."""
HEAD_SECONDS = 1.0
SOON = 0.5


@pytest.fixture(scope="module")
def strict(engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herald]:
    """A Herald whose limits are soon reached."""
    with running(
        engine.url,
        tmp_path_factory.mktemp("strict"),
        max_head_bytes="8KiB",
        body_timeout=str(SOON),
        unread_timeout=str(SOON),
    ) as herald:
        yield herald


def cut_offs(herald: Herald, reason: CutOff) -> float:
    return herald.metrics()[f'herald_http_cut_off_total{{reason="{reason}"}}']


def test_every_reason_of_a_cut_off_is_there_from_the_start(herald: Herald) -> None:
    for reason in get_args(CutOff):
        assert cut_offs(herald, reason) >= 0


def test_plain_get_of_the_websocket_is_426(herald: Herald) -> None:
    status, headers, body = exchange(herald.port, request_bytes("GET", "/v1/ws", {}))
    assert status == 426
    assert headers["upgrade"] == "websocket"
    check_problem(json.loads(body), 426)


@pytest.mark.parametrize("shape", ["one long field", "many fields", "a long path"])
def test_head_that_does_not_end_is_431_and_the_connection_closed(
    strict: Herald, shape: str
) -> None:
    before = cut_offs(strict, "head_large")
    begin, piece = {
        "one long field": (b"GET /healthz/live HTTP/1.1\r\nhost: a\r\nx: ", b"x" * 1000),
        "many fields": (b"GET /healthz/live HTTP/1.1\r\nhost: a\r\n", b"x: y\r\n" * 100),
        "a long path": (b"GET /", b"x" * 1000),
    }[shape]
    with open_socket(strict.port) as sock:
        sock.sendall(begin)
        sent = 0
        while sent <= HEAD_BYTES:
            sock.sendall(piece)
            sent += len(piece)
        status, headers, _ = read_answer(sock)
        assert status == 431
        assert headers["connection"] == "close"
        assert _ended(sock)
    assert cut_offs(strict, "head_large") == before + 1


def test_head_below_the_limit_is_fine_and_the_next_begins_anew(strict: Herald) -> None:
    large = {"x-large": "x" * (HEAD_BYTES - 4096)}
    with open_socket(strict.port) as sock:
        for _ in range(3):
            sock.sendall(request_bytes("GET", "/healthz/live", large))
            assert read_answer(sock)[0] == 200


def _ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


async def _seconds_until_closed(
    port: int, pieces: list[bytes], pause: float, answers: int = 0
) -> float:
    """How long a connection stays open that sends these, and then one byte now and then."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = loop.time()

    async def drip() -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    dripping = asyncio.ensure_future(drip())
    async with asyncio.timeout(HEAD_SECONDS + PATIENCE):
        with contextlib.suppress(ConnectionResetError):
            assert (await reader.read()).count(b"HTTP/1.1") == answers
    took = loop.time() - began
    dripping.cancel()
    await asyncio.gather(dripping, return_exceptions=True)
    writer.close()
    return took


async def test_slow_head_is_closed_and_an_idle_connection_between_requests_is_not(
    start: Callable[..., Herald],
) -> None:
    herald = start(head_timeout=f"{HEAD_SECONDS}")
    drip = [b"GET / HTTP/1.1\r\nx: ", *[b"x"] * 1000]
    whole = request_bytes("GET", "/healthz/live", {})
    reader, writer = await asyncio.open_connection("127.0.0.1", herald.port)
    writer.write(whole)
    await reader.readuntil(b'{"status":"live"}')
    # A body may take longer than a head: it has a limit of its own.
    body = b'{"to":"all","type":"slow"}'
    slow_reader, slow_writer = await asyncio.open_connection("127.0.0.1", herald.port)
    headers = {**AUTHORIZED, "content-length": str(len(body))}
    slow_writer.write(request_bytes("POST", "/v1/events", headers, body[:5]))
    times = await asyncio.gather(
        _seconds_until_closed(herald.port, [], 0),
        _seconds_until_closed(herald.port, drip, 0.3),
        # The second request of a connection is no exception.
        _seconds_until_closed(herald.port, [whole, *drip], 0.3, answers=1),
    )
    assert all(HEAD_SECONDS - 0.1 <= took < HttpPolicy().head_timeout for took in times), times
    assert cut_offs(herald, "head_slow") == 3
    writer.write(whole)
    await reader.readuntil(b'{"status":"live"}')
    slow_writer.write(body[5:])
    assert b" 202 " in await slow_reader.readline()
    for open_writer in (writer, slow_writer):
        open_writer.close()
        await open_writer.wait_closed()


@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/batch"])
def test_slow_body_is_408_and_the_connection_closed(strict: Herald, path: str) -> None:
    before = cut_offs(strict, "body_slow")
    with open_socket(strict.port) as sock:
        sock.settimeout(20)  # the default would take longer
        headers = {**AUTHORIZED, "content-length": "100"}
        sock.sendall(request_bytes("POST", path, headers, b'{"to":'))
        status, headers, body = read_answer(sock)
        check_problem(json.loads(body), 408)
        assert (status, headers["connection"]) == (408, "close")
        assert _ended(sock)
    assert cut_offs(strict, "body_slow") == before + 1


async def test_client_that_reads_no_answers_is_cut_off(strict: Herald) -> None:
    before = cut_offs(strict, "unread")
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", strict.port))
        # More than the kernel takes for one socket.
        await loop.sock_sendall(sock, request_bytes("GET", "/openapi.json", {}) * 1000)
        await eventually(lambda: cut_offs(strict, "unread") == before + 1, "the end")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n"
        b"content-length: 5\r\n\r\nzz\r\n",
    ],
)
def test_what_is_not_http_does_no_harm(herald: Herald, data: bytes) -> None:
    with open_socket(herald.port) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while not _is_end(chunk := _receive(sock)):
            answer += chunk
    assert not answer or answer.split(b" ")[1][:1] == b"4", answer
    assert herald.is_ready()


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except ConnectionResetError:
        return b""


def _is_end(chunk: bytes) -> bool:
    return chunk == b""
