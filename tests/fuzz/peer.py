"""A WebSocket client that waits for each frame and does nothing by itself."""

from __future__ import annotations

import socket

from tests.fuzz.replay import server_frames
from tests.harness.process import PATIENCE
from tests.hub.wire import Got


class Peer:
    """One connection, after its handshake, which must be accepted."""

    def __init__(self, port: int, request: bytes) -> None:
        self._buffer = b""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.send(request)
            while b"\r\n\r\n" not in self._buffer:
                self._receive()
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101"), head
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def next(self) -> Got:
        """The next frame."""
        self._need(2)
        size = self._buffer[1]
        at = 2
        if size > 125:
            at += 2 if size == 126 else 8
            self._need(at)
            size = int.from_bytes(self._buffer[2:at])
        self._need(at + size)
        one, self._buffer = self._buffer[: at + size], self._buffer[at + size :]
        (got,) = server_frames(one)
        return got

    def at_end(self) -> bool:
        """Whether the server has ended the connection, for which this waits; nothing may come."""
        return not self._buffer and self._socket.recv(1) == b""

    def _need(self, size: int) -> None:
        while len(self._buffer) < size:
            self._receive()

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        assert data, "the connection has ended"
        self._buffer += data
