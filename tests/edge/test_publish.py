"""`POST /v1/events`: what is taken, what is refused, and that data comes out as it went in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.edge.wire import AUTHORIZED, check_problem, exchange, problem, request_bytes
from tests.harness.process import KEY, PATIENCE, Herald, mint

LIMIT = 65536


def last_event(herald: Herald, channel: str) -> bytes:
    """The channel's newest entry, as the bytes of the history page."""
    return herald.get(f"/v1/channels/{channel}/events", limit="1000").content


def event(**fields: Any) -> dict[str, Any]:
    """A good event with changes; `...` takes a field away."""
    body = {"to": "topic:refused", "type": "t", "data": 1, **fields}
    return {key: value for key, value in body.items() if value is not ...}


GOOD = {
    "type of 200 characters": event(type="x" * 200),
    "type of 200 signs": event(type="é" * 200),
    "id of 255 characters": event(id="x" * 255),
    "id of 255 signs": event(id="€" * 255),
    "id null": event(id=None),
    "ttl null": event(ttl=None),
    "ttl of a millisecond": event(ttl=0.001),
    "ttl tiny": event(ttl=1e-9),
    "ttl of ten years": event(ttl=315360000),
    "data missing": event(data=...),
    "data null": event(data=None),
    "user of 255 bytes": event(to="user:" + "x" * 255),
    "user of 85 signs of three bytes": event(to="user:" + "€" * 85),
    "user with everything": event(to="user:a/b c%d?e#f:g@h*"),
    "topic of 200": event(to="topic:" + "x" * 200),
    "topic of every sign": event(to="topic:Az09._:@/-"),
    "everyone": event(to="all"),
    "a list of one": event(to=["topic:a"]),
    "the same channel twice": event(to=["topic:a", "topic:a"]),
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD.keys())
def test_event_at_its_limits_is_accepted(herald: Herald, body: dict[str, Any]) -> None:
    body = dict(body)
    if body.get("id"):
        # The id is made this test's own: ids hold for five minutes, and tests run twice.
        body["id"] = str(time.time_ns()) + body["id"][len(str(time.time_ns())) :]
    answer = herald.post("/v1/events", body)
    assert answer.status_code == 202, answer.text
    assert answer.headers["content-type"] == "application/json"
    result = answer.json()
    channels = [body["to"]] if isinstance(body["to"], str) else body["to"]
    assert set(result["positions"]) == set(channels)
    assert result["duplicate"] is False
    assert result["id"] == body["id"] if body.get("id") else result["id"]


def raw(text: str) -> bytes:
    return text.encode()


