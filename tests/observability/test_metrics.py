"""The numbers that alerts look at, from real processes in trouble."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from http.server import BaseHTTPRequestHandler
from threading import Event as ThreadEvent
from typing import Any, cast, get_args

import pytest

from service.app.node import Node
from service.auth.jwks import Jwks
from service.broker.embedded import EmbeddedEngine
from service.core.close import CloseCode
from service.core.errors import KeysUnavailable
from service.core.principal import Publisher
from service.edge.answers import Answer
from service.edge.publishing import Publishing, PublishLimits
from service.ports import EventLog, PublisherVerifier, Refused
from service.settings import load_settings
from service.telemetry.metrics import Metrics
from tests.auth.conftest import Clock
from tests.auth.forge import EC_KEY, jwk
from tests.auth.issuer import running_issuer, send
from tests.edge.wire import AUTHORIZED, open_socket, read_answer, read_head, request_bytes
from tests.harness.process import (
    KEY,
    SECRET,
    Herald,
    eventually,
    mint,
    open_plain,
    raw_websocket,
)

ENVIRONMENT = {
    "HERALD_REDIS_URL": "redis://127.0.0.1:1",
    "HERALD_JWT_SECRET": SECRET,
    "HERALD_API_KEYS": KEY,
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def told(metrics: Metrics, sample: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(sample, labels)


def slower(numbers: dict[str, float], histogram: str, bound: str) -> float:
    """How many were over a bound."""
    within = numbers[f'{histogram}_bucket{{le="{bound}"}}']
    return numbers[f"{histogram}_count"] - within


async def test_counters_with_a_label_are_there_from_the_start() -> None:
    """Or the first of its kind would be no increase."""
    metrics = Metrics()
    for reason in get_args(Refused):
        assert told(metrics, "herald_refusals_total", reason=reason) == 0
    for code in (*CloseCode, 1005, 1006, "other"):
        label = code if isinstance(code, str) else str(int(code))
        assert told(metrics, "herald_disconnects_total", code=label) == 0
    for status in ("400", "401", "403", "408", "413", "415", "422", "429", "500", "503"):
        assert told(metrics, "herald_publish_errors_total", status=status) == 0
    for link in ("publish", "read", "subscribe"):
        assert told(metrics, "herald_engine_reconnects_total", link=link) == 0
    metrics.disconnected(4999)
    metrics.disconnected(4000)
    assert told(metrics, "herald_disconnects_total", code="other") == 1
    assert told(metrics, "herald_disconnects_total", code="4000") == 1


async def test_tasks_that_are_counted_are_those_that_a_node_starts() -> None:
    node = Node(load_settings(ENVIRONMENT))
    started = [told(node._metrics, "herald_task_failures_total", task=name) for name in _tasks()]
    assert started == [0, 0, 0]


def _tasks() -> list[str]:
    source = Node.start.__code__.co_consts
    return [one for one in source if one in ("heartbeat", "audit", "garbage")]


async def test_a_task_that_fails_is_counted_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    node = Node(load_settings(ENVIRONMENT))
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ZeroDivisionError
        await asyncio.Event().wait()

    task = asyncio.create_task(node._supervise("audit", work))
    await eventually(lambda: runs == 2, "it begins again")
    assert told(node._metrics, "herald_task_failures_total", task="audit") == 1
    assert "a task failed; it begins again" in caplog.text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_publish_is_timed_in_both_ways(start: Callable[..., Herald], user: str) -> None:
    herald = start()
    herald.publish(f"user:{user}")
    body = b'{"to":"all","type":"t"}'
    head = {**AUTHORIZED, "content-length": str(len(body)), "expect": "100-continue"}
    with open_socket(herald.port) as sock:
        sock.sendall(request_bytes("POST", "/v1/events", head))
        status, _, rest = read_head(sock)
        assert status == 100
        sock.sendall(body)
        assert read_answer(sock, rest)[0] == 202
    herald.post("/v1/events", {"to": "nobody", "type": "t"})  # refused: not timed
    numbers = herald.metrics()
    assert numbers["herald_publish_answer_seconds_count"] == 2
    assert 0 < numbers["herald_publish_answer_seconds_sum"] < 10


async def test_a_loop_that_is_held_up_is_late(start: Callable[..., Herald]) -> None:
    herald = start()
    before = slower(herald.metrics(), "herald_loop_delay_seconds", "0.5")
    herald.signal(signal.SIGSTOP)
    await asyncio.sleep(1.2)
    herald.signal(signal.SIGCONT)
    await eventually(
        lambda: slower(herald.metrics(), "herald_loop_delay_seconds", "0.5") > before, "a late tick"
    )


async def test_the_probe_of_a_slow_engine_takes_long(
    own_engine: EmbeddedEngine, start: Callable[..., Herald]
) -> None:
    herald = start(own_engine.url)
    trip = "herald_engine_probe_round_trip_seconds"
    assert 0 < herald.metrics()[trip] < 1
    # A probe goes out each second: one of them meets the engine while it stands.
    os.kill(own_engine.pid, signal.SIGSTOP)
    await asyncio.sleep(2.2)
    os.kill(own_engine.pid, signal.SIGCONT)
    await eventually(lambda: herald.metrics()[trip] > 1, "the slow probe")
    assert herald.metrics()["herald_engine_probe_age_seconds"] < 3.5


async def test_a_drain_tells_how_long_it_has_lasted(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(drain_seconds="20")
    numbers = herald.metrics()
    assert numbers["herald_drain_age_seconds"] == 0
    assert numbers["herald_drain_limit_seconds"] == 20
    async with raw_websocket(herald, mint(user)) as (reader, _):
        await reader.readuntil(b'"welcome"')
        herald.signal(signal.SIGTERM)
        began = time.monotonic()
        await eventually(lambda: herald.metrics()["herald_drain_age_seconds"] > 0.5, "the drain")
        assert herald.metrics()["herald_drain_age_seconds"] <= time.monotonic() - began
        herald.signal(signal.SIGTERM)
        assert await asyncio.to_thread(herald.process.wait, 30) == 0


async def test_a_worker_that_is_missing_shows(start: Callable[..., Herald]) -> None:
    herald = start(workers="2")

    def told_by() -> set[str]:
        return {name for name in herald.metrics() if name.startswith("herald_workers{")}

    await eventually(lambda: len(told_by()) == 2, "both")
    assert {herald.metrics()[name] for name in told_by()} == {2.0}
    children = _children(herald.process.pid)
    assert len(children) == 2
    os.kill(children[1], signal.SIGSTOP)
    try:
        # The kernel may hand a connection to the one that is stopped: ask until the other answers.
        assert await _told_by_one(herald) == 1
    finally:
        os.kill(children[1], signal.SIGCONT)
    await eventually(lambda: len(told_by()) == 2, "both again")


def _children(parent: int) -> list[int]:
    with open(f"/proc/{parent}/task/{parent}/children") as children:  # noqa: PTH123
        return [int(child) for child in children.read().split()]


async def _told_by_one(herald: Herald) -> int:
    for _ in range(60):
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", herald.port)
                writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                text = (await reader.read(-1)).decode()
        except TimeoutError:
            continue
        finally:
            writer.close()
        return len(re.findall(r"^herald_workers\{", text, re.MULTILINE))
    raise AssertionError("the other worker never answered")


def test_the_number_of_replicas_that_is_demanded_is_told() -> None:
    async def scrape() -> float | None:
        node = Node(load_settings({**ENVIRONMENT, "HERALD_MIN_REPLICAS": "2"}))
        return told(node._metrics, "herald_engine_replicas_needed")

    assert asyncio.run(scrape()) == 2


async def test_fetches_of_the_issuers_keys_are_counted_and_aged(clock: Clock) -> None:
    outcomes: list[bool] = []
    with running_issuer() as issuer:
        issuer.keys = [jwk(EC_KEY, "ES256", kid="one")]
        keys = Jwks(issuer.url, (), min_interval=10, clock=clock, fetched=outcomes.append)
        assert keys.age() is None
        await keys.find("one", "ES256")
        clock.now += 400
        assert (outcomes, keys.age()) == ([True], 400)
        issuer.behave = _broken
        assert keys.known("one", "ES256") is not None  # fetched again, in the background
        await eventually(lambda: outcomes == [True, False], "the failure")
        assert keys.age() == 400


def _broken(request: BaseHTTPRequestHandler, stopped: ThreadEvent) -> None:
    send(request, 500, b"")


async def test_keys_that_never_came_have_no_age() -> None:
    with running_issuer() as issuer:
        issuer.behave = _broken
        given = {**ENVIRONMENT, "HERALD_JWT_JWKS_URL": issuer.url}
        del given["HERALD_JWT_SECRET"]
        node = Node(load_settings(given))
        metrics = node._metrics
        with pytest.raises(KeysUnavailable):
            await node.clients.verify("eyJhbGciOiJFUzI1NiIsImtpZCI6Im9uZSJ9.e30.e30")
        assert told(metrics, "herald_jwks_age_seconds") is None
        assert told(metrics, "herald_jwks_fetches_total", outcome="failed") == 1
        issuer.behave = None
        issuer.keys = [jwk(EC_KEY, "ES256", kid="one")]


class _BrokenLog:
    def submit_now(self, event: Any, publisher: Publisher) -> None:
        return None

    async def submit(self, event: Any, publisher: Publisher) -> None:
        raise ZeroDivisionError


class _Anybody:
    def verify_now(self, authorization: str | None) -> Publisher:
        return Publisher("anybody")

    async def verify(self, authorization: str | None) -> Publisher:
        return Publisher("anybody")


async def test_a_failure_of_ours_is_counted_as_500() -> None:
    metrics = Metrics()
    publishing = Publishing(
        cast("EventLog", _BrokenLog()),
        cast("PublisherVerifier", _Anybody()),
        PublishLimits(1000, 1000, 1.0),
        metrics,
    )
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    headers = [(b"content-type", b"application/json")]
    publishing.post_event(headers, b'{"to":"all","type":"t"}', answered.set_result)
    assert (await answered).status == 500
    assert told(metrics, "herald_publish_errors_total", status="500") == 1


@pytest.fixture
async def client(herald: Herald, user: str) -> AsyncIterator[Any]:
    client = await open_plain(herald, token=mint(user))
    yield client
    await client.close()


async def test_what_is_slow_is_written_late(herald: Herald, user: str, client: Any) -> None:
    """The histogram of the objective has the bucket that the rules ask for."""
    await client.expect("welcome")
    herald.publish(f"user:{user}")
    await client.expect("event")
    assert 'herald_publish_to_write_seconds_bucket{le="0.25"}' in herald.metrics()
