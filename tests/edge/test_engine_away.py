"""The engine goes away: callers are told, what is stored is named, repeating completes it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.broker.embedded import EmbeddedEngine
from tests.edge.wire import check_problem, problem
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


@pytest.fixture
def lasting_engine() -> Iterator[EmbeddedEngine]:
    """An engine that has everything again after a restart, also the ids."""
    engine = EmbeddedEngine(("--appendonly", "yes", "--appendfsync", "always"))
    yield engine
    engine.stop()


@pytest.fixture
def herald(start: Callable[..., Herald], lasting_engine: EmbeddedEngine) -> Herald:
    return start(lasting_engine.url, engine_timeout="0.5")


def stored(herald: Herald, channel: str) -> list[Any]:
    page = herald.get(f"/v1/channels/{channel}/events", limit="1000").json()
    return [entry["data"] for entry in page["events"]]


async def refused(herald: Herald) -> tuple[int, str | None, int]:
    """What a plain client is answered, its Retry-After, and herald.v1's close code."""
    from websockets.exceptions import InvalidStatus

    with pytest.raises(InvalidStatus) as caught:
        await open_plain(herald)
    answer = caught.value.response
    client: Client = await open_herald(herald, connect_message=False)
    return answer.status_code, answer.headers.get("retry-after"), await client.closed()


async def test_engine_away_is_503_everywhere_and_repeating_helps(
    herald: Herald, lasting_engine: EmbeddedEngine
) -> None:
    first = herald.publish("topic:a", 1, id="first")
    lasting_engine.kill()
    # Only what was to be published has an id to be repeated with.
    away, repeat = "The engine is away.", "The engine is away; repeat with the same id."
    for answer, said in (
        (herald.post("/v1/events", {"to": "topic:a", "type": "t", "data": 2, "id": "2"}), repeat),
        (herald.post("/v1/events", {"to": ["topic:a", "topic:b"], "type": "t"}), repeat),
        (herald.get("/v1/channels/topic:a/state"), away),
        (herald.get("/v1/channels/topic:a/events"), away),
    ):
        assert problem(answer, 503)["detail"] == said
        assert int(answer.headers["retry-after"]) >= 1
    assert "stored" not in answer.json()
    batch = {"events": [{"to": "topic:a", "type": "t"}, {"to": "nobody", "type": "t"}]}
    lost, bad = herald.post("/v1/events/batch", batch).json()["results"]
    assert check_problem(lost["problem"], 503)["detail"] == repeat
    check_problem(bad["problem"], 400)
    problem(herald.get("/healthz/ready"), 503)
    assert herald.get("/healthz/live").status_code == 200
    assert await refused(herald) == (503, "5", 1013)
    lasting_engine.restart()
    await eventually(herald.is_ready, "readiness")
    assert herald.publish("topic:a", 1, id="first") == {**first, "duplicate": True}
    assert herald.publish("topic:a", 2, id="second")["duplicate"] is False
    assert stored(herald, "topic:a") == [1, 2]


async def test_list_that_is_half_stored_names_what_is_and_repeating_completes_it(
    herald: Herald, lasting_engine: EmbeddedEngine
) -> None:
    # One channel's log is made to refuse: the engine then fails in the middle of the list.
    import redis

    channels = [f"topic:c{number}" for number in range(5)]
    with redis.Redis.from_url(lasting_engine.url) as direct:
        herald.publish(channels[2], "old")
        (log,) = [
            key for key in direct.keys("*") if channels[2].encode() in key and _kind(direct, key)
        ]
        direct.delete(log)
        direct.set(log, "no stream")
        body = {"to": channels, "type": "t", "data": "new", "id": "half"}
        document = problem(herald.post("/v1/events", body), 503)
        assert list(document["stored"]) == [c for c in channels if c != channels[2]]
        assert document["id"] == "half"
        direct.delete(log)
    # The engine also dies and comes back before the caller repeats.
    lasting_engine.kill()
    problem(herald.post("/v1/events", body), 503)
    lasting_engine.restart()
    await eventually(herald.is_ready, "readiness")
    answer = herald.post("/v1/events", body).json()
    assert answer["duplicate"] is False
    assert {c: answer["positions"][c] for c in document["stored"]} == document["stored"]
    assert set(answer["positions"]) == set(channels)
    for channel in channels:
        assert stored(herald, channel).count("new") == 1
    assert herald.post("/v1/events", body).json()["duplicate"] is True


