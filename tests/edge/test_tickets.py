"""`POST /v1/tickets`: what is given out, to whom it is refused, and that each counts once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from service.broker.embedded import EmbeddedEngine
from tests.edge.test_streams import refused, ticket
from tests.edge.wire import AUTHORIZED, check_problem, exchange, problem, request_bytes
from tests.harness.process import KEY, PATIENCE, Herald, eventually, mint
from tests.harness.streams import dial, stream_request

LIMIT = 16 * 1024


async def opened(herald: Herald, one: str, query: str = "") -> dict[str, Any]:
    """The welcome of the stream that a ticket opens."""
    stream = await dial(herald, stream_request(f"ticket={one}{query}"))
    assert stream.status == 200, await stream.body()
    try:
        return await stream.expect("welcome")
    finally:
        await stream.close()


# What is given out


async def test_a_ticket_says_until_when_it_can_be_used(herald: Herald, user: str) -> None:
    before = time.time()
    answer = herald.post("/v1/tickets", {"user": user})
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    given = answer.json()
    assert set(given) == {"ticket", "expires"}
    assert before + 29 <= given["expires"] <= time.time() + 31
    assert len(given["ticket"]) >= 32
    assert given["ticket"].replace("-", "").replace("_", "").isalnum()  # fits in a URL as it is
    welcome = await opened(herald, given["ticket"])
    assert welcome["user"] == user
    assert list(welcome["channels"]) == [f"user:{user}", "all"]
    assert before + 3599 <= welcome["expires"] <= time.time() + 3601


async def test_tickets_are_never_the_same(herald: Herald, user: str) -> None:
    assert len({ticket(herald, user) for _ in range(50)}) == 50


async def test_topics_are_granted_as_a_tokens_are(herald: Herald, user: str) -> None:
    one = ticket(herald, user, topics=["orders", "news.*", "orders"])
    welcome = await opened(herald, one, "&topics=news.a,secret,orders")
    assert list(welcome["channels"])[2:] == ["topic:orders", "topic:news.a"]


async def test_a_ticket_for_more_topics_than_a_connection_may_have(
    herald: Herald, user: str
) -> None:
    names = [f"t{n}" for n in range(200)]
    one = ticket(herald, user, topics=names)
    stream = await dial(herald, stream_request(f"ticket={one}"))
    assert len((await stream.expect("welcome"))["channels"]) == 102
    for name in names[100:]:
        error = await stream.expect("error")
        assert error["channel"] == f"topic:{name}"
        assert error["code"] == "too_many_subscriptions"
    await stream.close()


GOOD: dict[str, dict[str, Any]] = {
    "everything": {"user": "alice", "topics": ["a", "b.*", "*"], "expires_in": 60},
    "no topics": {"user": "alice", "topics": []},
    "a second": {"user": "alice", "expires_in": 1},
    "a day": {"user": "alice", "expires_in": 86400},
    "a part of a second": {"user": "alice", "expires_in": 1.5},
    "user of 255 bytes": {"user": "x" * 255},
    "user of 85 signs of three bytes": {"user": "€" * 85},
    "user with everything": {"user": "a/b c%d?e#f:g@h*,"},
    "topic of 200": {"user": "alice", "topics": ["x" * 200]},
    "pattern of 201": {"user": "alice", "topics": ["x" * 200 + "*"]},
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD.keys())
async def test_a_wish_at_its_limits_is_granted(herald: Herald, body: dict[str, Any]) -> None:
    answer = herald.post("/v1/tickets", body)
    assert answer.status_code == 201, answer.text
    assert (await opened(herald, answer.json()["ticket"]))["user"] == body["user"]


# What is refused

BAD: dict[str, Any] = {
    "empty": b"",
    "white space": b"  \n",
    "not JSON": b"{user:1}",
    "JSON and more": b'{"user":"a"} x',
    "cut off": b'{"user":"a"',
    "not UTF-8": b'{"user":"\xff"}',
    "not UTF-8 at the start": b"\xff\xfe",
    "UTF-16": '{"user":"a"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"user":"a"}',
    "surrogate in UTF-8": b'{"user":"\xed\xa0\x80"}',
    "lone surrogate as user": b'{"user":"\\ud800"}',
    "nested deeply": b'{"user":"a","topics":' + b"[" * 7000 + b"]" * 7000 + b"}",
    "nested deeply and open": b"[" * 16000,
    "a list": [],
    "a text": "alice",
    "null": None,
    "unknown field": {"user": "a", "admin": True},
    "field in other case": {"User": "a"},
    "user missing": {"topics": []},
    "user null": {"user": None},
    "user a number": {"user": 5},
    "user empty": {"user": ""},
    "user of 256 bytes": {"user": "x" * 256},
    "user of 256 bytes in 128 signs": {"user": "é" * 128},
    "user with a newline": {"user": "a\n"},
    "user with a NUL": {"user": "\x00"},
    "topics null": {"user": "a", "topics": None},
    "topics a text": {"user": "a", "topics": "news"},
    "topics of numbers": {"user": "a", "topics": [1]},
    "topic empty": {"user": "a", "topics": [""]},
    "topic of 201": {"user": "a", "topics": ["x" * 201]},
    "topic with a space": {"user": "a", "topics": ["a b"]},
    "topic with two stars": {"user": "a", "topics": ["a**"]},
    "topic with a star within": {"user": "a", "topics": ["a*b"]},
    "one bad topic of many": {"user": "a", "topics": ["a", "b", "é"]},
    "expires_in null": {"user": "a", "expires_in": None},
    "expires_in a text": {"user": "a", "expires_in": "60"},
    "expires_in true": {"user": "a", "expires_in": True},
    "expires_in zero": {"user": "a", "expires_in": 0},
    "expires_in less than a second": {"user": "a", "expires_in": 0.999},
    "expires_in negative": {"user": "a", "expires_in": -1},
    "expires_in over a day": {"user": "a", "expires_in": 86401},
    "expires_in a little over a day": {"user": "a", "expires_in": 86400.001},
    "expires_in huge": b'{"user":"a","expires_in":1e400}',
    "expires_in of 400 digits": b'{"user":"a","expires_in":' + b"9" * 400 + b"}",
    "expires_in NaN": b'{"user":"a","expires_in":NaN}',
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_a_bad_wish_is_400_with_what_is_wrong(herald: Herald, body: Any) -> None:
    detail = problem(herald.post("/v1/tickets", body), 400)["detail"]
    assert len(detail) < 400


@pytest.mark.parametrize(
    "credential",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        f"Basic {KEY}",
        KEY,
        "Bearer a.b.c",
        "Bearer " + mint(secret="x" * 40),
        "Bearer " + mint(ttl=-60, scope="publish"),
    ],
)
def test_without_a_good_credential_it_is_401(herald: Herald, credential: str | None) -> None:
    headers = {"content-type": "application/json"}
    if credential is not None:
        headers["authorization"] = credential
    body = {"user": "alice"}
    answer = httpx2.post(herald.url + "/v1/tickets", headers=headers, json=body, timeout=PATIENCE)
    problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_user_makes_no_tickets_be_it_for_itself(herald: Herald) -> None:
    for scope in (None, "read", ["read"]):
        token = mint("alice", scope=scope)
        problem(herald.post("/v1/tickets", {"user": "alice"}, authorization=f"Bearer {token}"), 403)


def test_a_service_token_makes_tickets(herald: Herald) -> None:
    token = mint("billing", scope="publish")
    answer = herald.post("/v1/tickets", {"user": "alice"}, authorization=f"Bearer {token}")
    assert answer.status_code == 201


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-ndjson", "json"])
def test_other_content_type_is_415_and_says_which(herald: Herald, kind: str) -> None:
    answer = herald.post("/v1/tickets", {"user": "alice"}, content_type=kind)
    assert "application/json" in problem(answer, 415)["detail"]
    assert answer.headers["accept"] == "application/json"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_method_is_405(herald: Herald, method: str) -> None:
    answer = httpx2.request(
        method, herald.url + "/v1/tickets", headers=AUTHORIZED, timeout=PATIENCE
    )
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"


def _of_size(size: int) -> bytes:
    body = '{"user":"alice"%s}'
    return (body % (" " * (size - len(body % "")))).encode()


def test_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_413(herald: Herald) -> None:
    for size, status in ((LIMIT, 201), (LIMIT + 1, 413)):
        answer = herald.post("/v1/tickets", _of_size(size))
        assert answer.status_code == status
        headers = {**AUTHORIZED, "transfer-encoding": "chunked"}
        body = _of_size(size)
        framed = b"".join(b"1\r\n%c\r\n" % byte for byte in body[:100])
        framed += b"%x\r\n%b\r\n0\r\n\r\n" % (size - 100, body[100:])
        request = request_bytes("POST", "/v1/tickets", headers, framed)
        assert exchange(herald.port, request)[0] == status
    assert str(LIMIT) in problem(answer, 413)["detail"]


def test_body_that_says_it_is_too_large_is_refused_unread(herald: Herald) -> None:
    headers = {**AUTHORIZED, "content-length": "1000000000000"}
    status, _, body = exchange(herald.port, request_bytes("POST", "/v1/tickets", headers, b"{"))
    assert status == 413
    check_problem(json.loads(body), 413)


def test_body_that_does_not_come_is_408(start: Callable[..., Herald]) -> None:
    herald = start(body_timeout="0.3")
    headers = {**AUTHORIZED, "content-length": "100"}
    status, _, body = exchange(herald.port, request_bytes("POST", "/v1/tickets", headers, b"{"))
    assert status == 408
    check_problem(json.loads(body), 408)


async def test_engine_away_is_503_and_does_not_use_the_ticket_up(
    start: Callable[..., Herald], user: str
) -> None:
    # One that has everything again after a restart.
    engine = EmbeddedEngine(("--appendonly", "yes", "--appendfsync", "always"))
    try:
        herald = start(engine.url, engine_timeout="0.5", ticket_ttl="300")
        one = ticket(herald, user)
        os.kill(engine.pid, signal.SIGSTOP)  # it does not say that it is away
        answer = await asyncio.to_thread(herald.post, "/v1/tickets", {"user": user})
        assert "same id" not in problem(answer, 503)["detail"]
        assert int(answer.headers["retry-after"]) >= 1
        os.kill(engine.pid, signal.SIGCONT)
        engine.kill()
        problem(await asyncio.to_thread(herald.post, "/v1/tickets", {"user": user}), 503)
        await eventually(lambda: not herald.is_ready(), "trouble")
        status, _ = await refused(herald, f"ticket={one}", headers={"accept": "*/*"})
        assert status == 503
        engine.restart()
        await eventually(herald.is_ready, "readiness")
        assert (await opened(herald, one))["user"] == user
    finally:
        engine.stop()


# Once, and not for ever


async def test_exactly_one_of_many_opens_gets_in(herald: Herald, start: Any, user: str) -> None:
    nodes = [herald, start()]
    for _ in range(5):
        one = ticket(herald, user)
        requests = [dial(nodes[n % 2], stream_request(f"ticket={one}")) for n in range(20)]
        streams = await asyncio.gather(*requests)
        assert sorted(stream.status for stream in streams) == [200] + [401] * 19
        for stream in streams:
            if stream.status == 200:
                assert (await stream.expect("welcome"))["user"] == user
            await stream.close()


async def test_a_ticket_is_gone_after_its_time(start: Callable[..., Herald], user: str) -> None:
    herald = start(ticket_ttl="0.5")
    one, other = ticket(herald, user), ticket(herald, user)
    await opened(herald, one)
    await asyncio.sleep(0.7)
    assert (await refused(herald, f"ticket={other}"))[0] == 401


async def test_a_ticket_lives_no_longer_than_what_it_opens(herald: Herald, user: str) -> None:
    answer = herald.post("/v1/tickets", {"user": user, "expires_in": 1}).json()
    assert answer["expires"] <= time.time() + 1
    await asyncio.sleep(1.1)
    assert (await refused(herald, f"ticket={answer['ticket']}"))[0] == 401


async def test_a_stream_ends_when_its_ticket_said(start: Callable[..., Herald], user: str) -> None:
    herald = start(jwt_leeway="0")
    began = time.time()
    one = ticket(herald, user, expires_in=1.5)
    stream = await dial(herald, stream_request(f"ticket={one}"))
    assert began + 0.5 <= (await stream.expect("welcome"))["expires"] <= time.time() + 1.5
    assert await stream.closed() == 3000
    assert time.time() - began >= 1.5
    await stream.close()


async def test_a_ticket_opens_no_websocket_and_publishes_nothing(herald: Herald, user: str) -> None:
    from websockets.exceptions import InvalidStatus

    from tests.harness.process import open_plain

    one = ticket(herald, user)
    for query, token in ((f"ticket={one}", ""), (f"token={one}", ""), ("", one)):
        with pytest.raises(InvalidStatus) as caught:
            await open_plain(herald, query, token=token)
        assert caught.value.response.status_code == 401
    body = {"to": "all", "type": "t"}
    problem(herald.post("/v1/events", body, authorization=f"Bearer {one}"), 401)
    assert (await opened(herald, one))["user"] == user  # it was not used up either


async def test_no_ticket_is_logged_or_kept_as_it_is(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    import redis

    herald = start(own_engine.url, log_level="debug")
    one, other = ticket(herald, user), ticket(herald, user)
    await opened(herald, one)
    with redis.Redis.from_url(own_engine.url) as client:
        names = client.keys("herald:ticket:*")
        assert len(names) == 1  # the one that was not used
        kept = client.get(names[0])
        assert other.encode() not in names[0] + kept
        assert 0 < client.pttl(names[0]) <= 30_000
    assert one not in herald.log()
    assert other not in herald.log()
