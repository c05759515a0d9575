"""A relay between Herald and an engine that can go deaf, or speak TLS to Herald's side."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

from service.broker.embedded import EmbeddedEngine
from tests.harness.servers import end_of


class Relay:
    """Carries bytes both ways; can lose what the engine says to subscribers.

    `engine_port`: of 127.0.0.1, where the engine is not the bundled one on its unix socket.
    """

    def __init__(self, engine: EmbeddedEngine | None) -> None:
        self._path = "" if engine is None else engine.url.removeprefix("unix://")
        self.engine_port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.connections = 0
        self._subscribing: set[int] = set()
        self._deaf: set[int] = set()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        number = self.connections
        if self._path:
            engine_reader, engine_writer = await asyncio.open_unix_connection(self._path)
        else:
            engine_reader, engine_writer = await asyncio.open_connection(
                "127.0.0.1", self.engine_port
            )
        for source, target, answers in (
            (reader, engine_writer, False),
            (engine_reader, writer, True),
        ):
            task = asyncio.create_task(self._carry(number, source, target, answers))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(
        self,
        number: int,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        answers: bool,
    ) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    if b"SSUBSCRIBE" in data and not answers:
                        self._subscribing.add(number)
                    if not (answers and number in self._deaf):
                        target.write(data)
                        await target.drain()
        finally:
            target.close()

    def deafen_subscribers(self) -> None:
        """From now on, those that have subscribed hear nothing more; new connections do."""
        assert self._subscribing
        self._deaf |= self._subscribing

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._writers:
            # Of Python 3.11.2, where one with TLS is lost already.
            with contextlib.suppress(AttributeError):
                writer.transport.abort()


@contextlib.asynccontextmanager
async def relaying(
    engine: EmbeddedEngine | None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Relay]:
    """A relay on a TCP port of 127.0.0.1."""
    relay = Relay(engine)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0, ssl=tls)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        await relay.close()
        await end_of(server)
