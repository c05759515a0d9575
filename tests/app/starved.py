"""`python -m tests.app.starved serve`: Herald, which lacks memory once after a signal.

SIGUSR1: when it takes the next connection. SIGUSR2: in a callback of the loop, just after that.
"""

from __future__ import annotations

import asyncio
import signal

from service.app.listener import Listener
from service.cli import main

_make = Listener._make
_due: list[int] = []


def _starved() -> None:
    raise MemoryError


def _starving(self: Listener) -> asyncio.Protocol:
    if not _due:
        return _make(self)
    if _due.pop() == signal.SIGUSR1:
        _starved()
    asyncio.get_running_loop().call_soon(_starved)
    return _make(self)


if __name__ == "__main__":
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: _due.append(number))
    Listener._make = _starving  # type: ignore[method-assign]
    main()