BAD: dict[str, Any] = {
    "empty": b"",
    "white space": b"  \n",
    "not JSON": b"{to:1}",
    "JSON and more": b'{"to":"all","type":"t"} x',
    "two documents": b'{"to":"all","type":"t"}{"to":"all","type":"t"}',
    "cut off": b'{"to":"all","type":"t"',
    "a trailing comma": b'{"to":"all","type":"t",}',
    "NaN": b'{"to":"all","type":"t","data":NaN}',
    "Infinity": b'{"to":"all","type":"t","data":[Infinity]}',
    "bare control character": b'{"to":"all","type":"t","data":"a\nb"}',
    "not UTF-8": b'{"to":"all","type":"t","data":"\xff"}',
    "UTF-16": '{"to":"all","type":"t"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"to":"all","type":"t"}',
    "surrogate in UTF-8": b'{"to":"all","type":"t","data":"\xed\xa0\x80"}',
    "lone surrogate as type": b'{"to":"all","type":"\\ud800"}',
    "lone surrogate as id": b'{"to":"all","type":"t","id":"\\ud800"}',
    "lone surrogate as user": b'{"to":"user:\\ud800","type":"t"}',
    "lone surrogate in data": b'{"to":"all","type":"t","data":"\\ud800"}',
    "nested deeply": b'{"to":"all","type":"t","data":' + b"[" * 30000 + b"]" * 30000 + b"}",
    "nested deeply and open": b"[" * 60000,
    "a list": [],
    "a text": "all",
    "null": None,
    "a number": 5,
    "unknown field": event(priority=1),
    "field in other case": event(TO="all"),
    "to missing": event(to=...),
    "to null": event(to=None),
    "to a number": event(to=5),
    "to an object": event(to={"user": "a"}),
    "to an empty list": event(to=[]),
    "to a list of numbers": event(to=["all", 5]),
    "to a list of lists": event(to=[["all"]]),
    "to empty": event(to=""),
    "to without a kind": event(to="alice"),
    "to of an unknown kind": event(to="group:a"),
    "to in other case": event(to="User:a"),
    "to with white space": event(to=" all"),
    "to a user without a name": event(to="user:"),
    "to a user of 256 bytes": event(to="user:" + "x" * 256),
    "to a user of 256 bytes in 128 signs": event(to="user:" + "é" * 128),
    "to a user with a newline": event(to="user:a\n"),
    "to a user with a NUL": event(to="user:\x00"),
    "to a topic without a name": event(to="topic:"),
    "to a topic of 201": event(to="topic:" + "x" * 201),
    "to a topic with a space": event(to="topic:a b"),
    "to a topic with a newline": event(to="topic:a\n"),
    "to a topic pattern": event(to="topic:a*"),
    "to a topic, not ASCII": event(to="topic:é"),
    "one bad channel of many": event(to=["all", "topic:a", "nobody"]),
    "1,001 channels": event(to=[f"topic:t{n}" for n in range(1001)]),
    "1,001 times the same channel": event(to=["topic:a"] * 1001),
    "type missing": event(type=...),
    "type null": event(type=None),
    "type a number": event(type=1),
    "type empty": event(type=""),
    "type of 201": event(type="x" * 201),
    "type with a tab": event(type="a\tb"),
    "id empty": event(id=""),
    "id a number": event(id=17),
    "id of 256": event(id="x" * 256),
    "id with a newline": event(id="a\nb"),
    "ttl zero": event(ttl=0),
    "ttl negative": event(ttl=-1),
    "ttl a text": event(ttl="60"),
    "ttl true": event(ttl=True),
    "ttl over ten years": event(ttl=315360001),
    "ttl huge": b'{"to":"all","type":"t","ttl":1e400}',
    "ttl of 400 digits": b'{"to":"all","type":"t","ttl":' + b"9" * 400 + b"}",
    "ttl that is zero as a number": b'{"to":"all","type":"t","ttl":1e-400}',
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_bad_event_is_400_with_what_is_wrong(herald: Herald, body: Any) -> None:
    detail = problem(herald.post("/v1/events", body), 400)["detail"]
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
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/events"),
        ("POST", "/v1/events/batch"),
        ("GET", "/v1/channels/all/events"),
    ],
)
def test_without_a_good_credential_it_is_401(
    herald: Herald, method: str, path: str, credential: str | None
) -> None:
    headers = {"content-type": "application/json"}
    if credential is not None:
        headers["authorization"] = credential
    answer = httpx2.request(method, herald.url + path, headers=headers, timeout=PATIENCE)
    problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("scope", [None, "read", ["read"], "publisher"])
def test_user_token_is_not_a_publisher(herald: Herald, scope: Any) -> None:
    token = mint(scope=scope)
    for path in ("/v1/events", "/v1/events/batch"):
        problem(herald.post(path, event(), authorization=f"Bearer {token}"), 403)


def test_service_token_with_the_scope_publishes(herald: Herald) -> None:
    token = mint("billing", scope="read publish")
    assert herald.post("/v1/events", event(), authorization=f"Bearer {token}").status_code == 202


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-ndjson", "application/xml", "multipart/form-data", "json"],
)
def test_other_content_type_is_415_and_says_which(herald: Herald, kind: str) -> None:
    answer = herald.post("/v1/events", event(), content_type=kind)
    assert "application/json" in problem(answer, 415)["detail"]
    assert answer.headers["accept"] == "application/json"


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/json ;a=b"]
)
def test_content_type_may_have_parameters_and_any_case(herald: Herald, kind: str) -> None:
    assert herald.post("/v1/events", event(), content_type=kind).status_code == 202


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/batch"])
def test_other_method_is_405(herald: Herald, method: str, path: str) -> None:
    answer = httpx2.request(method, herald.url + path, headers=AUTHORIZED, timeout=PATIENCE)
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/event", "/v2/events", "/v1/events/x", "/docs", "/%2e%2e/v1/events"]
)
def test_unknown_path_is_404(herald: Herald, path: str) -> None:
    problem(herald.post(path, event()), 404)
    problem(httpx2.get(herald.url + path, timeout=PATIENCE), 404)


