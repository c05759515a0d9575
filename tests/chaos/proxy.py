"""A TCP proxy on 127.0.0.1 that treats its connections as bad networks do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from tests.harness.process import free_port
from tests.harness.servers import end_of

_CHUNK = 65536
Target = Callable[[], tuple[str, int] | str]
"""Host and port, or the path of a unix socket."""


@dataclass
class Weather:
    """What happens to what passes; may be changed at any time.

    Attributes:
        refuse: new connections are reset.
        swallow: nothing passes any more, and nobody is told (half-open).
        delay: seconds that every piece waits, each way.
        dribble: one byte at a time.
        reset_after: each connection is reset once so many bytes have come from the target.
    """

    refuse: bool = False
    swallow: bool = False
    delay: float = 0.0
    dribble: bool = False
    reset_after: int | None = None


class Proxy:
    """Carries bytes both ways, in the weather of the moment."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.weather = Weather()
        self.port = free_port()
        self.cuts = 0
        self.tls: ssl.SSLContext | None = None
        self._server: asyncio.Server | None = None
        self._former: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.tls, backlog=4096
        )

    async def present(self, tls: ssl.SSLContext) -> None:
        """From now on, speak TLS with this certificate; open connections are reset."""
        assert self._server is not None
        self._server.close()
        self._former.append(self._server)
        self.tls = tls
        self.cut()
        await self.start()

    def cut(self) -> None:
        """Reset every open connection."""
        for writer in list(self._writers):
            self.cuts += 1
            _reset(writer)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            _reset(writer)
        if self._tasks:  # they end with their connections; asyncio complains of cancelled ones
            await asyncio.wait(self._tasks, timeout=10.0)
        for server in (*self._former, self._server):
            if server is not None:
                await end_of(server)

    def passage(self, writer: asyncio.StreamWriter) -> asyncio.Event:
        """For a new connection: what is set while anything may pass; see `partition`."""
        passage = asyncio.Event()
        passage.set()
        return passage

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.weather.refuse:
            _reset(writer)
            return
        try:
            target = self.target()
            if isinstance(target, str):
                there = await asyncio.open_unix_connection(target)
            else:
                there = await asyncio.open_connection(*target)
        except OSError:
            _reset(writer)
            return
        fate = _Fate(self.passage(writer))
        ends = (writer, there[1])
        self._writers.update(ends)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, there[1], fate, answers=False))
                group.create_task(self._carry(there[0], writer, fate, answers=True))
        except* (OSError, _Reset):
            pass
        finally:
            for end in ends:
                self._writers.discard(end)
                _reset(end)

    async def _carry(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        fate: _Fate,
        *,
        answers: bool,
    ) -> None:
        carried = 0
        while data := await source.read(_CHUNK):
            await fate.passage.wait()
            weather = self.weather
            if weather.delay:
                await asyncio.sleep(weather.delay)
            if weather.swallow or fate.dead:
                fate.dead = True
                continue
            if answers and weather.reset_after is not None:
                left = weather.reset_after - carried
                carried += len(data)
                if left < len(data):
                    target.write(data[: max(0, left)])
                    await target.drain()
                    self.cuts += 1
                    raise _Reset
            if weather.dribble:
                for byte in data:
                    target.write(bytes([byte]))
                    await asyncio.sleep(0)
            else:
                target.write(data)
            await target.drain()
        await fate.passage.wait()  # an end is not told either
        raise _Reset  # either end ends both: nothing here half-closes


class _Reset(Exception):
    pass


class _Fate:
    """Of one connection: once something was swallowed, nothing passes; TCP has no holes."""

    def __init__(self, passage: asyncio.Event) -> None:
        self.passage = passage
        self.dead = False


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError, AttributeError):
        raw = writer.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@contextlib.asynccontextmanager
async def proxying(target: Target, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """A proxy that is open, and is gone in the end."""
    proxy = Proxy(target)
    proxy.tls = tls
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
