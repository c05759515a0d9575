"""What the clients' tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import pytest
from herald_client import AsyncPublisher, Publisher

from service.broker.embedded import EmbeddedEngine
from tests.chaos.proxy import Proxy, proxying
from tests.harness.process import KEY, Herald, eventually, running


@pytest.fixture
def publisher(herald: Herald) -> Iterator[Publisher]:
    with Publisher(herald.url, KEY) as publisher:
        yield publisher


@pytest.fixture
async def async_publisher(herald: Herald) -> AsyncIterator[AsyncPublisher]:
    async with AsyncPublisher(herald.url, KEY) as publisher:
        yield publisher


@pytest.fixture
async def proxy(herald: Herald) -> AsyncIterator[Proxy]:
    """A proxy before the shared Herald."""
    async with proxying(lambda: ("127.0.0.1", herald.api_port)) as proxy:
        yield proxy


class Fragile(NamedTuple):
    """A Herald and an engine that keeps every write on disk: both to be killed and restarted."""

    herald: Herald
    engine: EmbeddedEngine


@pytest.fixture(scope="session")
def fragile_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fragile]:
    engine = EmbeddedEngine(("--appendonly", "yes", "--appendfsync", "always"))
    try:
        directory = tmp_path_factory.mktemp("fragile")
        with running(engine.url, directory, history_size="10000") as herald:
            yield Fragile(herald, engine)
    finally:
        engine.stop()


@pytest.fixture
async def fragile(fragile_pair: Fragile) -> AsyncIterator[Fragile]:
    """One for all tests, because starts take long; each leaves it running."""
    yield fragile_pair
    await eventually(fragile_pair.herald.is_ready, "it is left as it was found")


def retained(herald: Herald, channel: str) -> list[Any]:
    """The data of everything that a channel retains."""
    return [entry["data"] for entry in retained_events(herald, channel)]


def retained_events(herald: Herald, channel: str) -> list[dict[str, Any]]:
    """Everything that a channel retains."""
    answer = herald.get(f"/v1/channels/{channel}/events", limit="1000")
    assert answer.status_code == 200, answer.text
    events: list[dict[str, Any]] = answer.json()["events"]
    return events