DATA = {
    "big integer": "123456789012345678901234567890",
    "integer beyond a double": "9007199254740993",
    "negative zero": "-0.0",
    "negative integer zero": "-0",
    "infinite as a double": "1e400",
    "many digits": "0.1000000000000000055511151231257827021181583404541015625",
    "exponent": "1E+2",
    "trailing zeros": "1.00",
    "text": '"grüße €😀"',
    "escapes": r'"\u00e9\n\"\\\/\b\f\r\t\u0000\ud83d\ude00"',
    "line separators": '"\u2028\u2029"',
    "white space": '{ "a" : [ 1 , 2 ] }',
    "the same key twice": '{"a":1,"a":2}',
    "order of keys": '{"b":1,"a":2}',
    "empty key": '{"":{"":[]}}',
    "literals": "[true,false,null]",
    "text that looks like a frame": r'"\",\"time\":\"x\"}"',
    "empty text": '""',
    "nested": "[" * 500 + "]" * 500,
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA.keys())
def test_data_is_unharmed(herald: Herald, new_name: Callable[[], str], data: str) -> None:
    channel = f"topic:{new_name()}"
    body = f'{{"to":"{channel}","type":"t","data":{data}}}'.encode()
    assert herald.post("/v1/events", body).status_code == 202
    assert f'"data":{data},"time":'.encode() in last_event(herald, channel)


def _of_size(channel: str, size: int) -> bytes:
    frame = f'{{"to":"{channel}","type":"t","data":"%s"}}'
    return (frame % ("x" * (size - len(frame % "")))).encode()


def _chunked(body: bytes) -> bytes:
    headers = {**AUTHORIZED, "transfer-encoding": "chunked"}
    chunks = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return request_bytes("POST", "/v1/events", headers, framed + b"0\r\n\r\n")


def test_event_of_exactly_the_limit_is_accepted_and_one_byte_more_is_413(
    herald: Herald, new_name: Callable[[], str]
) -> None:
    channel = f"topic:{new_name()}"
    for send in (
        lambda body: herald.post("/v1/events", body).status_code,
        lambda body: exchange(herald.port, _chunked(body))[0],
    ):
        assert send(_of_size(channel, LIMIT)) == 202
        assert send(_of_size(channel, LIMIT + 1)) == 413
    detail = problem(herald.post("/v1/events", _of_size(channel, LIMIT + 1)), 413)["detail"]
    assert str(LIMIT) in detail
    assert last_event(herald, channel).count(b'"event"') == 2


def test_body_that_says_it_is_too_large_is_refused_unread(herald: Herald) -> None:
    headers = {**AUTHORIZED, "content-length": "1000000000000"}
    status, _, body = exchange(herald.port, request_bytes("POST", "/v1/events", headers, b"{"))
    assert status == 413
    check_problem(json.loads(body), 413)


def test_event_to_1000_channels_is_stored_on_each(
    herald: Herald, new_name: Callable[[], str]
) -> None:
    channels = [f"topic:{new_name()}" for _ in range(1000)]
    positions = herald.publish(channels, "x")["positions"]
    assert list(positions) == channels
    for channel in (channels[0], channels[999]):
        page = herald.get(f"/v1/channels/{channel}/events").json()
        assert [event["id"] for event in page["events"]] == [positions[channel]]


def test_channel_named_twice_gets_the_event_once(
    herald: Herald, new_name: Callable[[], str]
) -> None:
    channel = f"topic:{new_name()}"
    assert len(herald.publish([channel, channel, channel])["positions"]) == 1
    assert len(herald.get(f"/v1/channels/{channel}/events").json()["events"]) == 1


def test_too_many_events_in_flight_are_429_with_retry_after(start: Callable[..., Herald]) -> None:
    herald = start(max_pending_events="2")
    answer = herald.post("/v1/events", event(to=["topic:a", "topic:b", "topic:c"]))
    problem(answer, 429)
    assert int(answer.headers["retry-after"]) >= 1
    assert herald.post("/v1/events", event()).status_code == 202


