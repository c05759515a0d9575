"""`python -m tests.app.starved serve`: Herald, which lacks memory once after a signal.

SIGUSR1: when it takes the next connection; SIGWINCH: for the protocol of that connection.
SIGUSR2: in a callback of the loop, just after that.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from service.app.listener import Listener
from service.cli import main

_make = Listener._make
_due: list[int] = []


class _Failure(Exception): ...


def _starved() -> Any:
    raise MemoryError


def _starving(self: Listener) -> asyncio.Protocol:
    due = _due.pop() if _due else None
    if due == signal.SIGUSR1:
        raise _Failure  # as `MemoryError` of the loop itself, but that ends the process
    if due == signal.SIGUSR2:
        asyncio.get_running_loop().call_soon(_starved)
    if due == signal.SIGWINCH:
        factory, self._factory = self._factory, _starved
        try:
            return _make(self)
        finally:
            self._factory = factory
    return _make(self)


if __name__ == "__main__":
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
        signal.signal(number, lambda number, _: _due.append(number))
    Listener._make = _starving  # type: ignore[method-assign]
    main()
