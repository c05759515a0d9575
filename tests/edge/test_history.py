"""`GET /v1/channels/{channel}/events`: every retained event, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from tests.edge.wire import AUTHORIZED, exchange, problem, request_bytes
from tests.harness.process import KEY, PATIENCE, Herald, eventually


@pytest.fixture
def topic(new_name: Callable[[], str]) -> str:
    return f"topic:{new_name()}"


def page(herald: Herald, channel: str, **params: str) -> dict[str, Any]:
    answer = herald.get(f"/v1/channels/{quote(channel, safe='')}/events", **params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def test_event_has_its_position_type_data_and_time(herald: Herald, topic: str) -> None:
    position = herald.publish(topic, {"a": 1}, type="order.shipped")["positions"][topic]
    found = page(herald, topic)
    assert found["next"] is None
    (entry,) = found["events"]
    assert list(entry) == ["id", "event", "data", "time"]
    assert (entry["id"], entry["event"], entry["data"]) == (position, "order.shipped", {"a": 1})
    assert entry["time"].endswith("Z")


@pytest.mark.parametrize("limit", [1, 3, 7, 25, 26, 1000])
def test_pages_follow_each_other_without_hole_or_overlap(
    herald: Herald, topic: str, limit: int
) -> None:
    for number in range(25):
        herald.publish(topic, number)
    seen: list[int] = []
    params = {"limit": str(limit)}
    while True:
        found = page(herald, topic, **params)
        assert len(found["events"]) <= limit
        seen += [entry["data"] for entry in found["events"]]
        if found["next"] is None:
            break
        assert found["next"] == found["events"][-1]["id"]
        params["after"] = found["next"]
    assert seen == list(range(25))


def test_page_of_large_events_is_filled_up_to_the_limit(herald: Herald, topic: str) -> None:
    # More than one read of the engine's can bring.
    for number in range(12):
        herald.publish(topic, str(number).ljust(60_000, "x"))
    found = page(herald, topic, limit="11")
    assert len(found["events"]) == 11
    assert found["next"] is not None
    assert len(page(herald, topic)["events"]) == 12


def test_default_limit_is_100(start: Callable[..., Herald], topic: str) -> None:
    herald = start(history_size="150")
    events = b"".join(b'{"to":"%b","type":"t"}\n' % topic.encode() for _ in range(150))
    herald.post("/v1/events/batch", events, content_type="application/x-ndjson")
    assert len(page(herald, topic)["events"]) == 100
    assert len(page(herald, topic, limit="1000")["events"]) == 150


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "-1"},
        {"limit": "1.5"},
        {"limit": "ten"},
        {"limit": ""},
        {"limit": "１"},
        {"limit": "²"},
        {"limit": "1" * 5000},
        {"after": ""},
        {"after": "5"},
        {"after": "1-"},
        {"after": "-1"},
        {"after": "01-1"},
        {"after": "1-1-1"},
        {"after": "18446744073709551616-0"},
        {"after": "１-１"},
        {"after": "1" * 5000},
    ],
)
def test_bad_limit_or_position_is_400(herald: Herald, topic: str, params: dict[str, str]) -> None:
    detail = problem(herald.get(f"/v1/channels/{topic}/events", **params), 400)["detail"]
    assert len(detail) < 300


@pytest.mark.parametrize("after", [None, "0-0"])
def test_from_the_beginning_everything_retained_follows_without_a_gap(
    herald: Herald, topic: str, after: str | None
) -> None:
    herald.publish(topic, 1)
    found = page(herald, topic, **({} if after is None else {"after": after}))
    assert [entry["data"] for entry in found["events"]] == [1]
    assert "gap" not in found


def test_position_that_the_log_does_not_know_is_told_as_a_gap(herald: Herald, topic: str) -> None:
    positions = [herald.publish(topic, n)["positions"][topic] for n in range(3)]
    epoch, _, seq = positions[-1].partition("-")
    for after in (
        f"{epoch}-{int(seq) + 1}",
        f"{int(epoch) + 1}-0",
        "1-5",
        f"{2**64 - 1}-{2**64 - 1}",
    ):
        found = page(herald, topic, after=after)
        assert found["gap"] is True
        assert [entry["data"] for entry in found["events"]] == [0, 1, 2]
    at_the_end = page(herald, topic, after=positions[-1])
    assert at_the_end == {"events": [], "next": None}
    assert [e["data"] for e in page(herald, topic, after=positions[0])["events"]] == [1, 2]


def test_position_whose_followers_are_trimmed_is_told_as_a_gap(
    start: Callable[..., Herald], topic: str
) -> None:
    herald = start(history_size="3")
    positions = [herald.publish(topic, n)["positions"][topic] for n in range(6)]
    trimmed = page(herald, topic, after=positions[1])
    assert trimmed["gap"] is True
    assert [entry["data"] for entry in trimmed["events"]] == [3, 4, 5]
    # The event after this one is the oldest retained: nothing is missing.
    assert page(herald, topic, after=positions[2]).get("gap") is None


def test_channel_without_events_is_an_empty_page(herald: Herald, topic: str) -> None:
    assert page(herald, topic) == {"events": [], "next": None}


async def test_event_whose_ttl_has_passed_is_left_out_and_is_no_gap(
    herald: Herald, topic: str
) -> None:
    first = herald.publish(topic, "stays")["positions"][topic]
    herald.publish(topic, "goes", ttl=0.05)
    herald.publish(topic, "stays too", ttl=3600)
    await eventually(lambda: len(page(herald, topic)["events"]) == 2, "the expiry")
    found = page(herald, topic, after=first)
    assert [entry["data"] for entry in found["events"]] == ["stays too"]
    assert "gap" not in found
    found = page(herald, topic, limit="1", after=first)
    assert found["next"] is None or page(herald, topic, after=found["next"])["events"]


@pytest.mark.parametrize(
    "name",
    [
        "topic:a/b/events",
        "topic:a//b/",
        "topic:../../x",
        "topic:a:b@c.d-e_f",
        "user:a/b",
        "user:50%",
        "user:%2F",
        "user:%",
        "user:a?b=c&d#e",
        "user:a b+c",
        "user:zoë€😀",
        "user:..",
        "user:/",
        "user:a;b,c",
        "user:events",
        'user:"quoted"\\',
    ],
)
def test_channel_of_any_name_is_read_back(
    herald: Herald, new_name: Callable[[], str], name: str
) -> None:
    channel = f"{name}{new_name()}"
    herald.publish(channel, channel)
    (entry,) = page(herald, channel)["events"]
    assert entry["data"] == channel
    # Slashes need not be escaped.
    path = f"/v1/channels/{quote(channel, safe='/:@')}/events"
    status, _, body = exchange(herald.port, request_bytes("GET", path, AUTHORIZED))
    assert status == 200
    assert entry["id"].encode() in body


@pytest.mark.parametrize(
    "name",
    [
        "alice",
        "user:",
        "topic:",
        "topic:a b",
        "topic:é",
        "group:a",
        "user:a%00",
        "user:a%0A",
        "%FF",
    ],
)
def test_no_channel_is_400(herald: Herald, name: str) -> None:
    path = f"{herald.url}/v1/channels/{name}/events"
    answer = httpx2.get(path, headers={"authorization": f"Bearer {KEY}"}, timeout=PATIENCE)
    problem(answer, 400)


@pytest.mark.parametrize("path", ["/v1/channels/all", "/v1/channels/all/other", "/v1/channels"])
def test_other_path_is_404(herald: Herald, path: str) -> None:
    problem(herald.get(path), 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_method_is_405(herald: Herald, method: str) -> None:
    url = f"{herald.url}/v1/channels/all/events"
    problem(httpx2.request(method, url, headers=AUTHORIZED, timeout=PATIENCE), 405)


async def test_reading_while_events_are_published_misses_none(herald: Herald, topic: str) -> None:
    async def publish() -> None:
        for number in range(60):
            await asyncio.to_thread(herald.publish, topic, number)

    publishing = asyncio.ensure_future(publish())
    seen: list[int] = []
    after = "0-0"
    async with asyncio.timeout(PATIENCE):
        while len(seen) < 60:
            found = await asyncio.to_thread(page, herald, topic, after=after, limit="7")
            seen += [entry["data"] for entry in found["events"]]
            after = found["events"][-1]["id"] if found["events"] else after
            assert "gap" not in found
    await publishing
    assert seen == list(range(60))
