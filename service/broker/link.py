"""One pipelined connection to the engine, over hiredis.

Commands of one turn of the event loop go out in one write; replies come back in order. This costs
about a fifth of redis-py's CPU per command, and a twentieth per pushed message (docs/adr/0003).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis

from service.broker.endpoint import Endpoint
from service.core.errors import EngineError, EngineUnavailable

PushHandler = Callable[[list[Any]], None]


Argument = bytes | str | int
# hiredis types its argument as a tuple of one.
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)


class Link(asyncio.Protocol):
    """Send commands with `call`; `on_push` gets what the engine sends unasked (RESP3 pushes)."""

    def __init__(self, on_push: PushHandler | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._on_push = on_push
        self.closed: asyncio.Future[None] = self._loop.create_future()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        pending = self._pending
        try:
            while (reply := reader.gets()) is not False:
                if type(reply) is hiredis.PushNotification:
                    if self._on_push is not None:
                        self._on_push(reply)
                    continue
                future, _ = pending.popleft()
                if future.done():
                    continue
                if isinstance(reply, hiredis.HiredisError):
                    future.set_exception(EngineError(str(reply)))
                else:
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for future, _ in self._pending:
            if not future.done():
                future.set_exception(EngineUnavailable("The engine's connection was lost."))
        self._pending.clear()
        self._outgoing.clear()
        if not self.closed.done():
            self.closed.set_result(None)

    # For its owner

    @property
    def in_flight(self) -> int:
        """Commands without an answer."""
        return len(self._pending)

    def call(self, *command: Argument) -> asyncio.Future[Any]:
        """Send one command; the future gets its reply.

        The future raises EngineError for an error reply and EngineUnavailable where the
        connection is lost before the reply: the command may or may not have been carried out.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._transport is None:
            future.set_exception(EngineUnavailable("The engine's connection was lost."))
            return future
        self._pending.append((future, self._loop.time()))
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(_pack(command))
        return future

    def send_unanswered(self, *command: Argument) -> None:
        """Send a command whose answer is a push: subscribing and unsubscribing."""
        if self._transport is None:
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(_pack(command))

    def waiting_since(self) -> float | None:
        """When the oldest command without an answer was sent (loop time), or None."""
        return self._pending[0][1] if self._pending else None

    def abort(self) -> None:
        """Drop the connection; what is in flight fails with EngineUnavailable."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing:
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()


async def open_link(endpoint: Endpoint, on_push: PushHandler | None = None) -> Link:
    """Connect, speak RESP3, log in, select the database, and make sure it is a primary.

    Raises:
        EngineUnavailable: it cannot be reached, or is a replica.
        EngineError: it refuses the credentials or the database.
        OSError: from the socket.
    """
    loop = asyncio.get_running_loop()

    def factory() -> Link:
        return Link(on_push)

    if endpoint.path is not None:
        _, link = await loop.create_unix_connection(factory, endpoint.path)
    else:
        _, link = await loop.create_connection(
            factory, endpoint.host, endpoint.port, ssl=endpoint.tls
        )
    try:
        hello: list[Argument] = ["HELLO", "3"]
        if endpoint.password is not None:
            hello += ["AUTH", endpoint.username or "default", endpoint.password]
        await link.call(*hello, "SETNAME", "herald")
        if endpoint.database:
            await link.call("SELECT", endpoint.database)
        role = await link.call("ROLE")
        if role[0] not in (b"master", b"primary"):
            raise EngineUnavailable("The engine is a replica; waiting for a primary.")
    except BaseException:
        link.abort()
        raise
    return link
