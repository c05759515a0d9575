"""`POST /v1/events/batch`: one result per event, in order, whatever the others are."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.edge.wire import (
    AUTHORIZED,
    check_problem,
    open_socket,
    problem,
    read_answer,
    request_bytes,
)
from tests.harness.process import Herald, eventually

PATH = "/v1/events/batch"
NDJSON = "application/x-ndjson"
LIMIT = 65536


def event(to: str, data: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"to": to, "type": "t", "data": data, **fields}


def lines(events: list[Any]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in events)


def results(herald: Herald, events: Any, kind: str = NDJSON) -> list[dict[str, Any]]:
    """The results of a batch that is answered with 200."""
    body = events
    if isinstance(events, list):
        body = lines(events) if kind == NDJSON else {"events": events}
    answer = herald.post(PATH, body, content_type=kind)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def stored(herald: Herald, channel: str) -> list[Any]:
    """The data of every retained event."""
    page = herald.get(f"/v1/channels/{channel}/events", limit="1000").json()
    return [entry["data"] for entry in page["events"]]


BOTH = pytest.mark.parametrize("kind", [NDJSON, "application/json"])


@pytest.fixture
def topic(new_name: Callable[[], str]) -> str:
    return f"topic:{new_name()}"


@BOTH
def test_results_are_what_single_posts_would_have_been(
    herald: Herald, topic: str, kind: str
) -> None:
    events = [
        event(topic, 0),
        event("nobody"),
        event(topic, 1, id=f"{topic}-id"),
        event(topic, 1, id=f"{topic}-id"),
        event(topic, 2, id=f"{topic}-id"),
        event(topic, "x" * LIMIT),
        {},
        5,
        event([topic, "topic:other"], 3),
    ]
    found = results(herald, events, kind)
    assert len(found) == len(events)
    statuses = {1: 400, 4: 422, 5: 413, 6: 400, 7: 400}
    for index, result in enumerate(found):
        if index in statuses:
            assert list(result) == ["problem"]
            check_problem(result["problem"], statuses[index])
        else:
            assert list(result) == ["id", "positions", "duplicate"]
            assert result["duplicate"] is (index == 3)
    assert found[3]["positions"] == found[2]["positions"]
    assert stored(herald, topic) == [0, 1, 3]


@BOTH
def test_events_of_a_channel_keep_their_order(
    herald: Herald, new_name: Callable[[], str], start: Callable[..., Herald], kind: str
) -> None:
    topics = [f"topic:{new_name()}" for _ in range(3)]
    events = [event(topics[number % 3], number) for number in range(300)]
    found = results(herald, events, kind)
    assert all("problem" not in result for result in found)
    for index, topic in enumerate(topics):
        assert stored(herald, topic) == list(range(index, 300, 3))
        sequence = [int(r["positions"][topic].partition("-")[2]) for r in found[index::3]]
        assert sequence == list(range(sequence[0], sequence[0] + 100))


@BOTH
@pytest.mark.parametrize("count", [0, 1, 255, 256, 257])
def test_any_number_of_events_gets_as_many_results(
    herald: Herald, topic: str, kind: str, count: int
) -> None:
    assert len(results(herald, [event(topic, n) for n in range(count)], kind)) == count


@BOTH
def test_ten_thousand_events_are_taken_and_one_more_is_413(
    herald: Herald, topic: str, kind: str
) -> None:
    many = [event(topic, n) for n in range(10_000)]
    found = results(herald, many, kind)
    assert len(found) == 10_000
    assert len({result["positions"][topic] for result in found}) == 10_000
    more = [*many, event(topic)]
    body: Any = lines(more) if kind == NDJSON else {"events": more}
    document = problem(herald.post(PATH, body, content_type=kind), 413)
    # What a stream had stored before is told; a document is refused as a whole.
    assert len(document.get("results", [])) == (10_000 if kind == NDJSON else 0)


@pytest.mark.parametrize(
    "body",
    [b"", b"5", b"[]", b"{}", b'{"events":5}', b'{"events":[],"more":1}', b'{"events":[1,]}', b"{"],
)
def test_json_of_another_shape_is_400(herald: Herald, body: bytes) -> None:
    problem(herald.post(PATH, body), 400)


def test_other_content_type_is_415(herald: Herald) -> None:
    answer = herald.post(PATH, {"events": []}, content_type="text/plain")
    problem(answer, 415)
    assert answer.headers["accept"] == f"application/json, {NDJSON}"


# NDJSON, line by line


def test_lines_may_end_with_crlf_be_empty_and_lack_the_last_end(herald: Herald, topic: str) -> None:
    one, two, three = (json.dumps(event(topic, n)).encode() for n in range(3))
    body = b"\r\n" + one + b"\r\n\r\n  \n" + two + b"\n\n\n" + three
    assert len(results(herald, body)) == 3
    assert stored(herald, topic) == [0, 1, 2]


def _of_size(topic: str, size: int) -> bytes:
    frame = json.dumps(event(topic, "%s"))
    return (frame % ("x" * (size - len(frame) + 2))).encode()


def test_bad_and_too_long_lines_do_not_stop_the_others(herald: Herald, topic: str) -> None:
    good = json.dumps(event(topic)).encode()
    at_limit, over = _of_size(topic, LIMIT), _of_size(topic, LIMIT + 1)
    body = b"\n".join(
        [good, b"{", over, good, at_limit, b"\xff", over * 3, good, b"null", b'{"a', b'b"}', over]
    )
    expected = [0, 400, 413, 0, 0, 400, 413, 0, 400, 400, 400, 413]
    found = results(herald, body)
    assert [r["problem"]["status"] if "problem" in r else 0 for r in found] == expected
    assert len(stored(herald, topic)) == 4


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _begin_stream(sock: socket.socket) -> None:
    headers = {**AUTHORIZED, "content-type": NDJSON, "transfer-encoding": "chunked"}
    sock.sendall(request_bytes("POST", PATH, headers))


@pytest.fixture
def stream(herald: Herald) -> Iterator[socket.socket]:
    """A connection on which a chunked NDJSON batch has begun."""
    with open_socket(herald.port) as sock:
        _begin_stream(sock)
        yield sock


def _answer(sock: socket.socket) -> tuple[int, Any]:
    status, _, body = read_answer(sock)
    return status, json.loads(body)


async def test_events_are_stored_while_the_stream_is_still_arriving(
    herald: Herald, topic: str, stream: socket.socket
) -> None:
    # Pieces that end anywhere but at a line's end.
    body = lines([event(topic, n) for n in range(20)])
    half = len(body) // 2 + 7
    for at in range(0, half, 11):
        stream.sendall(_chunk(body[at : min(at + 11, half)]))
    await eventually(lambda: len(stored(herald, topic)) >= 9, "the first events")
    stream.sendall(_chunk(body[half:]) + b"0\r\n\r\n")
    status, answer = _answer(stream)
    assert status == 200
    assert len(answer["results"]) == 20
    assert stored(herald, topic) == list(range(20))


async def test_over_long_line_is_passed_over_while_it_arrives(
    herald: Herald, topic: str, stream: socket.socket
) -> None:
    before = json.dumps(event(topic, "before")).encode()
    stream.sendall(_chunk(before + b'\n{"to":"'))
    for _ in range(30):
        stream.sendall(_chunk(b"x" * 10_000))
    stream.sendall(_chunk(b'"}\n' + lines([event(topic, "after")])) + b"0\r\n\r\n")
    status, answer = _answer(stream)
    assert status == 200
    assert [r.get("problem", {}).get("status") for r in answer["results"]] == [None, 413, None]
    assert stored(herald, topic) == ["before", "after"]


async def test_events_before_the_client_went_away_are_stored_and_nothing_else(
    herald: Herald, topic: str
) -> None:
    with open_socket(herald.port) as sock:
        _begin_stream(sock)
        whole = lines([event(topic, n) for n in range(300)])
        sock.sendall(_chunk(whole + json.dumps(event(topic, "cut")).encode()[:-3]))
        await eventually(lambda: len(stored(herald, topic)) == 100, "the events")  # HISTORY_SIZE
    await asyncio.sleep(0.1)
    assert stored(herald, topic)[-1] == 299
    assert herald.is_ready()


@pytest.fixture
def small(start: Callable[..., Herald]) -> Herald:
    """Takes batches of 2,000 bytes."""
    return start(max_batch_bytes="2000")


async def test_batch_over_its_bytes_is_413(small: Herald, new_name: Callable[[], str]) -> None:
    topic = f"topic:{new_name()}"
    one = lines([event(topic, "x" * 400)])
    for kind, body in ((NDJSON, one * 6), ("application/json", b" " * 2001)):
        document = problem(small.post(PATH, body, content_type=kind), 413)
        assert "2000" in document["detail"]
        assert "results" not in document
    assert stored(small, topic) == [], "its Content-Length said it all, so nothing was read"
    with open_socket(small.port) as sock:
        _begin_stream(sock)
        sock.sendall(_chunk(one) + _chunk(one))
        await eventually(lambda: len(stored(small, topic)) == 2, "the first two")
        sock.sendall(_chunk(one * 4))
        status, document = _answer(sock)
    assert status == 413
    check_problem(document, 413)
    # Without a length it is found on the way: the sender learns what is stored.
    assert [list(result["positions"]) for result in document["results"]] == [[topic], [topic]]
    assert len(stored(small, topic)) == 2
    with open_socket(small.port) as sock:
        headers = {**AUTHORIZED, "transfer-encoding": "chunked"}
        sock.sendall(request_bytes("POST", PATH, headers) + _chunk(b" " * 2001) + b"0\r\n\r\n")
        assert _answer(sock)[0] == 413


def test_events_of_a_channel_keep_their_order_where_there_is_too_much_on_its_way(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(max_pending_bytes="3000")
    other = user + "-other"
    events = [
        {"to": f"user:{name}", "type": "t", "data": "x" * size, "id": f"{number}"}
        for number, (name, size) in enumerate([(user, 2000), (user, 2000), (user, 1), (other, 1)])
    ]
    # What is too much at once depends on the moment, so the rest is repeated as publishers do.
    left, statuses = list(events), []
    while left:
        results = herald.post("/v1/events/batch", {"events": left}).json()["results"]
        failed = [r.get("problem", {}).get("status") for r in results]
        statuses += failed
        left = [event for event, status in zip(left, failed, strict=True) if status]
    assert 429 in statuses
    stored = herald.get(f"/v1/channels/user:{user}/events").json()["events"]
    assert [len(event["data"]) for event in stored] == [2000, 2000, 1]