def _kind(direct: Any, key: bytes) -> bool:
    return bool(direct.type(key) == b"stream")


async def test_engine_killed_under_a_stream_of_lists_doubles_nothing_and_loses_nothing(
    herald: Herald, lasting_engine: EmbeddedEngine
) -> None:
    import asyncio

    channels = [f"topic:k{number}" for number in range(200)]
    bodies = [{"to": channels, "type": "t", "data": n, "id": f"id{n}"} for n in range(30)]
    posts = [asyncio.to_thread(herald.post, "/v1/events", body) for body in bodies]
    sending = asyncio.gather(*posts)
    await asyncio.sleep(0.05)
    lasting_engine.kill()
    answers = await sending
    said: dict[int, dict[str, str]] = {}
    for number, answer in enumerate(answers):
        if answer.status_code == 202:
            said[number] = answer.json()["positions"]
        else:
            said[number] = problem(answer, 503).get("stored", {})
    lasting_engine.restart()
    await eventually(herald.is_ready, "readiness")
    for number, body in enumerate(bodies):
        answer = herald.post("/v1/events", body)
        assert answer.status_code == 202, answer.text
        positions = answer.json()["positions"]
        # What was said to be stored is stored there.
        assert said[number].items() <= positions.items()
    for channel in channels[::20]:
        assert sorted(stored(herald, channel)) == list(range(30))


async def test_frozen_engine_is_503_and_not_silence(
    herald: Herald, lasting_engine: EmbeddedEngine
) -> None:
    import os

    herald.publish("topic:f", 1)
    os.kill(lasting_engine.pid, signal.SIGSTOP)
    try:
        problem(
            herald.post("/v1/events", {"to": "topic:f", "type": "t", "data": 2, "id": "x"}), 503
        )
        assert herald.get("/healthz/live").status_code == 200
    finally:
        os.kill(lasting_engine.pid, signal.SIGCONT)
    await eventually(herald.is_ready, "readiness")
    herald.publish("topic:f", 2, type="t", id="x")
    assert stored(herald, "topic:f") == [1, 2]


async def test_service_is_back_for_clients_when_the_engine_is(
    herald: Herald, lasting_engine: EmbeddedEngine
) -> None:
    lasting_engine.kill()
    await eventually(lambda: not herald.is_ready(), "the loss")
    lasting_engine.restart()
    await eventually(herald.is_ready, "readiness")
    client = await open_plain(herald, token=mint("zoe"))
    await client.expect("welcome")
    herald.publish("user:zoe", 1)
    assert (await client.expect("event"))["data"] == 1
    await client.close()


async def test_no_event_of_a_batch_overtakes_an_earlier_one_that_was_lost(
    start: Callable[..., Herald], user: str
) -> None:
    engine = EmbeddedEngine()
    try:
        herald = start(engine.url, engine_timeout="60")
        channel = f"topic:{user}"

        def line(data: str) -> bytes:
            text = json.dumps({"to": channel, "type": "n", "data": data}).encode() + b"\n"
            return b"%x\r\n%b\r\n" % (len(text), text)

        reader, writer = await asyncio.open_connection("127.0.0.1", herald.port)
        os.kill(engine.pid, signal.SIGSTOP)
        writer.write(
            b"POST /v1/events/batch HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
            b"content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n"
            b"connection: close\r\n\r\n" % KEY.encode()
        )
        writer.write(line("first"))
        await asyncio.sleep(0.5)  # it is on its way to an engine that does not read it
        engine.kill()
        engine.restart()
        await eventually(herald.is_ready, "readiness returns")
        writer.write(line("second") + b"0\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read(-1)
        results = json.loads(answer.partition(b"\r\n\r\n")[2])["results"]
        assert [result["problem"]["status"] for result in results] == [503, 503]
        assert stored(herald, channel) == []
        writer.close()
        await writer.wait_closed()
    finally:
        engine.stop()
