"""Starting: what cannot be used ends the start, also of several workers, and SIGTERM may come."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from service.broker.embedded import EmbeddedEngine
from tests.harness.process import KEY, PATIENCE, SECRET, clean_environment, free_port


@contextmanager
def _serving(engine: EmbeddedEngine, **settings: str) -> Iterator[subprocess.Popen[str]]:
    base = {"redis_url": engine.url, "jwt_secret": SECRET, "api_keys": KEY}
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve"],
        env=clean_environment(**{**base, **settings}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize(("name", "value"), [("redis_url", "foo://x"), ("jwt_algorithms", "RS256")])
def test_a_setting_that_cannot_be_used_stops_several_workers_too(
    engine: EmbeddedEngine, name: str, value: str
) -> None:
    settings = {"port": str(free_port()), "workers": "2", name: value}
    with _serving(engine, **settings) as process:
        told, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2
        assert told.startswith("herald: HERALD_")
        assert told.count("\n") == 1


def test_of_two_that_start_together_on_a_port_one_says_that_it_is_in_use(
    engine: EmbeddedEngine,
) -> None:
    # Without an engine both wait a while between taking the port and listening.
    settings = {"port": str(free_port()), "redis_url": "redis://127.0.0.1:1"}
    with ExitStack() as stack:
        both = [stack.enter_context(_serving(engine, **settings)) for _ in range(2)]
        deadline = time.monotonic() + PATIENCE
        while not (ended := [process for process in both if process.poll() is not None]):
            assert time.monotonic() < deadline, "both took the port"
            time.sleep(0.02)
        assert [process.returncode for process in ended] == [2]
        assert ended[0].stdout is not None
        assert f"Port {settings['port']}" in ended[0].stdout.read()


_STOPPED_WHILE_STARTING = """
import os, signal, time
from service.app.workers import run_workers

def work(place):
    if place.worker == 0:
        os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(3600)

raise SystemExit(run_workers(40, work))
"""


def test_sigterm_while_the_workers_are_started_ends_all_with_0() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED_WHILE_STARTING], timeout=PATIENCE, check=False
    )
    assert done.returncode == 0
