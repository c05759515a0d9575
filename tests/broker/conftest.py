"""Fixtures on the shared engine: a connected broker, redis-py to look at keys, a new channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import redis

from service.broker.broker import Broker
from service.broker.embedded import EmbeddedEngine
from tests.broker.support import client_of, open_broker


@pytest.fixture
async def broker(engine: EmbeddedEngine) -> AsyncIterator[Broker]:
    async with open_broker(engine.url) as broker:
        yield broker


@pytest.fixture
def keyspace(engine: EmbeddedEngine) -> Iterator[redis.Redis]:
    with client_of(engine.url) as client:
        yield client


@pytest.fixture
def channel(new_name: Callable[[], str]) -> str:
    return "topic:" + new_name()
