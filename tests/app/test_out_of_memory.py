"""A process without memory: it takes connections again, or ends."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from service.broker.embedded import EmbeddedEngine
from service.supervision import EXIT_STATUS
from tests.harness.process import PATIENCE, Herald, eventually, mint, open_herald


@pytest.fixture
def herald(engine: EmbeddedEngine, tmp_path: Path) -> Iterator[Herald]:
    herald = Herald(engine.url, tmp_path, module="tests.app.starved")
    try:
        herald.wait_ready()
        yield herald
    finally:
        herald.http.close()
        herald.kill()


def _knock(herald: Herald) -> socket.socket:
    return socket.create_connection(("127.0.0.1", herald.port), PATIENCE)


def _answers_anew(herald: Herald) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        url = f"{herald.url}/healthz/live"
        return httpx2.get(url, timeout=1.0, trust_env=False).status_code == 200
    return False


async def test_a_connection_without_memory_is_refused_and_the_next_is_not(herald: Herald) -> None:
    herald.signal(signal.SIGWINCH)
    with _knock(herald) as knocking:
        knocking.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionResetError):
            assert knocking.recv(1) == b""
    assert _answers_anew(herald)
    assert herald.metrics()['herald_task_failures_total{task="accept"}'] == 0


async def test_connections_are_taken_again_and_those_that_are_there_stay(herald: Herald) -> None:
    client = await open_herald(herald, token=mint("alice"))
    await client.expect("welcome")
    herald.signal(signal.SIGUSR1)
    with _knock(herald):
        await eventually(lambda: _answers_anew(herald), "an answer on a new connection")
    herald.publish("user:alice", 1)
    assert (await client.expect("event"))["data"] == 1
    assert herald.metrics()['herald_task_failures_total{task="accept"}'] == 1
    assert "listening again" in herald.log()
    await client.close()
    assert herald.stop() == 0


async def test_a_callback_without_memory_ends_the_process(herald: Herald) -> None:
    herald.signal(signal.SIGUSR2)
    with _knock(herald):
        await eventually(lambda: herald.process.poll() is not None, "the end")
    assert herald.process.returncode == EXIT_STATUS
    assert "out of memory" in herald.log()
