"""A handshake that cannot be understood is answered, and its socket is freed."""

from __future__ import annotations

import json

import pytest

from tests.edge.wire import check_problem, open_socket, read_answer, read_head
from tests.harness.process import Herald, mint, websocket_request


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
    ],
    ids=["a body", "a chunked body"],
)
def test_handshake_that_cannot_be_read_is_400_and_the_connection_closed(
    herald: Herald, fields: bytes
) -> None:
    request = websocket_request(mint()).replace(b"Host: x", b"Host: x\r\n" + fields)
    with open_socket(herald.port) as sock:
        sock.sendall(request)
        status, headers, body = read_answer(sock)
        assert status == 400
        assert headers["connection"] == "close"
        check_problem(json.loads(body), 400)
        assert sock.recv(1) == b""


@pytest.mark.parametrize(
    "fields",
    [
        b"Cookie: a=" + b"b" * 40_000,
        b"\r\n".join(b"X-%d: b" % number for number in range(1000)),
    ],
    ids=["a long line", "many lines"],
)
def test_long_and_many_header_lines_are_fine_within_the_limit_of_a_head(
    herald: Herald, fields: bytes
) -> None:
    request = websocket_request(mint()).replace(b"Host: x", b"Host: x\r\n" + fields)
    with open_socket(herald.port) as sock:
        sock.sendall(request)
        assert read_head(sock)[0] == 101


def test_token_of_twelve_kilobytes_fits_in_a_handshake(herald: Herald, user: str) -> None:
    token = mint(user, filling="x" * 9000)
    assert 12_000 < len(token) < 16_384
    with open_socket(herald.port) as sock:
        sock.sendall(websocket_request(token))
        assert read_head(sock)[0] == 101
