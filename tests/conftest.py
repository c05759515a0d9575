"""Fixtures for all tests. Users and topics are new in each test, so tests share an engine."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.broker.embedded import EmbeddedEngine
from tests.harness.process import Herald, running

ENGINE_BINARY = os.environ.get("ENGINE_BINARY")
"""Another engine than the bundled one, as `make test-redis` says."""
_names = itertools.count(1)
# The loop's debug mode says which step took long; it is read when a loop is made.
os.environ["PYTHONASYNCIODEBUG"] = "1"
_SLOW_STEP = re.compile(r"^Executing .* took (\d+\.\d+) seconds")
_BLOCKED_SECONDS = 2.0


@pytest.fixture
def new_name() -> Callable[[], str]:
    """Makes names that no other test uses."""
    return lambda: f"n{os.getpid()}-{next(_names)}"


@pytest.fixture
def user(new_name: Callable[[], str]) -> str:
    return new_name()


@pytest.fixture(scope="session")
def engine() -> Iterator[EmbeddedEngine]:
    """An engine for all tests of this worker that do not harm it."""
    engine = EmbeddedEngine(binary=ENGINE_BINARY)
    yield engine
    engine.stop()


@pytest.fixture
def own_engine() -> Iterator[EmbeddedEngine]:
    """An engine to restart, fill or kill."""
    engine = EmbeddedEngine(binary=ENGINE_BINARY)
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def herald(engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herald]:
    """A running Herald with default settings, for tests that leave it as it was."""
    with running(engine.url, tmp_path_factory.mktemp("herald")) as herald:
        yield herald


@pytest.fixture
def start(engine: EmbeddedEngine, tmp_path: Path) -> Iterator[Callable[..., Herald]]:
    """Starts Heralds with settings of the test's own; they are stopped in the end."""
    started: list[Herald] = []

    def start(engine_url: str | None = None, **settings: str | None) -> Herald:
        herald = Herald(engine_url or engine.url, tmp_path, **settings)
        started.append(herald)
        herald.wait_ready()
        return herald

    yield start
    for herald in started:
        herald.stop()


@pytest.fixture(autouse=True)
def _no_blocked_loop(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """An asynchronous test that blocks its loop fails."""
    yield
    for record in caplog.get_records("call"):
        took = _SLOW_STEP.search(record.getMessage()) if record.name == "asyncio" else None
        assert took is None or float(took[1]) < _BLOCKED_SECONDS, record.getMessage()
