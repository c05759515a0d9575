"""A handshake that the WebSocket library cannot read is answered, and its socket is freed."""

from __future__ import annotations

import json

import pytest

from tests.edge.wire import check_problem, open_socket, read_answer
from tests.harness.process import Herald, mint, websocket_request


@pytest.mark.parametrize(
    "fields",
    [
        b"Cookie: a=" + b"b" * 9000,
        b"\r\n".join(b"X-%d: b" % number for number in range(140)),
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
    ],
    ids=["a long line", "many lines", "a body", "a chunked body"],
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
