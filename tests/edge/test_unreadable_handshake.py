"""Which heads a handshake may have, and what is no handshake at all."""

from __future__ import annotations

import json

import pytest

from service.auth.tokens import MAX_TOKEN_BYTES
from tests.edge.wire import check_problem, open_socket, read_answer, read_head
from tests.harness.process import Herald, mint, websocket_request


def with_fields(fields: bytes, token: str | None = None) -> bytes:
    request = websocket_request(mint() if token is None else token)
    return request.replace(b"Host: x", b"Host: x\r\n" + fields)


def padded(size: int) -> str:
    """A good token of about this many bytes."""
    return mint(padding="x" * (size * 3 // 4 - 200))


@pytest.mark.parametrize(
    "fields",
    [
        b"Cookie: a=" + b"b" * 9000,
        b"Cookie: a=" + b"b" * 60_000,
        b"\r\n".join(b"X-%d: b" % number for number in range(140)),
        b"\r\n".join(b"X-%d: b" % number for number in range(5000)),
    ],
    ids=["a long line", "a very long line", "many lines", "very many lines"],
)
def test_handshake_within_the_limit_of_a_head_is_welcome(herald: Herald, fields: bytes) -> None:
    with open_socket(herald.port) as sock:
        sock.sendall(with_fields(fields))
        assert read_head(sock)[0] == 101


@pytest.mark.parametrize(
    "fields",
    [
        b"Cookie: a=" + b"b" * 70_000,
        b"\r\n".join(b"X-%d: b" % number for number in range(9000)),
    ],
    ids=["a line", "lines"],
)
def test_handshake_beyond_the_limit_of_a_head_is_431(herald: Herald, fields: bytes) -> None:
    with open_socket(herald.port) as sock:
        sock.sendall(with_fields(fields))
        assert read_head(sock)[0] == 431


@pytest.mark.parametrize(
    "field",
    [
        b"Authorization: Bearer %b",
        b"Cookie: herald_token=%b",
        b"Sec-WebSocket-Protocol: herald.v1, bearer.%b",
    ],
)
def test_token_of_12_kb_fits_in_every_field(herald: Herald, field: bytes) -> None:
    token = padded(12 * 1024).encode()
    assert 12_000 < len(token) < MAX_TOKEN_BYTES
    request = with_fields(field % token + b"\r\nOrigin: http://x")
    # Only there: the request's own token goes.
    request = b"GET /v1/ws HTTP/1.1" + request[request.index(b"\r\n") :]
    with open_socket(herald.port) as sock:
        sock.sendall(request)
        assert read_head(sock)[0] == 101


def test_token_of_12_kb_fits_in_the_url_and_one_over_the_limit_is_401(herald: Herald) -> None:
    with open_socket(herald.port) as sock:
        sock.sendall(websocket_request(padded(12 * 1024)))
        assert read_head(sock)[0] == 101
    with open_socket(herald.port) as sock:
        sock.sendall(websocket_request(padded(MAX_TOKEN_BYTES + 1024)))
        status, _, body = read_answer(sock)
        assert status == 401
        assert "too long" in check_problem(json.loads(body), 401)["detail"]


@pytest.mark.parametrize(
    "fields",
    [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
    ids=["a body", "a chunked body"],
)
def test_handshake_with_a_body_is_400_and_the_connection_closed(
    herald: Herald, fields: bytes
) -> None:
    with open_socket(herald.port) as sock:
        sock.sendall(with_fields(fields))
        status, headers, body = read_answer(sock)
        assert status == 400
        assert headers["connection"] == "close"
        check_problem(json.loads(body), 400)
        assert sock.recv(1) == b""
