"""A keeper tries again whatever went wrong, also where a library raises an error of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from redis.exceptions import RedisError

from service.broker.embedded import EmbeddedEngine
from service.broker.endpoint import Endpoint, parse_engine_url
from service.broker.keeper import LinkKeeper
from service.broker.link import Link
from tests.harness.process import PATIENCE, eventually


@pytest.mark.parametrize("error", [RedisError, ValueError, TypeError])
async def test_any_error_of_an_attempt_is_followed_by_another_attempt(
    engine: EmbeddedEngine, error: Callable[[str], Exception]
) -> None:
    errors = [error("once"), error("twice")]
    where = parse_engine_url(engine.url)

    async def locate() -> Endpoint:
        if errors:
            raise errors.pop()
        return await where()

    async def prepare(link: Link) -> None:
        await link.call("PING")

    keeper = LinkKeeper("test", locate, 5.0, prepare, lambda name: None)
    task = asyncio.create_task(keeper.run())
    try:
        await keeper.wait_open(PATIENCE)
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()


async def test_a_failure_while_a_link_is_open_is_followed_by_another_link(
    engine: EmbeddedEngine,
) -> None:
    links: list[Link] = []

    async def prepare(link: Link) -> None:
        links.append(link)

    def reopened(name: str) -> None:
        if len(links) == 2:
            raise MemoryError

    keeper = LinkKeeper("test", parse_engine_url(engine.url), 5.0, prepare, reopened)
    task = asyncio.create_task(keeper.run())
    try:
        (await keeper.wait_open(PATIENCE)).abort()
        await eventually(lambda: len(links) == 3 and keeper.link is links[2], "the third link")
        assert links[1].closed.done()
    finally:
        task.cancel()
        await asyncio.wait([task])
