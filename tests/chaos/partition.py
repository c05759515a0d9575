"""A network between engines, sentinels and gateways that can be split into two sides.

Every engine and every sentinel is known to gateways, and every engine to everybody, by the port of
a proxy of its own, its border. A border finds out which process has opened a connection. While the
network is split, nothing passes from one side to the other, and nobody is told: connections stand
still, new ones are taken and say nothing, and what was sent arrives once the network is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import weakref
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

from tests.chaos.engines import SentinelSet, Server
from tests.chaos.proxy import Proxy
from tests.harness.process import PATIENCE

Result = TypeVar("Result")


class SplitSentinelSet(SentinelSet):
    """A primary, two replicas and three sentinels, in a network that can be split."""

    def __init__(self) -> None:
        self._region = _Region()
        self._fronts: list[_Border] = []
        try:
            super().__init__()
            for port, sentinel in zip(self.sentinel_ports, self.sentinels, strict=True):
                self._fronts.append(self._region.border())
                self._fronts[-1].lead_to(port, sentinel.pid)
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        fronts = ",".join(f"127.0.0.1:{border.port}" for border in self._fronts)
        return f"redis+sentinel://{fronts}/main"

    def start_server(self, *arguments: str) -> Server:
        border = self._region.border()
        known_as = ("--replica-announce-ip", "127.0.0.1", "--replica-announce-port")
        server = Server(*known_as, str(border.port), *arguments)
        border.lead_to(server.port, server.process.pid)
        server.known_port = border.port
        return server

    def split(self, pids: Iterable[int]) -> None:
        """These processes on one side, all others on the other, until `heal`."""
        self._region.split(pids)

    def heal(self) -> None:
        self._region.split(())

    def stop(self) -> None:
        super().stop()
        self._region.close()


class _Region:
    """Borders, in an event loop and a thread of their own: engines start while they work."""

    def __init__(self) -> None:
        self.minority: frozenset[int] = frozenset()
        self._borders: list[_Border] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def border(self) -> _Border:
        """A new one, which is open."""
        border = _Border(self)
        self._borders.append(border)
        self._run(border.start())
        return border

    def split(self, pids: Iterable[int]) -> None:
        self._run(self._split(frozenset(pids)))

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _split(self, minority: frozenset[int]) -> None:
        self.minority = minority
        sockets = _sockets_of(minority)
        for border in self._borders:
            border.judge(sockets)

    async def _close(self) -> None:
        await self._split(frozenset())
        for border in self._borders:
            await border.close()
        await asyncio.sleep(0)  # lets the aborted transports end

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)


class _Border(Proxy):
    """In front of one engine or sentinel."""

    def __init__(self, region: _Region) -> None:
        super().__init__(lambda: ("127.0.0.1", self._leads_to))
        self._region = region
        self._leads_to = 0
        self._pid = 0
        self._passages: weakref.WeakSet[_Passage] = weakref.WeakSet()

    def lead_to(self, port: int, pid: int) -> None:
        self._leads_to, self._pid = port, pid

    def passage(self, writer: asyncio.StreamWriter) -> asyncio.Event:
        passage = _Passage(_socket_from(writer.get_extra_info("peername")[1], self.port))
        self._passages.add(passage)
        self._judge(passage, _sockets_of(self._region.minority))
        return passage

    def judge(self, minority: frozenset[str]) -> None:
        """Let pass, or not, by the sockets of the processes on the small side."""
        for passage in list(self._passages):
            self._judge(passage, minority)

    def _judge(self, passage: _Passage, minority: frozenset[str]) -> None:
        if (passage.source in minority) == (self._pid in self._region.minority):
            passage.set()
        else:
            passage.clear()


class _Passage(asyncio.Event):
    """Of one connection, with the socket that it comes from; set while it may pass."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source


def _socket_from(port: int, to: int) -> str:
    """The number of the socket that has this connection, as the kernel (Linux) gives it."""
    # Local address, remote address, state, four more columns, and the socket.
    row = rf":{port:04X} \w+:{to:04X} \w\w(?: +\S+){{5}} +(\d+)"
    found = re.search(row, Path("/proc/net/tcp").read_text())
    return found[1] if found else ""  # it has gone already


def _sockets_of(pids: Iterable[int]) -> frozenset[str]:
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    sockets.add(target[8:-1])
    return frozenset(sockets)
