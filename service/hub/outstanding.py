"""How much of what was written to a socket its peer has not taken yet."""

from __future__ import annotations

import asyncio
import struct
import sys

_SIOCOUTQ = 0x5411  # linux/sockios.h: bytes not acknowledged by the peer


def outstanding(transport: asyncio.Transport) -> int:
    """Bytes in our buffer and, on Linux, in the kernel's."""
    waiting = transport.get_write_buffer_size()
    if sys.platform == "linux":
        import fcntl

        sock = transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            try:
                reply = fcntl.ioctl(sock.fileno(), _SIOCOUTQ, b"\0\0\0\0")
            except OSError:
                return waiting
            (unacknowledged,) = struct.unpack("i", reply)
            waiting += unacknowledged
    return waiting
