"""`GET /v1/channels/{channel}/state`: what is retained, and who listens here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import redis
import yaml

from service.broker.embedded import EmbeddedEngine
from tests.contract.checker import problems
from tests.contract.test_documents import ROOT
from tests.edge.wire import problem
from tests.harness.process import (
    KEY,
    PATIENCE,
    Herald,
    eventually,
    free_port,
    mint,
    open_herald,
    open_plain,
    raw_websocket,
)
from tests.harness.streams import streaming

SCHEMA = {"$ref": "#/components/schemas/ChannelState"}
_NOTES = ("description", "examples", "minLength", "maxLength", "format")


def _without_notes(schema: Any) -> Any:
    """Only what the checker checks."""
    if isinstance(schema, list):
        return [_without_notes(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _without_notes(value) for key, value in schema.items() if key not in _NOTES}


_WHOLE = yaml.safe_load((ROOT / "openapi/openapi.yaml").read_text())["components"]["schemas"]
_NAMES = ("ChannelState", "Listener", "Channel", "Position")
DOCUMENT = {"components": {"schemas": {name: _without_notes(_WHOLE[name]) for name in _NAMES}}}


@pytest.fixture
def topic(new_name: Callable[[], str]) -> str:
    return f"topic:{new_name()}"


def state(herald: Herald, channel: str) -> dict[str, Any]:
    answer = herald.get(f"/v1/channels/{quote(channel, safe='')}/state")
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = answer.json()
    assert problems(DOCUMENT, SCHEMA, found) == []
    return found


def test_a_channel_without_events_has_a_position_and_nothing_else(
    herald: Herald, topic: str
) -> None:
    found = state(herald, topic)
    assert found["position"].endswith("-0")
    assert (found["first"], found["retained"], found["last"]) == (None, 0, None)
    here = found["here"]
    assert (here["connections"], here["joining"], here["listeners"]) == (0, 0, [])
    assert (here["position"], here["worker"], here["workers"]) == (None, 0, 1)
    assert here["time"].endswith("Z")
    again = state(herald, topic)
    assert (again["position"], again["here"]["node"]) == (found["position"], here["node"])


def test_what_is_retained_is_told_with_its_ends(start: Callable[..., Herald], topic: str) -> None:
    herald = start(history_size="5")
    positions = [herald.publish(topic, n, type=f"t{n}")["positions"][topic] for n in range(8)]
    found = state(herald, topic)
    assert (found["channel"], found["position"]) == (topic, positions[-1])
    assert (found["first"], found["retained"]) == (positions[3], 5)
    assert (found["last"]["id"], found["last"]["event"]) == (positions[-1], "t7")
    history = herald.get(f"/v1/channels/{topic}/events").json()["events"]
    assert found["last"]["time"] == history[-1]["time"]
    assert "data" not in found["last"]


@pytest.mark.parametrize("data", ['"time":"x"', {"time": "no", "event": 1}, "é\U0001f600", [[[]]]])
def test_the_last_event_is_read_whatever_its_data_is(herald: Herald, topic: str, data: Any) -> None:
    herald.publish(topic, data, type='a "quoted" €')
    told = state(herald, topic)["last"]
    assert told["event"] == 'a "quoted" €'
    assert told["time"].endswith("Z")
    assert len(told["time"]) == len("2026-11-23T06:28:00.123Z")


async def test_a_last_event_that_has_expired_is_not_told(herald: Herald, topic: str) -> None:
    herald.publish(topic, 1, ttl=0.05)
    await eventually(lambda: state(herald, topic)["last"] is None, "the expiry")
    assert state(herald, topic)["retained"] == 1  # it is still there, and is never delivered


def test_events_of_older_epochs_are_counted(
    own_engine: EmbeddedEngine, start: Callable[..., Herald], topic: str
) -> None:
    herald = start(own_engine.url)
    first = herald.publish(topic, 0)["positions"][topic]
    herald.publish(topic, 1)
    # The engine's replication ID changes, as with a promotion: a new epoch begins.
    with redis.Redis.from_url(own_engine.url) as client:
        client.replicaof("127.0.0.1", "1")
        client.replicaof("NO", "ONE")
    herald.wait_ready()
    herald.publish(topic, 2)
    found = state(herald, topic)
    assert found["first"] == first
    assert found["position"].partition("-")[0] != first.partition("-")[0]
    assert found["retained"] == 3


async def test_who_listens_is_told_with_what_is_known(herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    async with streaming(herald, token=mint(user)) as stream:
        client = await open_herald(herald, token=mint(user))
        welcome, of_stream = await client.expect("welcome"), await stream.expect("welcome")
        positions = [herald.publish(channel, n)["positions"][channel] for n in range(3)]
        await client.events(3)
        await stream.events(3)
        await client.send(type="ack", channel=channel, id=positions[1])
        await eventually(lambda: _acked(herald, channel) == [positions[1], None], "the ack")
        here = state(herald, channel)["here"]
        assert (here["connections"], here["joining"]) == (2, 0)
        assert here["position"] == positions[-1]
        of_socket, of_events = here["listeners"]
        assert of_socket["connection"] == welcome["connection"]
        assert of_socket["connection"].startswith(here["node"])
        assert of_events["connection"] == of_stream["connection"]
        assert (of_socket["transport"], of_events["transport"]) == ("websocket", "sse")
        for listener in here["listeners"]:
            assert listener["waiting"] == 0
            assert 0 <= listener["silent"] <= listener["age"] + 0.1 < PATIENCE
        await client.close()
    await eventually(lambda: state(herald, channel)["here"]["connections"] == 0, "both are gone")


def _acked(herald: Herald, channel: str) -> list[str | None]:
    return [one["acked"] for one in state(herald, channel)["here"]["listeners"]]


async def test_an_ack_is_forgotten_with_its_channel(herald: Herald, topic: str, user: str) -> None:
    name = topic.removeprefix("topic:")
    client = await open_herald(herald, token=mint(user, topics=[name + "*"]), topics=[name])
    await client.expect("welcome")
    position = herald.publish(topic, 1)["positions"][topic]
    await client.expect("event")
    await client.send(type="ack", channel=topic, id=position)
    await eventually(lambda: _acked(herald, topic) == [position], "the ack")
    await client.send(type="unsubscribe", topic=name)
    await client.send(type="subscribe", topic=name)
    await client.expect("unsubscribed")
    await client.expect("subscribed")
    assert _acked(herald, topic) == [None]
    await client.close()


async def test_bytes_that_a_client_does_not_take_are_waiting(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(send_queue_bytes="64MiB")
    channel = f"user:{user}"
    async with raw_websocket(herald, mint(user)) as (reader, _):
        await reader.readuntil(b'"welcome"')
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(200):
            herald.publish(channel, "x" * 60_000)
        (listener,) = state(herald, channel)["here"]["listeners"]
        assert listener["waiting"] > 100_000


async def test_a_crowd_is_counted_and_only_the_first_are_described(
    herald: Herald, topic: str, user: str
) -> None:
    name = topic.removeprefix("topic:")
    clients = [await open_plain(herald, token=mint(user, topics=[name])) for _ in range(103)]
    for client in clients:
        await client.expect("welcome")
    here = state(herald, topic)["here"]
    assert (here["connections"], len(here["listeners"])) == (103, 100)
    for client in clients:
        await client.close()


@pytest.mark.parametrize("name", ["user:a/state", "topic:a/events", "user:50%", "user:zoë/€ b"])
def test_a_channel_of_any_name_is_told(
    herald: Herald, new_name: Callable[[], str], name: str
) -> None:
    channel = f"{name}{new_name()}/events"
    position = herald.publish(channel, 1)["positions"][channel]
    assert state(herald, channel)["position"] == position


def test_no_channel_or_a_parameter_is_400(herald: Herald) -> None:
    problem(herald.get("/v1/channels/alice/state"), 400)
    problem(herald.get("/v1/channels/all/state", after="1-1"), 400)


@pytest.mark.parametrize("credential", [None, "Bearer wrong", "user"])
def test_only_a_publisher_may_ask(herald: Herald, credential: str | None) -> None:
    if credential == "user":
        credential = f"Bearer {mint()}"
    headers = {} if credential is None else {"authorization": credential}
    answer = httpx2.get(f"{herald.url}/v1/channels/all/state", headers=headers, timeout=PATIENCE)
    problem(answer, 403 if credential and "wrong" not in credential else 401)


def test_the_client_port_does_not_tell(start: Callable[..., Herald]) -> None:
    herald = start(api_port=str(free_port()))
    url = f"http://127.0.0.1:{herald.port}/v1/channels/all/state"
    headers = {"authorization": f"Bearer {KEY}"}
    problem(httpx2.get(url, headers=headers, timeout=PATIENCE), 404)
    assert state(herald, "all")["channel"] == "all"


@pytest.fixture
def away(own_engine: EmbeddedEngine, start: Callable[..., Herald]) -> Herald:
    herald = start(own_engine.url, engine_timeout="1")
    own_engine.stop()
    return herald


def test_without_the_engine_it_is_503(away: Herald) -> None:
    assert problem(away.get("/v1/channels/all/state"), 503)["detail"]
