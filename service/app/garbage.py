"""Keeps the pauses of Python's garbage collector short, however many connections there are.

What is collected here is cycles alone; reference counts free all the rest at once, and Herald's own
objects make no cycles (`tests/app/test_garbage.py`). A full collection looks at every object there
is: 40 ms at 10,000 connections, in which nothing is delivered (docs/performance.md). So what has
survived a second is set aside (`gc.freeze`) and not looked at again: a collection costs what was
made since the last one. Once an hour all is looked at, for cycles that others may have made.
"""

from __future__ import annotations

import asyncio
import gc

_INTERVAL = 1.0
_ROUNDS = 3600
"""Intervals between two collections that look at everything."""
_YOUNG = 10_000
"""Objects made before the youngest are looked at; Python's 700 are soon made here."""
_FEW = 2_000
_NEVER = 1_000_000


def set_aside() -> None:
    """Collect, and set what is left aside: it lives as long as the process, or a connection."""
    gc.collect()
    gc.freeze()


async def tend_garbage() -> None:
    """Collect in small steps, for ever."""
    gc.set_threshold(_YOUNG, 10, _NEVER)
    while True:
        for _ in range(_ROUNDS):
            await asyncio.sleep(_INTERVAL)
            young, middle, _ = gc.get_count()
            if middle or young > _FEW:
                set_aside()
        gc.unfreeze()