# Idempotency


@pytest.mark.parametrize(
    ("in_body", "header"),
    [
        ("{}", None),
        (None, "{}"),
        (None, '"{}"'),
        ("{}", "{}"),
        ("{}", '"{}"'),
    ],
)
def test_same_id_answers_the_first_positions_however_it_is_given(
    herald: Herald, new_name: Callable[[], str], in_body: str | None, header: str | None
) -> None:
    name = new_name()
    channel = f"topic:{name}"
    first = herald.publish(channel, {"a": 1, "b": 2}, id=f"id {name}")
    body: Any = event(to=channel, type="test", data={"b": 2, "a": 1})
    if in_body is not None:
        body["id"] = in_body.replace("{}", f"id {name}")
    headers = {"idempotency_key": header.replace("{}", f"id {name}")} if header else {}
    answer = herald.post("/v1/events", body, **headers)
    assert answer.status_code == 202
    assert answer.json() == {**first, "duplicate": True}
    assert len(herald.get(f"/v1/channels/{channel}/events").json()["events"]) == 1


@pytest.mark.parametrize(
    ("header", "id"),
    [
        ("a", "b"),
        ('"a"', "b"),
        ("a", '"a"'),
        ("A", "a"),
        ("", None),
        ('""', None),
        ('"a', None),
        ('"a"b', None),
        ('"a\\ud800"', None),
        ('"a\\u0000"', None),
        ("x" * 256, None),
    ],
)
def test_bad_or_different_idempotency_key_is_400(
    herald: Herald, header: str, id: str | None
) -> None:
    body = event() if id is None else event(id=id)
    data = json.dumps(body).encode()
    headers = {**AUTHORIZED, "idempotency-key": header, "content-length": str(len(data))}
    status, _, answer = exchange(herald.port, request_bytes("POST", "/v1/events", headers, data))
    assert status == 400, answer
    check_problem(json.loads(answer), 400)


@pytest.mark.parametrize("changes", [{"data": 2}, {"type": "other"}, {"ttl": 60}, {"data": 1.0}])
def test_same_id_with_another_payload_is_422_and_stores_nothing(
    herald: Herald, new_name: Callable[[], str], changes: dict[str, Any]
) -> None:
    used, fresh = f"topic:{new_name()}", f"topic:{new_name()}"
    key = new_name()
    assert herald.post("/v1/events", event(to=used, id=key)).status_code == 202
    body = event(to=[fresh, used], id=key, **changes)
    assert problem(herald.post("/v1/events", body), 422)["channels"] == [used]
    assert herald.get(f"/v1/channels/{fresh}/events").json()["events"] == []
    assert len(herald.get(f"/v1/channels/{used}/events").json()["events"]) == 1


def test_same_id_delivers_only_where_it_is_new(herald: Herald, new_name: Callable[[], str]) -> None:
    old, new, key = f"topic:{new_name()}", f"topic:{new_name()}", new_name()
    first = herald.publish(old, 1, id=key)
    second = herald.publish([old, new], 1, id=key)
    assert second["duplicate"] is False
    assert second["positions"][old] == first["positions"][old]
    third = herald.publish([old, new], 1, id=key)
    assert third == {**second, "duplicate": True}


def test_ids_of_different_publishers_do_not_meet(
    herald: Herald, new_name: Callable[[], str]
) -> None:
    channel, key = f"topic:{new_name()}", new_name()
    herald.publish(channel, 1, id=key, type="t")
    for service in ("a", "b"):
        token = mint(service, scope="publish")
        for duplicate in (False, True):
            body = event(to=channel, data=service, id=key)
            answer = herald.post("/v1/events", body, authorization=f"Bearer {token}")
            assert answer.status_code == 202, answer.text
            assert answer.json()["duplicate"] is duplicate
    assert len(herald.get(f"/v1/channels/{channel}/events").json()["events"]) == 3


def test_event_without_an_id_is_never_a_duplicate(
    herald: Herald, new_name: Callable[[], str]
) -> None:
    channel = f"topic:{new_name()}"
    first, second = herald.publish(channel, 1), herald.publish(channel, 1)
    assert first["id"] != second["id"]
    assert first["positions"] != second["positions"]
