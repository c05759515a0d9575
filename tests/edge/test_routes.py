"""A request is answered the same, whether it goes past ASGI or through FastAPI."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.edge.wire import AUTHORIZED, open_socket, read_answer, read_head, request_bytes
from tests.harness.process import Herald, mint


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


GOOD = {"to": "topic:routes", "type": "t", "data": {"a": 1}}
ND = {"content-type": "application/x-ndjson"}
REQUESTS: dict[str, tuple[str, str, dict[str, str], bytes]] = {
    "good": ("POST", "/v1/events", {}, _json(GOOD)),
    "good with a query": ("POST", "/v1/events?a=b", {}, _json(GOOD)),
    "id": ("POST", "/v1/events", {"idempotency-key": '"{}"'}, _json(GOOD)),
    "ids that differ": ("POST", "/v1/events", {"idempotency-key": "a"}, _json({**GOOD, "id": "b"})),
    "no credential": ("POST", "/v1/events", {"authorization": ""}, _json(GOOD)),
    "user token": ("POST", "/v1/events", {"authorization": f"Bearer {mint()}"}, _json(GOOD)),
    "other content type": ("POST", "/v1/events", {"content-type": "text/plain"}, _json(GOOD)),
    "no content type": ("POST", "/v1/events", {"content-type": ""}, _json(GOOD)),
    "not JSON": ("POST", "/v1/events", {}, b"{"),
    "not UTF-8": ("POST", "/v1/events", {}, b"\xff"),
    "no channel": ("POST", "/v1/events", {}, _json({**GOOD, "to": "nobody"})),
    "empty": ("POST", "/v1/events", {}, b""),
    "too large": ("POST", "/v1/events", {}, _json({**GOOD, "data": "x" * 65536})),
    "batch": ("POST", "/v1/events/batch", {}, _json({"events": [GOOD, {}, GOOD]})),
    "batch, not JSON": ("POST", "/v1/events/batch", {}, b"[]"),
    "batch of lines": ("POST", "/v1/events/batch", ND, _json(GOOD) + b"\n{}\n" + _json(GOOD)),
    "batch, other type": ("POST", "/v1/events/batch", {"content-type": "a/b"}, b""),
    "batch, no credential": ("POST", "/v1/events/batch", {"authorization": "Bearer x"}, b""),
    "batch, too large": ("POST", "/v1/events/batch", ND, b" " * 2_000_001),
    "batch, too many": ("POST", "/v1/events/batch", {}, _json({"events": [5] * 10_001})),
    "other method": ("GET", "/v1/events", {}, b""),
    "other method, batch": ("PUT", "/v1/events/batch", {}, b""),
    "final slash": ("POST", "/v1/events/", {}, _json(GOOD)),
    "two slashes": ("POST", "//v1/events", {}, _json(GOOD)),
    "unknown": ("POST", "/v1/event", {}, _json(GOOD)),
    "live": ("GET", "/healthz/live", {}, b""),
    "WebSocket without one": ("GET", "/v1/ws", {}, b""),
}
_CHANGING = re.compile(r"[0-9]{10,}-[0-9]+|[0-9a-f]{16}-[0-9a-f]+")


def _in_one_piece(port: int, head: bytes, body: bytes) -> tuple[int, dict[str, str], bytes]:
    with open_socket(port) as sock:
        sock.sendall(head + body)
        return read_answer(sock)


def _as_expected(port: int, head: bytes, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """The body is sent once the server asks for it: such a request goes through ASGI."""
    with open_socket(port) as sock:
        sock.sendall(head[:-2] + b"expect: 100-continue\r\n\r\n")
        status, headers, rest = read_head(sock)
        if status == 100:
            assert not rest
            sock.sendall(body)
            return read_answer(sock)
        while len(rest) < int(headers["content-length"]):
            rest += sock.recv(65536)
        return status, headers, rest


@pytest.mark.parametrize("name", REQUESTS)
def test_both_ways_answer_the_same(
    start: Callable[..., Herald], herald: Herald, new_name: Callable[[], str], name: str
) -> None:
    if name == "batch, too large":
        herald = start(max_batch_bytes="2000000")
    method, path, headers, body = REQUESTS[name]
    headers = {**AUTHORIZED, **headers, "content-length": str(len(body))}
    answers = []
    for exchange in (_in_one_piece, _as_expected):
        sent = {k: v.replace("{}", new_name()) for k, v in headers.items() if v}
        head = request_bytes(method, path, sent)
        status, received, text = exchange(herald.port, head, body)
        assert status != 500
        for changing in ("content-length", "date"):
            received.pop(changing, None)
        answers.append((status, received, _CHANGING.sub("…", text.decode())))
    if name == "id":
        answers = [
            (status, head, re.sub(r'"id":"[^"]*"', "", text)) for status, head, text in answers
        ]
    direct, ordinary = answers
    assert direct == ordinary
