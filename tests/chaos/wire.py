"""The least of a WebSocket's, a stream's and an HTTP client: thousands of them fit in a test.

They share nothing with the service: what it says is taken from the bytes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from tests.harness.event_stream import EventStreamParser

_TEXT, _CLOSE, _PING = 0x1, 0x8, 0x9
_HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: herald\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: herald.v1\r\n\r\n"
)


class ClientConnection(asyncio.Protocol):
    """One connection; it ends with a reason.

    Attributes:
        ended: how: "1012" for a close code, "503" for a refusal, "lost" without a word.
        heard_at: loop time at which something last arrived.
    """

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self.heard_at = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("lost")

    def _end(self, how: str) -> None:
        if not self.ended.done():
            self.ended.set_result(how)
        if self.transport is not None:
            self.transport.close()

    def stop_reading(self) -> None:
        """As a client whose process hangs."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def abort(self) -> None:
        """Break off without a word."""
        if self.transport is not None:
            self.transport.abort()
        self._end("aborted")


class ClientSocket(ClientConnection):
    """A WebSocket: says `connect`, and gives each message to `take`."""

    def __init__(self, connect: dict[str, Any], take: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(_HANDSHAKE)
        self._connect = connect
        self._take = take
        self._buffer = bytearray()
        self._open = False

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        self._buffer += data
        if not self._open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head[:20]:
                self._end(head.split(b" ", 2)[1].decode())
                return
            self._open = True
            self._buffer = bytearray(rest)
            self.say(self._connect)
        self._read_frames()

    def _read_frames(self) -> None:
        buffer = self._buffer
        at = 0
        while len(buffer) - at >= 2 and not self.ended.done():
            size, head = buffer[at + 1], 2
            if size == 126:
                head, size = 4, int.from_bytes(buffer[at + 2 : at + 4], "big")
            elif size == 127:
                head, size = 10, int.from_bytes(buffer[at + 2 : at + 10], "big")
            if len(buffer) - at < head + size:
                break
            opcode = buffer[at] & 0x0F
            payload = bytes(buffer[at + head : at + head + size])
            at += head + size
            if opcode == _TEXT:
                self._message(json.loads(payload))
            elif opcode == _PING:
                self._write(0xA, payload)
            elif opcode == _CLOSE:
                self._write(_CLOSE, payload[:2])
                self._end(str(int.from_bytes(payload[:2], "big")) if payload else "1005")
        del buffer[:at]

    def _message(self, message: dict[str, Any]) -> None:
        if message["type"] == "ping":
            self.say({"type": "pong"})
        else:
            self._take(message)

    def say(self, message: dict[str, Any]) -> None:
        self._write(_TEXT, json.dumps(message).encode())

    def _write(self, opcode: int, payload: bytes) -> None:
        # A mask of zeros is one too, and leaves the payload as it is.
        size = len(payload)
        if size < 126:
            head = bytes([0x80 | opcode, 0x80 | size])
        elif size < 65536:
            head = bytes([0x80 | opcode, 0x80 | 126]) + size.to_bytes(2, "big")
        else:
            head = bytes([0x80 | opcode, 0x80 | 127]) + size.to_bytes(8, "big")
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(head + bytes(4) + payload)


class ClientStream(ClientConnection):
    """A stream of server-sent events: gives each message to `take`, with the last id then."""

    def __init__(
        self,
        path: str,
        token: str,
        last_id: str | None,
        take: Callable[[dict[str, Any], str], None],
    ) -> None:
        resume = "" if last_id is None else f"Last-Event-ID: {last_id}\r\n"
        super().__init__(
            (
                f"GET {path} HTTP/1.1\r\nHost: herald\r\nAccept: text/event-stream\r\n"
                f"Authorization: Bearer {token}\r\n{resume}\r\n"
            ).encode()
        )
        self._take = take
        self._head = b""
        self._parser: EventStreamParser | None = None

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        if self._parser is None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 200 " not in head[:20]:
                self._end(head.split(b" ", 2)[1].decode())
                return
            self._parser = EventStreamParser()
        for message in self._parser.feed(data):
            told = json.loads(message.data)
            if told["type"] == "close":
                self._end(str(told["code"]))
            if self.ended.done():
                return
            self._take(told, message.id)


class HttpClient:
    """POSTs JSON over kept-alive connections, one a port, opened anew where they broke."""

    def __init__(self, key: str, timeout: float) -> None:
        self._key = key
        self._timeout = timeout
        self._streams: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def post(self, port: int, path: str, body: Any) -> tuple[int, Any]:
        """Status and answer.

        Raises:
            OSError: also where no answer comes in time. It may have been dealt with, or not.
        """
        content = json.dumps(body).encode()
        request = (
            f"POST {path} HTTP/1.1\r\nHost: herald\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        ).encode() + content
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await self._connected(port)
                writer.write(request)
                return await self._answer(port, reader)
        except (OSError, asyncio.IncompleteReadError) as error:
            self._drop(port)
            raise OSError(type(error).__name__) from None

    async def _connected(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        streams = self._streams.get(port)
        if streams is None or streams[1].is_closing():
            streams = self._streams[port] = await asyncio.open_connection("127.0.0.1", port)
        return streams

    async def _answer(self, port: int, reader: asyncio.StreamReader) -> tuple[int, Any]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        body = await reader.readexactly(length)
        if "connection: close" in head:
            self._drop(port)
        return int(head.split(" ", 2)[1]), json.loads(body)

    def _drop(self, port: int) -> None:
        streams = self._streams.pop(port, None)
        if streams is not None:
            streams[1].transport.abort()

    def close(self) -> None:
        for port in list(self._streams):
            self._drop(port)
