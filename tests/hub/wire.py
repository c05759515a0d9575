"""A WebSocket as bytes on a socket, for what no client library would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from websockets.frames import apply_mask

from tests.harness.process import PATIENCE, Herald, mint

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_MASK = b"\0\0\0\0"  # a mask that changes nothing: frames can be read in a failure


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    masked: bool = True,
    reserved: int = 0,
    mask: bytes = _MASK,
) -> bytes:
    """One frame of a client's. `reserved`: the three bits as a number, the first is worth 4."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    bit = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    return head + (mask + apply_mask(payload, mask) if masked else payload)


def text(**message: Any) -> bytes:
    return frame(TEXT, json.dumps(message).encode())


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


def handshake(token: str | None = None, *, herald: bool = False, extra: str = "") -> bytes:
    """The request: of a plain client, or of one that offers `herald.v1`."""
    query = f"?token={token}" if token else ""
    offered = "Sec-WebSocket-Protocol: herald.v1\r\n" if herald else ""
    return (
        f"GET /v1/ws{query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\n{offered}{extra}"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()


class Got(NamedTuple):
    """One frame of the server's."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of a close; 1005 where it has none."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2]) if self.payload else 1005


class Wire:
    """One end of a connection; nothing is sent by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Each piece in a write of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def head(self) -> int:
        """The answer to the handshake; gives back its status."""
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ")[1])

    async def next(self) -> Got:
        """The next frame, which must be whole and unmasked."""
        async with asyncio.timeout(PATIENCE):
            first, size = await self.reader.readexactly(2)
            assert first & 0xF0 == 0x80, first
            assert not size & 0x80
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2))
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8))
            return Got(first & 0x0F, await self.reader.readexactly(size))

    async def message(self) -> dict[str, Any]:
        """The next frame, which must be a message."""
        got = await self.next()
        assert got.opcode == TEXT, got
        message: dict[str, Any] = json.loads(got.payload)
        return message

    async def expect(self, kind: str) -> dict[str, Any]:
        message = await self.message()
        assert message["type"] == kind, message
        return message

    async def closed(self, *, answer: bool = True) -> int:
        """The next frame, which must be a close with nothing after it; gives back its code."""
        got = await self.next()
        code = got.code
        if answer:
            with contextlib.suppress(OSError):  # where it answers ours, the socket is gone
                await self.send(frame(CLOSE, got.payload))
        async with asyncio.timeout(PATIENCE):
            assert await self.reader.read() == b""
        return code

    def reset(self) -> None:
        """RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def opened(herald: Herald) -> AsyncIterator[Wire]:
    """A connection on which nothing was said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", herald.port, limit=1 << 22)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def plain(herald: Herald, user: str, **claims: Any) -> AsyncIterator[Wire]:
    """A plain connection after its welcome."""
    async with opened(herald) as wire:
        await wire.send(handshake(mint(user, **claims)))
        assert await wire.head() == 101
        await wire.expect("welcome")
        yield wire
