"""Writes one piece of data to many sockets, with as little around the system call as can be.

`write(2)` to a socket is nearly all that a delivery costs, and the memory that is touched is what
makes it slower (docs/performance.md). So as long as nothing waits for a member, data goes to its
descriptor itself, and the descriptors of a large channel stand side by side in an array: the loop
touches neither connections nor transports. That takes a quarter less time than a transport's
`write` to each.

The first piece that a socket does not take in whole goes through the transport, as all others do
until the member has caught up (its `fd` is `BEHIND` meanwhile), so order is kept. Every change of
an `fd` makes the arrays invalid (`Writer.changed`).

A descriptor is used only while its connection is a member of a channel. A transport tells its
protocol that the connection is lost before it closes the socket (asyncio and uvloop do), and the
protocol leaves its channels then, so a number that the system has given to another socket meanwhile
is never written to.
"""

from __future__ import annotations

import asyncio
import os
import sys
from array import array
from collections.abc import Iterable

from service.core.outbox import overflows
from service.hub.live import LiveChannel, Member

BEHIND = -1
"""Instead of a descriptor: write through the transport."""
_FEW = 16
"""Up to so many members, an array of their descriptors is not worth its memory."""


def descriptor(transport: asyncio.Transport) -> int:
    """Where to write directly, or BEHIND where something waits or only the transport may write."""
    if (
        sys.platform == "win32"
        or transport.get_extra_info("sslcontext") is not None
        or transport.get_write_buffer_size()
        or transport.is_closing()
    ):
        return BEHIND
    sock = transport.get_extra_info("socket")
    return BEHIND if sock is None else int(sock.fileno())


class Writer:
    """Of one hub."""

    def __init__(self) -> None:
        self._changes = 0

    def changed(self) -> None:
        """The `fd` of some member has changed."""
        self._changes += 1

    def write(self, live: LiveChannel, data: bytes, budget: int) -> list[Member]:
        """Write to all but those that it returns, for whom more than `budget` bytes would wait."""
        if len(live.members) <= _FEW:
            fds: Iterable[int] = [member.fd for member in live.members]
        else:
            if live.fds is None or live.fds_as_of != self._changes:
                live.fds = array("i", [member.fd for member in live.members])
                live.fds_as_of = self._changes
            fds = live.fds
        size = len(data)
        write = os.write
        rest: list[tuple[int, int]] = []
        for index, fd in enumerate(fds):
            sent = 0
            if fd >= 0:
                try:
                    sent = write(fd, data)
                except OSError:
                    sent = 0  # full, or broken: the transport finds out which
                if sent == size:
                    continue
            rest.append((index, sent))
        if not rest:
            return []
        members = list(live.members)
        slow: list[Member] = []
        for index, sent in rest:
            member = members[index]
            if not self._write_through(member, data, sent, budget):
                slow.append(member)
        return slow

    def _write_through(self, member: Member, data: bytes, sent: int, budget: int) -> bool:
        """The rest goes through the transport; False where too much waits there already."""
        transport = member.transport
        if overflows(transport.get_write_buffer_size(), len(data), budget):
            return False
        transport.write(data[sent:])
        fd = descriptor(transport)
        if fd != member.fd:
            member.fd = fd
            self.changed()
        return True
