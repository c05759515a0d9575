"""Takes connections on one bound socket, also after the event loop has stopped doing so.

libuv stops listening where a connection that it has taken is not fetched by the callback, and
uvloop does not fetch it where the callback fails, which it does where there is no memory for one
more connection. From then on the kernel's queue fills, and nobody is told. So there is always a
protocol for a connection, and the queue is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Callable
from typing import cast

logger = logging.getLogger("herald.http")


class _Refusal(asyncio.Protocol):
    """Of connections for which there is no memory."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


_REFUSAL = _Refusal()


class Listener:
    """Listens on a socket that is bound.

    Args:
        factory: makes the protocol of each connection.
        stalled: told each time that it had to begin again.
    """

    def __init__(
        self,
        sock: socket.socket,
        backlog: int,
        factory: Callable[[], asyncio.Protocol],
        stalled: Callable[[], None],
    ) -> None:
        self._socket = sock
        self._backlog = backlog
        self._factory = factory
        self._stalled = stalled
        self._server: asyncio.Server | None = None
        self._taken = 0
        self._taken_before: int | None = None  # at the last look, if connections were waiting then
        self._queue = select.poll() if hasattr(select, "poll") else None  # none on Windows
        if self._queue is not None:
            self._queue.register(sock, select.POLLIN)

    async def listen(self) -> None:
        """Begin, or begin again with whoever is waiting."""
        # The loop closes what it is given.
        copy = self._socket.dup()
        try:
            server = await asyncio.get_running_loop().create_server(
                self._make, sock=copy, backlog=self._backlog
            )
        except BaseException:
            copy.close()
            raise
        former, self._server = self._server, server
        if former is not None:
            former.close()

    async def look(self) -> None:
        """Begin again where those who were waiting at the last look still wait, and all others.

        Between two looks the loop must have had its turn to take connections.

        Raises:
            OSError, MemoryError: that failed; the next look tries again.
        """
        before = self._taken_before
        self._taken_before = self._taken if self._is_waited_for() else None
        if before is not None and before == self._taken_before:
            await self.listen()
            self._stalled()
            logger.error("connections were not taken any more; listening again")

    def close(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()

    async def wait_closed(self) -> None:
        """Returns when its connections are gone as well."""
        if self._server is not None:
            await self._server.wait_closed()

    def _make(self) -> asyncio.Protocol:
        try:
            self._taken += 1
            return self._factory()
        except MemoryError:
            return _REFUSAL

    def _is_waited_for(self) -> bool:
        return self._queue is not None and bool(self._queue.poll(0))
