"""The inbox between two threads: whoever waits is woken."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from herald_client import Event
from herald_client.inbox import Inbox

from tests.harness.process import PATIENCE

COUNT = 1_000


def _event(number: int) -> Event:
    return Event("all", f"5-{number}", "t", number, datetime.now(UTC))


class Interrupted(deque[Any]):
    """The other thread has its turn just before something is taken."""

    turn: Callable[[], None]

    def popleft(self) -> Any:
        self.turn()
        return super().popleft()


def test_a_writer_that_fills_it_while_something_is_taken_is_woken() -> None:
    inbox = Inbox(2, {})
    woken: list[bool] = []
    inbox.wake_writer = lambda: woken.append(True)
    inbox.put(_event(1))
    items = Interrupted(inbox._items)
    inbox._items = items

    def fill() -> None:
        inbox.put(_event(2))
        assert inbox.is_full, "so the writer waits from here on"

    items.turn = fill
    assert inbox.first() is not None
    inbox.take()
    assert woken


@pytest.fixture
def _restless_threads() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_restless_threads")
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_neither_side_waits_for_ever(limit: int) -> None:
    inbox = Inbox(limit, {})
    news = threading.Event()
    inbox.wake_reader = news.set

    async def write() -> None:
        loop, room = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the writer has ended, and its loop is closed
                loop.call_soon_threadsafe(room.set)

        inbox.wake_writer = wake
        for number in range(COUNT):
            while inbox.is_full:
                room.clear()
                await room.wait()
            inbox.put(_event(number))
        inbox.end(None)

    thread = threading.Thread(target=asyncio.run, args=(write(),), daemon=True)
    thread.start()
    taken = 0
    while True:
        inbox.came_back()
        while inbox.first() is None and not inbox.is_over():
            assert news.wait(PATIENCE), f"nobody said anything after {taken}"
            news.clear()
        item = inbox.first()
        if item is None:
            break
        assert isinstance(item, Event)
        assert item.data == taken
        inbox.take()
        taken += 1
    assert taken == COUNT
    thread.join(PATIENCE)
