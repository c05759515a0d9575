"""A request is answered the same, whether it came in one piece and went past ASGI or not."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.broker.embedded import EmbeddedEngine
from tests.edge.wire import AUTHORIZED, open_socket, read_answer, read_head, request_bytes
from tests.harness.process import Herald, mint, running

EVENT_BYTES = 4000
BATCH_BYTES = 24_000
"""Small limits, so that what is too large still comes in one piece."""

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def small(engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herald]:
    with running(
        engine.url,
        tmp_path_factory.mktemp("routes"),
        max_event_bytes=str(EVENT_BYTES),
        max_batch_bytes=str(BATCH_BYTES),
    ) as herald:
        yield herald


def _json(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


GOOD = {"to": "topic:routes", "type": "t", "data": {"a": 1}}
ND = {"content-type": "application/x-ndjson"}
REQUESTS: dict[str, tuple[str, str, dict[str, str], bytes]] = {
    "good": ("POST", "/v1/events", {}, _json(GOOD)),
    "good with a query": ("POST", "/v1/events?a=b", {}, _json(GOOD)),
    "good to two": ("POST", "/v1/events", {}, _json({**GOOD, "to": ["topic:r1", "topic:r2"]})),
    "id": ("POST", "/v1/events", {"idempotency-key": '"{}"'}, _json(GOOD)),
    "ids that differ": ("POST", "/v1/events", {"idempotency-key": "a"}, _json({**GOOD, "id": "b"})),
    "id not quoted well": ("POST", "/v1/events", {"idempotency-key": '"a'}, _json(GOOD)),
    "no credential": ("POST", "/v1/events", {"authorization": ""}, _json(GOOD)),
    "user token": ("POST", "/v1/events", {"authorization": f"Bearer {mint()}"}, _json(GOOD)),
    "service token": (
        "POST",
        "/v1/events",
        {"authorization": f"Bearer {mint(scope='publish')}"},
        _json(GOOD),
    ),
    "other content type": ("POST", "/v1/events", {"content-type": "text/plain"}, _json(GOOD)),
    "no content type": ("POST", "/v1/events", {"content-type": ""}, _json(GOOD)),
    "not JSON": ("POST", "/v1/events", {}, b"{}{"),
    "not UTF-8": ("POST", "/v1/events", {}, b'"\xff"'),
    "no channel": ("POST", "/v1/events", {}, _json({**GOOD, "to": "nobody"})),
    "empty": ("POST", "/v1/events", {}, b""),
    "too large": ("POST", "/v1/events", {}, _json({**GOOD, "data": "x" * EVENT_BYTES})),
    "batch": ("POST", "/v1/events/batch", {}, _json({"events": [GOOD, {}, GOOD]})),
    "batch, not JSON": ("POST", "/v1/events/batch", {}, b"[]"),
    "batch of lines": ("POST", "/v1/events/batch", ND, _json(GOOD) + b"\n{}\n" + _json(GOOD)),
    "batch, an event too large": (
        "POST",
        "/v1/events/batch",
        {},
        _json({"events": [GOOD, {**GOOD, "data": "x" * EVENT_BYTES}]}),
    ),
    "batch, other type": ("POST", "/v1/events/batch", {"content-type": "a/b"}, b""),
    "batch, no credential": ("POST", "/v1/events/batch", {"authorization": "Bearer x"}, b""),
    "batch, too large": ("POST", "/v1/events/batch", ND, b" " * (BATCH_BYTES + 1)),
    "batch, too many": ("POST", "/v1/events/batch", {}, _json({"events": [5] * 10_001})),
    "other method": ("GET", "/v1/events", {}, b""),
    "other method, batch": ("PUT", "/v1/events/batch", {}, b""),
    "final slash": ("POST", "/v1/events/", {}, _json(GOOD)),
    "two slashes": ("POST", "//v1/events", {}, _json(GOOD)),
    "escaped": ("POST", "/v1/%65vents", {}, _json(GOOD)),
    "whole URL": ("POST", "http://other/v1/events", {}, _json(GOOD)),
    "whole URL with a query": ("POST", "http://other/v1/events?a=b", {}, _json(GOOD)),
    "whole URL without a path": ("GET", "http://other", {}, b""),
    "URL that is none": ("GET", "http://other:99999/healthz/live", {}, b""),
    "unknown": ("POST", "/v1/event", {}, _json(GOOD)),
    "live": ("GET", "/healthz/live", {}, b""),
    "openapi": ("GET", "/openapi.json", {}, b""),
    "WebSocket without one": ("GET", "/v1/ws", {}, b""),
}
STATUSES = {"whole URL": 202, "whole URL without a path": 404, "URL that is none": 400}
_CHANGING = re.compile(rb"[0-9]{10,}-[0-9]+|[0-9a-f]{16}-[0-9a-f]+")


def _in_one_piece(sock: socket.socket, head: Callable[..., bytes], body: bytes) -> Answer:
    sock.sendall(head() + body)
    return read_answer(sock)


def _in_two(sock: socket.socket, head: Callable[..., bytes], body: bytes, first: int) -> Answer:
    """`first` bytes with the head; the others when the server has said that it reads the body."""
    sock.sendall(head(expect="100-continue") + body[:first])
    answer = read_head(sock)
    if answer[0] == 100:
        sock.sendall(body[first:])
        return read_answer(sock, answer[2])
    return read_answer(sock, head=answer)  # refused before its body was read


WAYS: dict[str, Callable[..., Answer]] = {
    "head, then body": lambda sock, head, body: _in_two(sock, head, body, 0),
    "body in halves": lambda sock, head, body: _in_two(sock, head, body, len(body) // 2),
}


def _same(answer: Answer) -> Answer:
    status, headers, body = answer
    kept = {k: v for k, v in headers.items() if k not in ("content-length", "date")}
    return status, kept, _CHANGING.sub(b"...", body)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", REQUESTS)
def test_both_ways_answer_the_same(
    small: Herald, new_name: Callable[[], str], name: str, way: str
) -> None:
    method, path, headers, body = REQUESTS[name]

    def ask(send: Callable[..., Answer]) -> Answer:
        sent = {k: v.replace("{}", new_name()) for k, v in {**AUTHORIZED, **headers}.items() if v}
        if body or method != "GET":
            sent["content-length"] = str(len(body))
        with open_socket(small.port) as sock:
            status, answered, text = send(
                sock, lambda **more: request_bytes(method, path, {**sent, **more}), body
            )
        if name == "id":
            text = re.sub(rb'"id":"[^"]*"', b"", text)
        return _same((status, answered, text))

    direct = ask(_in_one_piece)
    assert direct[0] < 500
    assert direct[0] == STATUSES.get(name, direct[0])
    assert direct == ask(WAYS[way])
