"""`GET /v1/ws`: who comes in, and how each refusal is told in the two ways of talking."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.edge.wire import check_problem, exchange, request_bytes
from tests.harness.process import (
    KEY,
    PATIENCE,
    Client,
    Herald,
    eventually,
    mint,
    open_herald,
    open_plain,
)

WAYS = ("subprotocol", "header", "cookie", "query")
OWN = "http://127.0.0.1:{port}"


async def dial(
    herald: Herald,
    way: str | None = None,
    token: str | None = None,
    *,
    herald_v1: bool = False,
    query: str = "",
    origin: str | None = None,
    headers: dict[str, str] | None = None,
) -> Client:
    """Connect with the token brought in this way."""
    sent = dict(headers or {})
    offered = ["herald.v1"] if herald_v1 else []
    token = mint() if token is None and way is not None else token
    if way == "subprotocol":
        offered.append(f"bearer.{token}")
    elif way == "header":
        sent["authorization"] = f"Bearer {token}"
    elif way == "cookie":
        sent["cookie"] = f"a=b; herald_token={token}; c=d"
        origin = origin or OWN
    elif way == "query":
        query = "&".join(part for part in (query, f"token={quote(token or '')}") if part)
    if origin:
        sent["origin"] = origin.format(port=herald.port)
    if not herald_v1 and offered:
        # The client library insists on a subprotocol being chosen; a plain server chooses none.
        sent["sec-websocket-protocol"] = ", ".join(offered)
        offered = []
    return Client(
        await connect(
            herald.ws_url + (f"?{query}" if query else ""),
            subprotocols=offered or None,  # type: ignore[arg-type]
            additional_headers=sent,
            compression=None,
            proxy=None,
            open_timeout=PATIENCE,
            ping_interval=None,
        )
    )


async def status_of(herald: Herald, *args: Any, **more: Any) -> tuple[int, dict[str, Any], Any]:
    """Status, problem document and headers of a plain refusal."""
    with pytest.raises(InvalidStatus) as caught:
        await dial(herald, *args, **more)
    answer = caught.value.response
    assert answer.headers["content-type"] == "application/problem+json"
    body = check_problem(json.loads(answer.body), answer.status_code)
    return answer.status_code, body, answer.headers


async def close_of(herald: Herald, *args: Any, **more: Any) -> int:
    """The close code of a herald.v1 refusal; nothing is said before it."""
    client = await dial(herald, *args, herald_v1=True, **more)
    code = await client.closed()
    with pytest.raises(ConnectionClosed):
        await client.socket.recv()
    return code


@pytest.mark.parametrize("way", WAYS)
async def test_token_is_found_wherever_it_is(herald: Herald, user: str, way: str) -> None:
    plain = await dial(herald, way, mint(user))
    assert plain.socket.subprotocol is None
    assert (await plain.expect("welcome"))["user"] == user
    await plain.close()
    client = await dial(herald, way, mint(user), herald_v1=True)
    assert client.socket.subprotocol == "herald.v1"
    await client.send(type="connect")
    assert (await client.expect("welcome"))["user"] == user
    await client.close()


async def test_token_comes_in_the_connect_message(herald: Herald, user: str) -> None:
    client = await open_herald(herald, token=mint(user))
    assert client.socket.subprotocol == "herald.v1"
    assert (await client.expect("welcome"))["user"] == user
    await client.close()


async def test_answer_to_the_handshake_never_holds_the_token(herald: Herald, user: str) -> None:
    token = mint(user)
    for offered in (
        f"herald.v1, bearer.{token}",
        f"bearer.{token}, herald.v1",
        f"bearer.{token},herald.v1",
        f"bearer.{token}",
    ):
        headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
            ("sec-websocket-protocol", offered),
        ]
        status, head, body = exchange(herald.port, request_bytes("GET", "/v1/ws", headers))
        assert status == 101
        expected = "herald.v1" if "herald.v1" in offered else None
        assert head.get("sec-websocket-protocol") == expected
        # In front of welcome, which names the user, there is nothing of the token.
        assert token not in str(head) + body.decode("latin-1")


async def test_cookie_is_the_last_place_that_counts(herald: Herald, user: str) -> None:
    cookie = {"cookie": f"herald_token={mint('other')}"}
    client = await dial(herald, "header", mint(user), headers=cookie, origin="https://evil.example")
    assert (await client.expect("welcome"))["user"] == user
    await client.close()


BAD_TOKENS = {
    "nonsense": "nonsense",
    "expired": mint(ttl=-3600),
    "another secret": mint(secret="x" * 40),
    "alg none": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiZXhwIjo5OTk5OTk5OTk5fQ.",
    "exp of 401 digits": "",
    "empty sub": mint(""),
    "API key": KEY,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
async def test_bad_token_is_401_or_3000(herald: Herald, way: str, token: str) -> None:
    if not token:
        from tests.auth.forge import forge

        token = forge(b'{"sub":"a","exp":1' + b"0" * 400 + b"}")
    status, document, headers = await status_of(herald, way, token)
    assert status == 401
    assert "www-authenticate" in headers
    assert token not in document["detail"]
    assert await close_of(herald, way, token) == 3000


async def test_bad_token_in_the_connect_message_closes_with_3000(herald: Herald) -> None:
    for token in ("nonsense", mint(ttl=-3600), "é.é.é", "x" * 20_000):
        client = await open_herald(herald, token=token)
        assert await client.closed() == 3000


async def test_without_any_token_it_is_401_or_3000(herald: Herald) -> None:
    assert (await status_of(herald))[0] == 401
    client = await dial(herald, herald_v1=True)
    await client.send(type="connect")
    assert await client.closed() == 3000


async def test_without_connect_in_time_it_is_3008(start: Callable[..., Herald]) -> None:
    herald = start(connect_timeout="0.2")
    assert await close_of(herald) == 3008
    assert await close_of(herald, "header") == 3008


@pytest.mark.parametrize(
    ("way", "origin", "welcome"),
    [
        ("cookie", OWN, True),
        ("cookie", "https://evil.example", False),
        ("cookie", "null", False),
        ("cookie", "http://[", False),
        ("cookie", OWN + ".evil.example", False),
        ("header", "https://evil.example", True),
        ("query", "https://evil.example", True),
        ("subprotocol", "null", True),
    ],
)
async def test_cookie_counts_only_from_the_own_origin(
    herald: Herald, way: str, origin: str, welcome: bool
) -> None:
    await _check_origin(herald, way, origin, welcome)


async def test_cookie_without_an_origin_is_403_or_3003(herald: Herald) -> None:
    cookie = {"cookie": f"herald_token={mint()}"}
    assert (await status_of(herald, headers=cookie))[0] == 403
    assert await close_of(herald, headers=cookie) == 3003


async def test_configured_origins_hold_for_every_way(start: Callable[..., Herald]) -> None:
    herald = start(allowed_origins="https://app.example.com, https://Other.example.com/")
    for way in WAYS:
        await _check_origin(herald, way, "https://app.example.com", True)
        await _check_origin(herald, way, "https://other.example.com", True)
        await _check_origin(herald, way, "https://evil.example", False)
        await _check_origin(herald, way, OWN, False)
    await _check_origin(herald, "header", None, True)
    # Also where the token would come later.
    assert await close_of(herald, origin="https://evil.example") == 3003


async def _check_origin(herald: Herald, way: str, origin: str | None, welcome: bool) -> None:
    if not welcome:
        assert (await status_of(herald, way, origin=origin))[0] == 403
        assert await close_of(herald, way, origin=origin) == 3003
        return
    for herald_v1 in (False, True):
        client = await dial(herald, way, origin=origin, herald_v1=herald_v1)
        if herald_v1:
            await client.send(type="connect")
        await client.expect("welcome")
        await client.close()


async def test_full_server_is_503_or_1013_and_has_room_again(start: Callable[..., Herald]) -> None:
    herald = start(max_connections="2")
    first, second = await open_plain(herald), await open_herald(herald)
    await first.expect("welcome")
    await second.expect("welcome")
    status, _, headers = await status_of(herald, "header")
    assert status == 503
    assert int(headers["retry-after"]) >= 1
    assert await close_of(herald, "header") == 1013
    await first.close()
    await eventually(lambda: herald.metrics()["herald_connections"] == 1, "room")
    third = await open_plain(herald)
    await third.expect("welcome")
    for client in (second, third):
        await client.close()


async def test_limit_of_a_user_is_429_or_4101_and_others_come_in(
    start: Callable[..., Herald],
) -> None:
    herald = start(max_connections_per_user="2")
    held = [await open_plain(herald, token=mint("bob")) for _ in range(2)]
    for client in held:
        await client.expect("welcome")
    status, _, headers = await status_of(herald, "header", mint("bob"))
    assert status == 429
    assert int(headers["retry-after"]) >= 1
    late = await open_herald(herald, token=mint("bob"))
    assert await late.closed() == 4101
    other = await open_plain(herald, token=mint("eve"))
    await other.expect("welcome")
    await held.pop().close()
    await eventually(lambda: herald.metrics()["herald_connections"] == 2, "room")
    again = await open_plain(herald, token=mint("bob"))
    await again.expect("welcome")
    for client in (*held, other, again):
        await client.close()


@pytest.mark.parametrize(
    "query",
    [
        "since=nothing",
        "since=@1-1",
        "since=user:a@",
        "since=user:a@1",
        "since=user:a@1-1-1",
        "since=nobody@1-1",
        "since=user:a@0-0&since=bad",
        "topics=a%20b",
        "topics=é",
        "topics=" + "x" * 201,
        "topics=a*",
        # More than are read: what the rest says must not be passed over in silence.
        "&".join(["since=all@0-0"] * 1200),
    ],
)
async def test_bad_since_or_topics_is_400(herald: Herald, query: str) -> None:
    assert (await status_of(herald, "header", query=query))[0] == 400


@pytest.mark.parametrize("key", ["positions", "topics"])
async def test_bad_connect_is_answered_with_error_and_may_be_repeated(
    herald: Herald, key: str
) -> None:
    bad: Any = {"nobody": "1-1"} if key == "positions" else ["a b"]
    client = await open_herald(herald, **{key: bad})
    assert (await client.expect("error"))["code"] == "invalid_message"
    await client.send(type="connect", token=mint())
    await client.expect("welcome")
    await client.close()


async def test_since_is_split_at_the_last_at(
    herald: Herald, user: str, new_name: Callable[[], str]
) -> None:
    topic = f"{new_name()}@home"
    position = herald.publish(f"topic:{topic}", 1)["positions"][f"topic:{topic}"]
    herald.publish(f"topic:{topic}", 2)
    since = [quote(f"topic:{topic}@{position}"), quote(f"user:{user}@0-0")]
    query = f"topics={topic}&since={since[0]}&since={since[1]}"
    client = await open_plain(herald, query, token=mint(user, topics=[topic]))
    channels = (await client.expect("welcome"))["channels"]
    assert channels[f"topic:{topic}"] == {"position": position, "recovered": True}
    assert channels[f"user:{user}"]["recovered"] is True
    assert (await client.expect("event"))["data"] == 2
    await client.close()


async def test_last_position_that_can_be_written_is_a_gap(herald: Herald, user: str) -> None:
    herald.publish(f"user:{user}", 1)
    last = f"{2**64 - 1}-{2**64 - 1}"
    client = await open_plain(herald, f"since=user:{user}@{last}", token=mint(user))
    assert (await client.expect("welcome"))["channels"][f"user:{user}"]["recovered"] is False
    assert (await client.expect("gap"))["from"] == last
    assert (await client.expect("event"))["data"] == 1
    await client.close()


async def test_api_port_takes_the_api_from_the_client_port(start: Callable[..., Herald]) -> None:
    from tests.harness.process import free_port

    herald = start(api_port=str(free_port()))
    for method, path in (
        ("POST", "/v1/events"),
        ("POST", "/v1/events/batch"),
        ("GET", "/v1/channels/all/events"),
        ("GET", "/metrics"),
        ("GET", "/healthz/live"),
        ("GET", "/healthz/ready"),
        ("GET", "/openapi.json"),
    ):
        headers = {"authorization": f"Bearer {KEY}", "content-length": "0"}
        status, _, body = exchange(herald.port, request_bytes(method, path, headers))
        assert status == 404
        check_problem(json.loads(body), 404)
    assert exchange(herald.port, request_bytes("GET", "/v1/ws", {}))[0] == 426
    client = await open_plain(herald, token=mint("split"))
    await client.expect("welcome")
    herald.publish("user:split", 1)
    await client.expect("event")
    await client.close()
    assert herald.get("/metrics").status_code == 200
    # And no client comes in where the API is.
    herald.port, client_port = herald.api_port, herald.port
    with pytest.raises(InvalidStatus) as caught:
        await open_plain(herald)
    assert caught.value.response.status_code in (403, 404)
    herald.port = client_port


async def test_who_comes_to_the_wrong_port_is_told_of_the_other_one_and_not_which(
    start: Callable[..., Herald],
) -> None:
    from tests.harness.process import free_port

    herald = start(api_port=str(free_port()))
    ports = {str(herald.port), str(herald.api_port)}

    def told(port: int, method: str, path: str, upgrade: bool = False) -> str:
        headers = {"authorization": f"Bearer {KEY}"}
        if method == "POST":
            headers["content-length"] = "0"
        if upgrade:
            headers |= {
                "connection": "Upgrade",
                "upgrade": "websocket",
                "sec-websocket-version": "13",
                "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
            }
        status, _, body = exchange(port, request_bytes(method, path, headers))
        assert status == 404
        detail: str = check_problem(json.loads(body), 404)["detail"]
        assert not any(number in detail for number in ports)
        return detail

    described = json.loads(exchange(herald.api_port, request_bytes("GET", "/openapi.json", {}))[2])
    paths = set(described["paths"]) - {"/v1/stream"} | {"/openapi.json"}
    for path in paths:
        path = path.replace("{channel}", "user:alice")
        for method in ("GET", "POST"):
            assert (
                told(herald.port, method, path) == "The API is on another port (HERALD_API_PORT)."
            )
    clients = "Clients connect to another port (HERALD_PORT)."
    assert told(herald.api_port, "GET", "/v1/ws") == clients
    assert told(herald.api_port, "GET", "/v1/ws", upgrade=True) == clients
    assert told(herald.api_port, "GET", "/v1/stream?topics=a") == clients
    assert told(herald.api_port, "GET", "/v1/event").endswith("/openapi.json says what there is.")
    assert told(herald.port, "GET", "/") == "There is nothing here but /v1/ws and /v1/stream."
    for port in (herald.port, herald.api_port):
        assert told(port, "GET", "/ws", upgrade=True).endswith("it is at /v1/ws.")


def test_wrong_path_or_method_is_told_where_to_look(herald: Herald) -> None:
    for path in ("/", "/v1/event", "/v1/events/", "/v1/channels/user:alice", "/health"):
        status, _, body = exchange(herald.port, request_bytes("GET", path, {}))
        detail = check_problem(json.loads(body), status)["detail"]
        assert (status, detail) == (
            404,
            "There is nothing here; /openapi.json says what there is.",
        )
    status, headers, body = exchange(herald.port, request_bytes("GET", "/v1/events", {}))
    assert (status, headers["allow"]) == (405, "POST")
    detail = check_problem(json.loads(body), 405)["detail"]
    assert detail == "GET is not allowed here; POST is."


async def test_other_path_is_no_websocket(herald: Herald) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await connect(herald.ws_url + "/x", proxy=None)
    assert caught.value.response.status_code == 404
