"""Copies at the edge: a 503 says what is stored without them, and repeating confirms it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.broker.support import TcpEngine, client_of, following, tcp_engine
from tests.edge.wire import check_problem, problem
from tests.harness.process import Herald, eventually, mint, open_herald


@pytest.fixture
def pair() -> Iterator[tuple[TcpEngine, TcpEngine]]:
    """A primary and its replica."""
    with (
        tcp_engine() as primary,
        tcp_engine("--replicaof", "127.0.0.1", str(primary.port)) as replica,
    ):
        yield primary, replica


async def test_an_event_without_its_copies_is_503_and_its_repeat_202(
    start: Callable[..., Herald], pair: tuple[TcpEngine, TcpEngine], user: str
) -> None:
    primary, replica = pair
    with client_of(primary.url) as client:
        await following(client, 1)
    herald = start(primary.url, min_replicas="1", replica_timeout="2")
    channel, other = f"user:{user}", f"topic:{user}"
    page = await open_herald(herald, token=mint(user))
    await page.expect("welcome")
    herald.publish(channel, 1)

    os.kill(replica.embedded.pid, signal.SIGSTOP)
    body: dict[str, Any] = {"to": channel, "type": "t", "data": 2, "id": "two"}
    many = {"to": [channel, other], "type": "t", "data": 3, "id": "three"}
    try:
        answer = herald.post("/v1/events", body)
        document = problem(answer, 503)
        assert answer.headers["retry-after"] == "1"
        assert "replicas" in document["detail"]
        assert document["id"] == "two"
        assert list(document["uncopied"]) == [channel]
        assert "stored" not in document
        assert problem(herald.post("/v1/events", body), 503)["uncopied"] == document["uncopied"]
        listed = problem(herald.post("/v1/events", many), 503)
        assert list(listed["uncopied"]) == [channel, other]
        batch = {"events": [{"to": other, "type": "t", "id": "four"}, {"to": "x", "type": "t"}]}
        late, bad = herald.post("/v1/events/batch", batch).json()["results"]
        assert list(check_problem(late["problem"], 503)["uncopied"]) == [other]
        check_problem(bad["problem"], 400)
        # All of it is delivered, can be read, and clients may come.
        assert herald.is_ready()
        metrics = herald.metrics()
        assert metrics["herald_events_uncopied_total"] == 4
        assert metrics['herald_publish_errors_total{status="503"}'] == 4
        assert metrics["herald_events_accepted_total"] == 1
        assert metrics["herald_engine_replicas"] == 1
        reconnects = "herald_engine_reconnects_total"
        assert not any(n for name, n in metrics.items() if name.startswith(reconnects))
    finally:
        os.kill(replica.embedded.pid, signal.SIGCONT)

    await eventually(lambda: herald.post("/v1/events", body).status_code == 202, "the copy")
    again = herald.post("/v1/events", body).json()
    assert again == {"id": "two", "positions": document["uncopied"], "duplicate": True}
    assert herald.post("/v1/events", many).json() == {
        "id": "three",
        "positions": listed["uncopied"],
        "duplicate": True,
    }
    herald.publish(channel, 4)
    assert [event["data"] for event in await page.events(4)] == [1, 2, 3, 4]
    await page.close()
