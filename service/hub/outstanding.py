"""How much of what was written to a socket its peer has not taken yet."""

from __future__ import annotations

import asyncio
import struct
import sys

if sys.platform == "linux":
    from fcntl import ioctl

    _SIOCOUTQ = 0x5411  # linux/sockios.h: bytes not acknowledged by the peer
    _ROOM = bytes(4)
    _read = struct.Struct("i").unpack

    def _unacknowledged(fd: int) -> int:
        try:
            return int(_read(ioctl(fd, _SIOCOUTQ, _ROOM))[0])
        except OSError:
            return 0  # no TCP socket, or gone

else:

    def _unacknowledged(fd: int) -> int:
        return 0


def outstanding(transport: asyncio.Transport, fd: int) -> int:
    """Bytes in our buffer and, on Linux, in the kernel's. `fd`: the socket's, or -1 for unknown."""
    if fd < 0:
        sock = transport.get_extra_info("socket")
        fd = -1 if sock is None else sock.fileno()
    return transport.get_write_buffer_size() + (_unacknowledged(fd) if fd >= 0 else 0)
