"""`herald inspect`, as an operator would use it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.broker.embedded import EmbeddedEngine
from service.cli import app
from service.cli.inspect import describe, judge
from service.core.position import Position
from tests.harness.process import (
    KEY,
    Herald,
    eventually,
    free_port,
    mint,
    open_herald,
)
from tests.harness.streams import streaming


def inspect(herald: Herald, *arguments: str) -> Result:
    """In this process: starting another one for each would be most of these tests' time."""
    settings = {"HERALD_API_KEYS": KEY, "HERALD_PORT": str(herald.port)}
    return CliRunner().invoke(app, ["inspect", *arguments], env=settings)


def test_a_channel_that_nobody_uses(herald: Herald, user: str) -> None:
    done = inspect(herald, f"user:{user}")
    assert done.exit_code == 0, done.stderr
    first, position, retained, node, connections = done.stdout.splitlines()
    assert first == f"user:{user}"
    assert position.endswith("-0")
    assert retained.split() == ["retained", "nothing"]
    assert node.startswith("node ")
    assert connections.split() == ["connections", "0"]


async def test_an_event_that_was_sent_and_acknowledged(herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    client = await open_herald(herald, token=mint(user))
    name = (await client.expect("welcome"))["connection"]
    await asyncio.sleep(0.3)  # clearly before the event: the clocks are not so fine
    positions = [herald.publish(channel, n)["positions"][channel] for n in range(2)]
    await client.events(2)
    await asyncio.sleep(0.1)  # its system may be late to say that it has them
    sent = await asyncio.to_thread(inspect, herald, channel, "--position", positions[1])
    assert f"{name}  sent, and taken by its system" in sent.stdout
    await client.send(type="ack", channel=channel, id=positions[1])
    await eventually(
        lambda: herald.get(f"/v1/channels/{channel}/state").json()["here"]["listeners"][0]["acked"],
        "the ack",
    )
    for position in positions:
        done = await asyncio.to_thread(inspect, herald, channel, "--position", position)
        assert f"{position} is retained: test of " in done.stdout
        assert f"{name}  has acknowledged it, or a later one" in done.stdout
    await client.close()


async def test_an_event_before_the_connection(herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    position = herald.publish(channel, 1)["positions"][channel]
    async with streaming(herald, token=mint(user)) as stream:
        await stream.expect("welcome")
        done = await asyncio.to_thread(inspect, herald, channel, "--position", position)
    assert "connected later: was sent it if it resumed" in done.stdout


def test_positions_that_are_not_retained(start: Callable[..., Herald], user: str) -> None:
    herald = start(history_size="2")
    channel = f"user:{user}"
    positions = [herald.publish(channel, n)["positions"][channel] for n in range(4)]
    done = inspect(herald, channel, "--position", positions[0], "--last", "5")
    assert f"{positions[0]} is not retained" in done.stdout
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [event["data"] for event in events] == [2, 3]
    epoch, _, _ = positions[0].partition("-")
    for unknown in (f"{epoch}-9", f"{int(epoch) + 1}-1"):
        done = inspect(herald, channel, "--position", unknown)
        assert f"{unknown} was never given out" in done.stdout
    done = inspect(herald, channel, "--position", f"{epoch}-0")
    assert "is not retained" in done.stdout


def test_the_last_events_of_many_pages(start: Callable[..., Herald], user: str) -> None:
    herald = start(history_size="2500")
    channel = f"user:{user}"
    lines = b"".join(b'{"to":"%b","type":"t"}\n' % channel.encode() for _ in range(2300))
    herald.post("/v1/events/batch", lines, content_type="application/x-ndjson")
    done = inspect(herald, channel, "--last", "2200")
    events = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(events) == 2200
    assert json.loads(events[-1])["id"].endswith("-2300")


async def test_two_nodes_are_asked(
    engine: EmbeddedEngine, start: Callable[..., Herald], user: str
) -> None:
    one, two = start(), start()
    client = await open_herald(two, token=mint(user))
    await client.expect("welcome")
    done = await asyncio.to_thread(
        inspect, one, f"user:{user}", "--url", one.url, "--url", two.url, "--json"
    )
    states = [json.loads(line) for line in done.stdout.splitlines()]
    assert [state["here"]["connections"] for state in states] == [0, 1]
    assert len({state["here"]["node"] for state in states}) == 2
    await client.close()


async def test_every_worker_is_asked(start: Callable[..., Herald], user: str) -> None:
    herald = start(workers="3")
    client = await open_herald(herald, token=mint(user))
    await client.expect("welcome")
    done = await asyncio.to_thread(inspect, herald, f"user:{user}", "--json")
    states = [json.loads(line) for line in done.stdout.splitlines()]
    assert [state["here"]["worker"] for state in states] == [0, 1, 2], done.stderr
    assert sum(state["here"]["connections"] for state in states) == 1
    await client.close()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nobody"], 2, "A channel is"),
        (["all", "--position", "x"], 2, "A position is"),
        (["all", "--url", "ftp://x"], 2, "--url begins with"),
        (["all", "--key", "wrong"], 1, '"status":401'),
        (["all", "--url", f"http://127.0.0.1:{free_port()}"], 1, "no answer from"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_asked_is_told(
    herald: Herald, arguments: list[str], status: int, said: str
) -> None:
    done = inspect(herald, *arguments)
    assert done.exit_code == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def _state(**here: Any) -> dict[str, Any]:
    of_node = {
        "time": "2026-11-23T06:30:00.000Z",
        "node": "n",
        "worker": 0,
        "workers": 1,
        "connections": 0,
        "joining": 0,
        "position": None,
        "listeners": [],
    }
    return {
        "channel": "all",
        "position": "5-9",
        "first": "3-1",
        "retained": None,
        "last": None,
        "here": of_node | here,
    }


LISTENER = {
    "connection": "n-1",
    "transport": "websocket",
    "age": 200.0,
    "waiting": 7,
    "silent": 1.0,
    "acked": None,
}
EVENT = {"id": "5-8", "event": "t", "data": 1, "time": "2026-11-23T06:28:00.123Z"}


def test_what_is_rare_is_said_as_well() -> None:
    state = _state(connections=3, joining=2, position="5-7", listeners=[LISTENER])
    text = "\n".join(describe([state]))
    assert "many, from 3-1 on" in text
    assert "sent everything up to 5-7, 2 more on their way" in text
    assert "and 2 more" in text
    of_workers = _state(workers=2, worker=1)
    assert "node n, worker 1" in "\n".join(describe([of_workers]))


@pytest.mark.parametrize(
    ("here", "event", "said"),
    [
        ({"position": "5-7"}, EVENT, "node n has not passed it on yet"),
        ({"position": "5-9", "listeners": [LISTENER]}, EVENT, "sent; 7 bytes"),
        ({"position": "5-9", "listeners": [LISTENER]}, None, "n-1  not known"),
        ({"position": "5-9", "listeners": [{**LISTENER, "acked": "4-9"}]}, None, "not known"),
        ({"position": "5-9", "listeners": [{**LISTENER, "acked": "5-8"}]}, None, "acknowledged"),
        ({}, EVENT, "nobody listens"),
    ],
)
def test_verdicts(here: dict[str, Any], event: dict[str, Any] | None, said: str) -> None:
    connections = len(here.get("listeners", [])) or (1 if "position" in here else 0)
    state = _state(**here, connections=connections)
    assert said in "\n".join(judge(Position(5, 8), event, [state]))
