"""What must never end begins again, whatever fails, and ends when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.supervision import supervise
from tests.harness.process import PATIENCE
from tests.harness.starving import ALL, needs_starving, starve

_MOST = 60
"""Allocations of some turns; they are fewer."""


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


@needs_starving
@pytest.mark.parametrize("count", [1, 2, ALL])
def test_for_want_of_memory_it_goes_on_or_the_process_ends(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    ended: dict[str, bool] = {}
    end = SystemExit()  # raising it may fail as well, where ending would not

    def fail_stop(line: bytes) -> None:
        ended["now"] = True
        raise end

    monkeypatch.setattr("service.supervision.fail_stop", fail_stop)
    outcomes = {"goes on": 0, "ends": 0}
    for number in range(_MOST):
        begun: list[None] = []
        ended["now"] = False

        async def work(begun: list[None] = begun) -> None:
            begun.append(None)
            raise MemoryError

        supervised = supervise(work, _said, pause=0.0)

        def turns(supervised: Coroutine[Any, Any, None] = supervised) -> None:
            supervised.send(None)
            supervised.send(None)
            supervised.send(None)

        try:
            starve(number, count, turns)
        except (SystemExit, MemoryError):
            assert ended["now"]
            outcomes["ends"] += 1
            continue
        before = len(begun)
        supervised.send(None)
        assert len(begun) > before
        supervised.close()
        outcomes["goes on"] += 1
    assert outcomes["goes on"], outcomes
