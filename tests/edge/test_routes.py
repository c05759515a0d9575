"""The fast way in front of FastAPI and FastAPI's own routes answer the same."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from service.app.node import Node
from service.broker.embedded import EmbeddedEngine
from service.edge.api import build_api, with_fast_publishing
from service.edge.asgi import App
from service.edge.history import History
from service.edge.publishing import Publishing, PublishLimits
from service.settings import load_settings
from service.telemetry.metrics import Metrics
from tests.edge.wire import AUTHORIZED
from tests.harness.process import PATIENCE, SECRET, eventually, mint

KEY = "an-api-key-for-tests"


async def _no_metrics() -> tuple[bytes, str]:
    return b"", "text/plain"


@pytest.fixture
async def apps(engine: EmbeddedEngine) -> AsyncIterator[tuple[App, App]]:
    """The same API twice: FastAPI alone, and with the fast way in front."""
    environment = {
        "HERALD_REDIS_URL": engine.url,
        "HERALD_JWT_SECRET": SECRET,
        "HERALD_API_KEYS": KEY,
    }
    node = Node(load_settings(environment))
    await node.start()
    await eventually(lambda: node.broker.trouble() is None, "the engine")
    # The node's own parts, put together both ways.
    from service.app.credentials import build_verifiers

    publishers = build_verifiers(load_settings(environment)).publishers
    publishing = Publishing(node.broker.log, publishers, PublishLimits(65536, 2_000_000), Metrics())
    api = build_api(
        publishing,
        History(node.broker.log, publishers),
        node.broker,
        lambda: False,
        _no_metrics,
    )
    yield api, with_fast_publishing(api, publishing)
    await node.close()


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


def _same(answer: httpx2.Response) -> tuple[int, dict[str, str], str]:
    headers = {k: v for k, v in answer.headers.items() if k != "content-length"}
    return answer.status_code, headers, _CHANGING.sub("…", answer.text)


@pytest.mark.parametrize("name", REQUESTS)
async def test_both_ways_answer_the_same(
    apps: tuple[App, App], new_name: Callable[[], str], name: str
) -> None:
    method, path, headers, body = REQUESTS[name]
    headers = {**AUTHORIZED, **headers}
    answers = []
    for app in apps:
        sent = {k: v.replace("{}", new_name()) for k, v in headers.items() if v}
        transport = httpx2.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://herald", timeout=PATIENCE
        ) as client:
            answer = await client.request(method, path, headers=sent, content=body)
        assert answer.status_code != 500
        answers.append(_same(answer))
    slow, fast = answers
    if name == "id":
        slow, fast = (
            (status, head, re.sub(r'"id":"[^"]*"', "", text)) for status, head, text in answers
        )
    assert fast == slow
