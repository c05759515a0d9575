"""Asks the gateways' readiness all the time, as an orchestrator does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

_PAUSE = 0.1
_PATIENCE = 1.0
"""Seconds for one answer; a gateway that gives none is not ready."""


class ReadinessWatch:
    """What each gateway said last, and since when none was ready."""

    def __init__(self, ports: Callable[[], Sequence[int]]) -> None:
        self._ports = ports
        self._ready: dict[int, bool] = {}
        self._began = 0.0
        self._rounds = 0
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """For ever."""
        while True:
            ports = self._ports()
            answers = await asyncio.gather(*map(_is_ready, ports))
            self._ready = dict(zip(ports, answers, strict=True))
            self._rounds += 1
            self._changed.set()
            await asyncio.sleep(_PAUSE)

    def mark(self) -> None:
        """A fault begins now."""
        self._began = asyncio.get_running_loop().time()

    async def none_ready(self, patience: float) -> float:
        """Wait until no gateway is ready; seconds since `mark`."""
        await self._until(lambda: not any(self._ready.values()), patience, "none is ready")
        return asyncio.get_running_loop().time() - self._began

    async def all_ready(self, patience: float) -> None:
        """Wait until all are, by answers to questions of from now on."""
        fresh = self._rounds + 2  # the round that is on its way asked before
        await self._until(
            lambda: self._rounds >= fresh and all(self._ready.values()), patience, "all are ready"
        )

    async def _until(self, condition: Callable[[], bool], patience: float, what: str) -> None:
        try:
            async with asyncio.timeout(patience):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{what}: not in {patience} s; {self._ready}") from None


async def _is_ready(port: int) -> bool:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(
                    b"GET /healthz/ready HTTP/1.1\r\nHost: herald\r\nConnection: close\r\n\r\n"
                )
                return b" 200 " in await reader.readuntil(b"\r\n")
            finally:
                writer.transport.abort()
    return False
