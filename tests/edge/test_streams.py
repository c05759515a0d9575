"""`GET /v1/stream`: who comes in, how a refusal is told, and how its request may come."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from service.broker.embedded import EmbeddedEngine
from tests.edge.wire import check_problem, exchange, request_bytes
from tests.harness.event_stream import EventStreamParser
from tests.harness.process import (
    KEY,
    PATIENCE,
    Herald,
    eventually,
    free_port,
    mint,
    open_plain,
    websocket_request,
)
from tests.harness.streams import Stream, dial, open_stream, stream_request, streaming

APP = "https://app.example.com"
OWN = "http://127.0.0.1:{port}"
SAME = {"sec-fetch-site": "same-origin"}


def ticket(herald: Herald, user: str, **more: Any) -> str:
    answer = herald.post("/v1/tickets", {"user": user, **more})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["ticket"])


async def refused(
    herald: Herald, query: str = "", *, port: int | None = None, **options: Any
) -> tuple[int, dict[str, str]]:
    """Status and headers of a refusal, which must be a problem document."""
    stream = await dial(herald, stream_request(query, **options), port=port)
    try:
        assert stream.headers["content-type"] == "application/problem+json"
        if options.get("method") != "HEAD":
            check_problem(json.loads(await stream.body()), stream.status)
        return stream.status, stream.headers
    finally:
        await stream.close()


# The token


async def test_a_token_comes_in_the_header(herald: Herald, user: str) -> None:
    async with streaming(herald, token=mint(user)) as stream:
        assert (await stream.expect("welcome"))["user"] == user
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["connection"] == "close"
        assert stream.headers["date"].endswith(" GMT")
        assert "content-length" not in stream.headers
        assert "transfer-encoding" not in stream.headers
        assert 2000 <= (stream.parser.retry or 0) < 4000
        assert stream.parser.oddities == []


async def test_without_any_token_it_is_401(herald: Herald) -> None:
    for headers in ({}, {"origin": "https://evil.example"}, {"cookie": "a=b"}, SAME):
        status, head = await refused(herald, headers=headers)
        assert (status, head["www-authenticate"]) == (401, 'Bearer realm="herald"')


async def test_a_token_in_the_url_is_not_taken(herald: Herald, user: str) -> None:
    assert (await refused(herald, f"token={mint(user)}"))[0] == 401
    assert (await refused(herald, f"access_token={mint(user)}"))[0] == 401


@pytest.mark.parametrize(
    "token",
    ["nonsense", mint(ttl=-3600), mint(secret="x" * 40), mint(""), KEY, "x" * 20_000, "a.b.c"],
    ids=["nonsense", "expired", "another secret", "empty sub", "API key", "long", "dots"],
)
async def test_a_bad_token_is_401_wherever_it_is(herald: Herald, token: str) -> None:
    status, head = await refused(herald, token=token)
    assert status == 401
    assert "www-authenticate" in head
    assert token not in str(head)
    cookie = {"cookie": f"herald_token={token}", **SAME}
    assert (await refused(herald, headers=cookie))[0] == 401
    assert (await refused(herald, f"ticket={quote(token)}"))[0] == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"origin": OWN}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        (SAME, 200),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        # An Origin that is sent goes before it: scripts can set neither.
        ({"origin": "https://evil.example", **SAME}, 403),
        ({"origin": OWN, "sec-fetch-site": "cross-site"}, 200),
    ],
)
async def test_a_cookie_counts_from_the_own_origin_only(
    herald: Herald, user: str, headers: dict[str, str], status: int
) -> None:
    sent = {k: v.format(port=herald.port) for k, v in headers.items()}
    sent |= {"cookie": f"a=b; herald_token={mint(user)}; c=d", "host": f"127.0.0.1:{herald.port}"}
    await _check(herald, user, sent, status)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"origin": APP}, 200),
        ({"origin": "https://other.example.com"}, 403),
        ({"host": "app.example.com", **SAME}, 200),
        ({"host": "APP.example.com", **SAME}, 200),
        ({"host": "push.example.com", **SAME}, 403),
        ({"host": "app.example.com", "sec-fetch-site": "same-site"}, 403),
    ],
)
async def test_a_cookie_counts_from_configured_origins_only(
    app_herald: Herald, user: str, headers: dict[str, str], status: int
) -> None:
    cookie = {"cookie": f"herald_token={mint(user)}"}
    await _check(app_herald, user, {**headers, **cookie}, status)


@pytest.fixture(scope="module")
def app_herald(
    engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Herald]:
    """One with an origin that is allowed."""
    from tests.harness.process import running

    with running(engine.url, tmp_path_factory.mktemp("app"), allowed_origins=APP) as herald:
        yield herald


async def _check(herald: Herald, user: str, headers: dict[str, str], status: int) -> None:
    if status != 200:
        assert (await refused(herald, headers=headers))[0] == status
        return
    stream = await dial(herald, stream_request(headers=headers))
    assert stream.status == 200
    assert (await stream.expect("welcome"))["user"] == user
    await stream.close()


async def test_configured_origins_hold_for_every_credential(app_herald: Herald, user: str) -> None:
    evil, good = {"origin": "https://evil.example"}, {"origin": APP}
    one = ticket(app_herald, user)
    assert (await refused(app_herald, token=mint(user), headers=evil))[0] == 403
    assert (await refused(app_herald, f"ticket={one}", headers=evil))[0] == 403
    # The ticket is none the worse for it.
    for request in (
        stream_request(token=mint(user), headers=good),
        stream_request(f"ticket={one}", headers=good),
        stream_request(token=mint(user)),  # no browser
    ):
        stream = await dial(app_herald, request)
        assert stream.status == 200
        await stream.expect("welcome")
        await stream.close()


async def test_the_header_goes_before_a_ticket_and_that_before_a_cookie(
    herald: Herald, user: str
) -> None:
    one = ticket(herald, f"{user}-ticket")
    cookie = {"cookie": f"herald_token={mint(f'{user}-cookie')}", **SAME}
    for name, query, token in (
        (user, f"ticket={one}", mint(user)),
        (f"{user}-ticket", f"ticket={one}", None),  # so it was not used up
        (f"{user}-cookie", "", None),
    ):
        stream = await dial(herald, stream_request(query, token=token, headers=cookie))
        assert (await stream.expect("welcome"))["user"] == name
        await stream.close()


# What is asked for


async def test_topics_are_joined_and_refused_ones_told(herald: Herald, user: str) -> None:
    token = mint(user, topics=["named", "news.*"])
    async with streaming(herald, "topics=news.a,secret,news.b", token=token) as stream:
        channels = (await stream.expect("welcome"))["channels"]
        assert list(channels) == [
            f"user:{user}",
            "all",
            "topic:named",
            "topic:news.a",
            "topic:news.b",
        ]
        error = await stream.expect("error")
        assert (error["code"], error["channel"]) == ("forbidden", "topic:secret")
        herald.publish("topic:news.b", "b")
        assert (await stream.expect("event"))["channel"] == "topic:news.b"


async def test_since_and_the_last_id_and_which_goes_first(
    herald: Herald, user: str, new_name: Callable[[], str]
) -> None:
    topic = f"{new_name()}@home"
    own, other = f"user:{user}", f"topic:{topic}"
    mine = [herald.publish(own, n)["positions"][own] for n in range(4)]
    theirs = [herald.publish(other, n)["positions"][other] for n in range(4)]
    token = mint(user, topics=[topic])
    since = f"since={quote(f'{own}@{mine[0]}')}&since={quote(f'{other}@{theirs[1]}')}"
    newer = f"{quote(own, safe=':')}@{mine[2]}"

    async def starts(query: str, last_id: str | None = None) -> dict[str, str]:
        async with streaming(herald, query, token=token, last_id=last_id) as stream:
            joined = (await stream.expect("welcome"))["channels"]
            return {name: at["position"] for name, at in joined.items() if at["recovered"]}

    assert await starts(since) == {own: mine[0], other: theirs[1]}
    assert await starts(since, newer) == {own: mine[2], other: theirs[1]}
    assert await starts(f"{since}&last_event_id={quote(newer)}") == {own: mine[2], other: theirs[1]}
    in_url = f"last_event_id={quote(f'{own}@{mine[1]}')}"
    assert await starts(in_url) == {own: mine[1]}
    assert await starts(in_url, newer) == {own: mine[2]}
    assert await starts(in_url, "") == {own: mine[1]}


@pytest.mark.parametrize("user", ["a,b@c %2C+&=#é😀/日本:~", "100%", " ", "user:x@1-1,all@2-2"])
async def test_an_id_of_an_odd_user_resumes(herald: Herald, user: str, new_name: Any) -> None:
    name = f"{user}{new_name()}"
    async with streaming(herald, token=mint(name)) as stream:
        await stream.expect("welcome")
        herald.publish(f"user:{name}", 1)
        await stream.expect("event")
        last = stream.parser.last_id
    herald.publish(f"user:{name}", 2)
    for query, header in (("", last), (f"last_event_id={quote(last)}", None)):
        async with streaming(herald, query, token=mint(name), last_id=header) as stream:
            assert (await stream.expect("welcome"))["channels"][f"user:{name}"]["recovered"]
            assert (await stream.expect("event"))["data"] == 2


@pytest.mark.parametrize(
    "query",
    [
        "since=nothing",
        "since=@1-1",
        "since=user:a@1",
        "since=nobody@1-1",
        "topics=a%20b",
        "topics=a*",
        "topics=" + "x" * 201,
        "last_event_id=17",
        "last_event_id=user:a@1-x",
        "last_event_id=nobody@1-1",
        "last_event_id=all@1-1,",
        "last_event_id=user:%25ff@1-1",
        # More than are read: what the rest says must not be passed over in silence.
        "&".join(["since=all@0-0"] * 1200),
    ],
    ids=lambda query: query[:30],
)
async def test_what_cannot_be_read_is_400(herald: Herald, user: str, query: str) -> None:
    one = ticket(herald, user)
    before = herald.metrics().get('herald_refusals_total{reason="request"}', 0.0)
    assert (await refused(herald, query, token=mint(user)))[0] == 400
    assert herald.metrics()['herald_refusals_total{reason="request"}'] == before + 1
    assert (await refused(herald, f"{query}&ticket={one}"))[0] in (400, 401)
    # It was not used up.
    stream = await dial(herald, stream_request(f"ticket={one}"))
    assert stream.status == 200
    await stream.close()


async def test_a_bad_id_in_the_header_is_400(herald: Herald) -> None:
    for text in ("17", "all@1-1,", "user:\xe9@x"):
        assert (await refused(herald, token=mint(), headers={"last-event-id": text}))[0] == 400


# Refusals that depend on the server


async def test_limit_of_a_user_is_429_and_others_come_in(start: Callable[..., Herald]) -> None:
    herald = start(max_connections_per_user="2")
    websocket = await open_plain(herald, token=mint("bob"))
    await websocket.expect("welcome")
    first = await open_stream(herald, token=mint("bob"))
    await first.expect("welcome")
    one = ticket(herald, "bob")
    for query, token in (("", mint("bob")), (f"ticket={one}", None)):
        status, head = await refused(herald, query, token=token)
        assert status == 429
        assert int(head["retry-after"]) >= 1
    async with streaming(herald, token=mint("eve")) as other:
        await other.expect("welcome")
    await first.close()
    await eventually(lambda: herald.metrics()["herald_connections"] == 1, "room")
    async with streaming(herald, token=mint("bob")) as again:
        await again.expect("welcome")
    await websocket.close()
    assert herald.metrics()['herald_refusals_total{reason="user_limit"}'] == 2


async def test_a_user_may_have_exactly_as_many_as_allowed(start: Callable[..., Herald]) -> None:
    herald = start(max_connections_per_user="5")
    requests = [dial(herald, stream_request(token=mint("bob"))) for _ in range(20)]
    streams = await asyncio.gather(*requests)
    assert sorted(stream.status for stream in streams) == [200] * 5 + [429] * 15
    assert herald.metrics()["herald_connections"] == 5
    for stream in streams:
        await stream.close()


async def test_full_server_takes_exactly_its_number_and_has_room_again(
    start: Callable[..., Herald],
) -> None:
    herald = start(max_connections="5")
    names = [f"n{n}" for n in range(20)]
    requests = [
        dial(herald, stream_request(token=mint(name), headers={"accept": "*/*"})) for name in names
    ]
    streams = await asyncio.gather(*requests)
    assert sorted(stream.status for stream in streams) == [200] * 5 + [503] * 15
    for stream in streams:
        if stream.status == 503:
            assert int(stream.headers["retry-after"]) >= 1
    assert herald.metrics()["herald_connections"] == 5
    assert herald.metrics()["herald_users"] == 5
    for stream in streams:
        await stream.close()
    await eventually(lambda: herald.metrics()["herald_connections"] == 0, "room")
    async with streaming(herald, token=mint("bob")) as again:
        await again.expect("welcome")


async def _ended(stream: Stream, code: int) -> None:
    """What `EventSource` is told where it must come back: a stream that ends."""
    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["cache-control"] == "no-store"
    parser = EventStreamParser()
    (message,) = parser.feed(await stream.body())
    assert parser.oddities == []
    assert 5000 <= (parser.retry or 0) < 10000
    assert parser.last_id == ""  # so the one that the browser holds stays
    told = json.loads(message.data)
    assert told == {"type": "close", "code": code, "reason": told["reason"]}
    assert told["reason"]


async def test_full_server_is_a_stream_that_ends_for_an_event_source(
    start: Callable[..., Herald],
) -> None:
    herald = start(max_connections="1")
    async with streaming(herald) as held:
        await held.expect("welcome")
        for accept in ("text/event-stream", "text/event-stream, */*;q=0.1", "Text/Event-Stream"):
            stream = await dial(herald, stream_request(token=mint(), headers={"accept": accept}))
            await _ended(stream, 1013)
            await stream.close()
        for accept in ("*/*", "application/json", ""):
            answer = await refused(herald, token=mint(), headers={"accept": accept})
            assert answer[0] == 503
    await eventually(lambda: herald.metrics()["herald_connections"] == 0, "room")
    # What does not pass by itself is a status, whatever is accepted.
    assert (await refused(herald, token="bad", headers={"accept": "text/event-stream"}))[0] == 401


async def test_a_drained_node_takes_no_stream(start: Callable[..., Herald], user: str) -> None:
    herald = start(drain_seconds="30")
    holding = await asyncio.open_connection("127.0.0.1", herald.port)
    holding[1].write(websocket_request(mint(user)))  # answers no close: the drain waits for it
    await holding[0].readuntil(b'"welcome"')
    one = ticket(herald, user)
    herald.signal(signal.SIGTERM)
    await eventually(lambda: not herald.is_ready(), "draining")
    for query, token in (("", mint(user)), (f"ticket={one}", None)):
        stream = await dial(herald, stream_request(query, token=token))
        await _ended(stream, 1013)
        await stream.close()
        headers = {"accept": "*/*"}
        assert (await refused(herald, query, token=token, headers=headers))[0] == 503
    holding[1].close()
    assert await asyncio.to_thread(herald.process.wait, 60) == 0


async def test_engine_away_is_503_or_a_stream_that_ends(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    herald = start(own_engine.url, engine_timeout="0.5")
    own_engine.kill()
    await eventually(lambda: not herald.is_ready(), "trouble")
    # Newcomers are let in and wait for a moment; and then it is known.
    for _ in range(2):
        stream = await dial(herald, stream_request(token=mint(user)))
        await _ended(stream, 1013)
        await stream.close()
        status, head = await refused(herald, token=mint(user), headers={"accept": "*/*"})
        assert status == 503
        assert int(head["retry-after"]) >= 1
        await asyncio.sleep(1.2)
    assert herald.metrics()["herald_channels"] == 0
    own_engine.restart()
    await eventually(herald.is_ready, "readiness")
    async with streaming(herald, token=mint(user)) as again:
        await again.expect("welcome")


async def test_who_leaves_while_the_engine_is_slow_leaves_nothing(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    herald = start(own_engine.url)
    os.kill(own_engine.pid, signal.SIGSTOP)
    try:
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", herald.port)
            writer.write(stream_request(token=mint(user)))
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.close()
            await writer.wait_closed()
    finally:
        os.kill(own_engine.pid, signal.SIGCONT)
    await eventually(lambda: herald.metrics()["herald_channels"] == 0, "nothing is left")
    assert herald.metrics()["herald_connections"] == 0
    assert herald.metrics()["herald_connects_total"] == 0


# Scripts of other origins


async def test_any_origin_may_read_where_none_are_configured(herald: Herald, user: str) -> None:
    origin = {"origin": "https://anywhere.example"}
    async with streaming(herald, token=mint(user), headers=origin) as stream:
        assert stream.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in stream.headers
        await stream.expect("welcome")
    _, head = await refused(herald, headers=origin)
    assert head["access-control-allow-origin"] == "*"
    assert head["access-control-expose-headers"] == "retry-after"
    async with streaming(herald, token=mint(user)) as stream:
        assert not [name for name in stream.headers if name.startswith("access-control")]


async def test_configured_origins_may_read_with_cookies_and_no_other(
    app_herald: Herald, user: str
) -> None:
    good = {"origin": APP}
    async with streaming(app_herald, token=mint(user), headers=good) as stream:
        assert stream.headers["access-control-allow-origin"] == APP
        assert stream.headers["access-control-allow-credentials"] == "true"
        assert stream.headers["vary"] == "origin"
        await stream.expect("welcome")
    for query, status in (("", 401), ("topics=a%20b", 400)):
        token = mint(user) if status == 400 else None
        code, head = await refused(app_herald, query, token=token, headers=good)
        assert code == status
        assert head["access-control-allow-origin"] == APP
        assert head["access-control-allow-credentials"] == "true"
    evil = {"origin": "https://evil.example"}
    code, head = await refused(app_herald, token=mint(user), headers=evil)
    assert code == 403
    assert "access-control-allow-origin" not in head
    assert head["vary"] == "origin"


async def test_a_stream_that_ends_at_once_may_be_read_too(start: Callable[..., Herald]) -> None:
    herald = start(max_connections="1", allowed_origins=APP)
    async with streaming(herald):
        stream = await dial(herald, stream_request(token=mint(), headers={"origin": APP}))
        assert stream.headers["access-control-allow-origin"] == APP
        await _ended(stream, 1013)
        await stream.close()


async def _preflight(herald: Herald, origin: str, *, port: int | None = None) -> Stream:
    headers = {
        "origin": origin,
        "access-control-request-method": "GET",
        "access-control-request-headers": "authorization,last-event-id,cache-control",
    }
    stream = await dial(herald, stream_request(method="OPTIONS", headers=headers), port=port)
    await stream.close()
    return stream


async def test_preflights(herald: Herald, app_herald: Herald) -> None:
    for node, origin, readable in ((herald, "https://any.example", "*"), (app_herald, APP, APP)):
        stream = await _preflight(node, origin)
        assert stream.status == 204
        assert stream.headers["access-control-allow-origin"] == readable
        assert stream.headers["access-control-allow-methods"] == "GET"
        allowed = stream.headers["access-control-allow-headers"].split(", ")
        assert set(allowed) == {"authorization", "cache-control", "last-event-id"}
        assert int(stream.headers["access-control-max-age"]) > 0
        # RFC 9110, 8.6: a 204 has no length, nor a type of what it does not have.
        assert "content-length" not in stream.headers
        assert "content-type" not in stream.headers
    stream = await _preflight(app_herald, "https://evil.example")
    assert stream.status == 403
    assert "access-control-allow-origin" not in stream.headers


async def test_the_connection_goes_on_after_a_preflight(herald: Herald, user: str) -> None:
    stream = await dial(herald, stream_request(method="OPTIONS", headers={"origin": APP}))
    assert stream.status == 204
    stream.writer.write(stream_request(token=mint(user), headers={"origin": APP}))
    await stream.head()
    assert stream.status == 200
    await stream.expect("welcome")
    await stream.close()


# How the request comes


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "PATCH"])
async def test_another_method_is_405(herald: Herald, method: str) -> None:
    status, head = await refused(
        herald, token=mint(), method=method, headers={"content-length": "0"}
    )
    assert status == 405
    assert head["allow"] == "GET, OPTIONS"


async def test_a_head_request_has_no_body_and_the_connection_goes_on(herald: Herald) -> None:
    stream = await dial(herald, stream_request(method="HEAD", token=mint()))
    assert stream.status == 405
    stream.writer.write(stream_request(token=mint()))
    await stream.head()
    assert stream.status == 200
    await stream.expect("welcome")
    await stream.close()


async def test_another_path_is_404(herald: Herald) -> None:
    for path in ("/v1/stream/", "/v1/streams", "/v1/stream/x", "/v1//stream"):
        status, _, body = exchange(herald.port, request_bytes("GET", path, {}))
        assert status == 404
        check_problem(json.loads(body), 404)


async def test_an_http_1_0_client_gets_its_stream(herald: Herald, user: str) -> None:
    stream = await dial(herald, stream_request(token=mint(user), version="1.0"))
    assert stream.status == 200
    assert "transfer-encoding" not in stream.headers
    await stream.expect("welcome")
    herald.publish(f"user:{user}", 1)
    await stream.expect("event")
    await stream.close()


async def test_a_whole_url_is_taken(herald: Herald, user: str) -> None:
    request = stream_request("topics=a", token=mint(user, topics=["a"]))
    whole = request.replace(b"GET /v1", b"GET http://push.example.com/v1", 1)
    stream = await dial(herald, whole)
    assert "topic:a" in (await stream.expect("welcome"))["channels"]
    await stream.close()


async def test_a_request_with_a_body_gets_its_stream(herald: Herald, user: str) -> None:
    request = stream_request(token=mint(user), headers={"content-length": "5"})
    stream = await dial(herald, request + b"12345")
    await stream.expect("welcome")
    await stream.close()
    # Also where the body never comes: nobody waits for it.
    stream = await dial(herald, request)
    await stream.expect("welcome")
    herald.publish(f"user:{user}", 1)
    await stream.expect("event")
    await stream.close()


async def test_a_connection_that_was_used_before(herald: Herald, user: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", herald.port)
    stream = Stream(reader, writer)
    for path in ("/healthz/live", "/v1/stream", "/nowhere"):
        writer.write(request_bytes("GET", path, {}))
        await stream.head()
        await stream.body()
    body = json.dumps({"to": f"user:{user}", "type": "t"}).encode()
    headers = {
        "authorization": f"Bearer {KEY}",
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    writer.write(request_bytes("POST", "/v1/events", headers, body))
    await stream.head()
    assert stream.status == 202
    await stream.body()
    writer.write(stream_request(f"since=user:{user}@0-0", token=mint(user)))
    await stream.head()
    assert stream.status == 200
    await stream.expect("welcome")
    await stream.expect("event")
    await stream.close()


async def test_requests_before_it_are_answered_first(herald: Herald, user: str) -> None:
    before = request_bytes("GET", "/healthz/live", {}) + request_bytes("GET", "/nowhere", {})
    stream = await dial(herald, before + stream_request(token=mint(user)))
    assert stream.status == 200
    assert json.loads(await stream.body()) == {"status": "live"}
    await stream.head()
    assert stream.status == 404
    await stream.body()
    await stream.head()
    assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
    await stream.expect("welcome")
    herald.publish(f"user:{user}", 1)
    await stream.expect("event")
    await stream.close()


async def test_what_comes_behind_it_is_nobodys(herald: Herald, user: str) -> None:
    token = mint(user)
    rest = request_bytes("GET", "/healthz/live", {}) + stream_request(token=token) + b"\0\xff" * 9
    stream = await dial(herald, stream_request(token=token) + rest)
    await stream.expect("welcome")
    for number in range(3):
        stream.writer.write(rest + b"x" * 100_000)
        herald.publish(f"user:{user}", number)
        assert (await stream.expect("event"))["data"] == number
    assert herald.metrics()["herald_connections"] >= 1
    assert stream.raw.count(b"HTTP/1.1") == 0
    await stream.close()


async def test_requests_behind_it_that_came_in_one_large_piece(herald: Herald, user: str) -> None:
    many = request_bytes("GET", "/healthz/live", {}) * 500
    stream = await dial(herald, stream_request(token=mint(user)) + many)
    await stream.expect("welcome")
    herald.publish(f"user:{user}", 1)
    await stream.expect("event")
    assert b"HTTP/1.1" not in stream.raw
    await stream.close()


async def test_a_client_that_ends_its_side_is_done(herald: Herald, user: str) -> None:
    stream = await open_stream(herald, token=mint(user))
    await stream.expect("welcome")
    stream.writer.write_eof()
    assert await stream.closed() == 1006
    await stream.close()


async def test_answers_that_nobody_reads_do_not_let_a_replay_pile_up(
    start: Callable[..., Herald], user: str, new_name: Callable[[], str]
) -> None:
    """The transport was full before it was taken over: it says so once, to who had it then."""
    herald = start(send_queue_bytes="262144", heartbeat_interval="300", history_size="1000")
    topics = [new_name() for _ in range(40)]
    for topic in topics:  # 30 MB in all
        events = [{"to": f"topic:{topic}", "type": "t", "data": "x" * 50_000}] * 15
        assert herald.post("/v1/events/batch", {"events": events}).status_code == 200
    path = f"/v1/channels/topic:{topics[0]}/events"
    page = request_bytes("GET", path, {"authorization": f"Bearer {KEY}"})  # 750 kB
    since = "&".join(f"since=topic:{topic}@0-0" for topic in topics)
    ask = stream_request(since, token=mint(user, topics=topics))
    adopted_full = 0
    for pages in range(1, 10):  # so many that some are too few for it, and some too many
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", herald.port))
        sock.sendall(page * pages)
        await asyncio.sleep(0.3)
        sock.sendall(ask)
        deepest = []
        for _ in range(5):
            await asyncio.sleep(0.1)
            deepest.append(herald.metrics()["herald_outbox_deepest_bytes"])
        assert max(deepest) < 2 * 2**20, (pages, deepest)
        if herald.metrics()["herald_connections"]:
            adopted_full += max(deepest) > 65536
            if adopted_full == 1:  # it goes on once it is read
                await asyncio.to_thread(_read_events, sock, 15 * (pages + len(topics)))
        sock.close()
        await eventually(lambda: herald.metrics()["herald_channels"] == 0, "nothing is left")
    assert adopted_full, "no number of pages was the right one"


def _read_events(sock: socket.socket, count: int) -> None:
    sock.settimeout(PATIENCE)
    seen, rest = 0, b""
    while seen < count:
        data = sock.recv(1 << 20)
        assert data, (seen, count)
        seen += (rest + data).count(b'"event":"t"')
        rest = data[-10:]


# Where


async def test_streams_are_where_clients_are(start: Callable[..., Herald], user: str) -> None:
    herald = start(api_port=str(free_port()))
    async with streaming(herald, token=mint(user)) as stream:
        await stream.expect("welcome")
        herald.publish(f"user:{user}", 1)
        await stream.expect("event")
    assert (await refused(herald, port=herald.api_port, token=mint(user)))[0] == 404
    assert (await _preflight(herald, APP, port=herald.api_port)).status in (404, 405)
    one = ticket(herald, user)
    status, _, _ = exchange(
        herald.port, request_bytes("POST", "/v1/tickets", {"content-length": "0"})
    )
    assert status == 404
    stream = await dial(herald, stream_request(f"ticket={one}"))
    assert stream.status == 200
    await stream.close()


async def test_a_ticket_opens_one_stream_on_any_node(
    herald: Herald, start: Callable[..., Herald], user: str
) -> None:
    other = start()
    one = ticket(herald, user, topics=["given", "news.*"])
    stream = await dial(other, stream_request(f"ticket={one}&topics=news.a,secret"))
    welcome = await stream.expect("welcome")
    assert welcome["user"] == user
    assert list(welcome["channels"])[2:] == ["topic:given", "topic:news.a"]
    assert (await stream.expect("error"))["channel"] == "topic:secret"
    for node in (herald, other):
        assert (await refused(node, f"ticket={one}"))[0] == 401
    # Not even for a browser that comes back by itself.
    status, _ = await refused(other, f"ticket={one}", headers={"last-event-id": "all@0-0"})
    assert status == 401
    await stream.close()
