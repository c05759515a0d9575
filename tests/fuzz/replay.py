"""Plays bytes on sockets, several at once, and keeps what the server said until it ended."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.harness.process import PATIENCE
from tests.hub.wire import Got


@dataclass
class Play:
    """One connection.

    Attributes:
        pieces: what is sent, each in a write of its own; then our side ends.
        reset: cut it off instead, and read nothing.
        wait: seconds for which a first word is waited for, with all others, before our side ends:
            HTTP's server answers nobody who has ended.
        said: all that came.
        was_reset: the server cut it off, so its last words may be missing.
    """

    pieces: Sequence[bytes]
    reset: bool = False
    wait: float = 0.0
    said: bytes = b""
    was_reset: bool = False


def play(port: int, plays: Sequence[Play]) -> None:
    """All of them at the same time.

    Raises:
        TimeoutError: a connection did not end.
    """
    with contextlib.ExitStack() as stack:
        opened: list[tuple[socket.socket, Play]] = []
        for one in plays:
            sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            stack.enter_context(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.append((sock, one))
        for turn in range(max(len(one.pieces) for one in plays)):
            for sock, one in opened:
                if turn < len(one.pieces):
                    with contextlib.suppress(ConnectionError):  # it has ended it already
                        sock.sendall(one.pieces[turn])
        began = time.monotonic()
        for sock, one in opened:
            if one.wait:
                select.select([sock], [], [], max(0.0, began + one.wait - time.monotonic()))
            if one.reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            else:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
        for sock, one in opened:
            if not one.reset:
                one.said, one.was_reset = _read_to_end(sock)


def _read_to_end(sock: socket.socket) -> tuple[bytes, bool]:
    said = bytearray()
    try:
        while data := sock.recv(1 << 20):
            said += data
    except ConnectionError:
        return bytes(said), True
    return bytes(said), False


def server_frames(said: bytes) -> list[Got]:
    """The frames in it, each whole, unmasked and unfragmented; a rest is an AssertionError."""
    frames: list[Got] = []
    at = 0
    while at < len(said):
        assert len(said) - at >= 2, "half a frame's head"
        first, size = said[at], said[at + 1]
        assert first & 0xF0 == 0x80, f"a frame that begins with {first:#x}"
        assert size < 128, "a masked frame"
        at += 2
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(said[at : at + width])
            at += width
        assert at + size <= len(said), "half a frame"
        frames.append(Got(first & 0x0F, said[at : at + size]))
        at += size
    return frames
