"""What must never end begins again, whatever fails, and ends when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from service.supervision import supervise
from tests.harness.process import PATIENCE


def _said(error: Exception) -> None: ...


def _cannot_even_say(error: Exception) -> None:
    raise MemoryError


@pytest.mark.parametrize("failed", [_said, _cannot_even_say])
async def test_work_begins_again_until_it_ends_by_itself(
    failed: Callable[[Exception], None],
) -> None:
    errors: list[Exception] = [MemoryError(), ValueError(), OSError()]

    async def work() -> None:
        if errors:
            raise errors.pop()

    async with asyncio.timeout(PATIENCE):
        await supervise(work, failed, pause=0.0)
    assert not errors


async def test_cancelling_ends_it() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(supervise(work, _said))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
