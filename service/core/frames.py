"""WebSocket frames (RFC 6455): building the server's, reading the client's.

A frame is built once per event, whoever receives it. Reading uses the frame parser of the
`websockets` library; a reader is made when bytes arrive and dropped once it is idle, so a silent
connection holds none.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from enum import Enum
from typing import NamedTuple

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

from service.core.close import CloseCode


def text_frame(payload: bytes) -> bytes:
    """One unfragmented, unmasked text frame (RFC 6455, 5.2). `payload` is UTF-8."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65536:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload


def close_frame(code: int, reason: str) -> bytes:
    """A close frame; the reason is cut to the 123 bytes that fit (RFC 6455, 5.5)."""
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return b"\x88%c%b%b" % (2 + len(text), struct.pack("!H", code), text)


def pong_frame(payload: bytes) -> bytes:
    """The answer to a ping, with its payload of at most 125 bytes (RFC 6455, 5.5.3)."""
    return b"\x8a%c%b" % (len(payload), payload)


PING_FRAME = b"\x89\x00"


def is_lone_pong(data: bytes) -> bool:
    """Whether `data` is just one masked pong: what an idle client sends, and all it sends."""
    return (
        len(data) >= 6
        and data[0] == 0x8A
        and 0x80 <= data[1] <= 0x80 + 125  # masked, and no longer than a control frame may be
        and (len(data) == (data[1] & 0x7F) + 6)
    )


class FrameError(Exception):
    """The client broke the protocol: close with `code`."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Kind(Enum):
    """What arrived."""

    TEXT = "text"
    PING = "ping"
    PONG = "pong"
    CLOSE = "close"
    PART = "part"
    """A fragment that does not end its message: work was done, and there is nothing to tell."""


class Incoming(NamedTuple):
    """A whole message or control frame. `code`: of a close, 1005 where it has none."""

    kind: Kind
    payload: bytes
    code: int = 0


class MessageReader:
    """Turns a client's bytes into messages: unmasks, joins fragments, checks UTF-8 and limits."""

    __slots__ = ("_fragments", "_limit", "_parser", "_stream")

    def __init__(self, max_message_bytes: int) -> None:
        self._limit = max_message_bytes
        self._stream = StreamReader()
        self._parser: Generator[None, None, Frame] | None = None
        self._fragments: bytearray | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is half read, so that the reader can be dropped."""
        return self._parser is None and self._fragments is None and not self._stream.buffer

    def feed(self, data: bytes) -> None:
        """Take bytes from the socket."""
        self._stream.feed_data(data)

    def read(self) -> Incoming | None:
        """What the next frame brought, or None until more bytes come.

        Raises:
            FrameError: 1002, 1003, 1007 or 1009.
        """
        frame = self._read_frame()
        if frame is None:
            return None
        opcode = frame.opcode
        payload = bytes(frame.data)
        if opcode is Opcode.PING:
            return Incoming(Kind.PING, payload)
        if opcode is Opcode.PONG:
            return Incoming(Kind.PONG, payload)
        if opcode is Opcode.CLOSE:
            return Incoming(Kind.CLOSE, b"", _close_code(payload))
        whole = self._join(opcode, payload, frame.fin)
        if whole is None:
            return Incoming(Kind.PART, b"")
        try:
            whole.decode()
        except UnicodeDecodeError:
            raise FrameError(CloseCode.INVALID_DATA, "text is not UTF-8") from None
        return Incoming(Kind.TEXT, whole)

    def _read_frame(self) -> Frame | None:
        if self._parser is None:
            if not self._stream.buffer:
                return None
            self._parser = Frame.parse(self._stream.read_exact, mask=True, max_size=self._limit)
        try:
            next(self._parser)
        except StopIteration as done:
            self._parser = None
            frame: Frame = done.value
            return frame
        except PayloadTooBig:
            raise FrameError(
                CloseCode.MESSAGE_TOO_BIG, f"a message has at most {self._limit} bytes"
            ) from None
        except ProtocolError as error:
            raise FrameError(CloseCode.PROTOCOL_ERROR, str(error)) from None
        return None

    def _join(self, opcode: Opcode, payload: bytes, fin: bool) -> bytes | None:
        if opcode is Opcode.BINARY:
            raise FrameError(CloseCode.UNSUPPORTED_DATA, "binary messages are not understood")
        if (opcode is Opcode.CONT) != (self._fragments is not None):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "unexpected fragment")
        if self._fragments is None:
            if fin:
                return payload
            self._fragments = bytearray(payload)
            return None
        self._fragments += payload
        if len(self._fragments) > self._limit:
            raise FrameError(
                CloseCode.MESSAGE_TOO_BIG, f"a message has at most {self._limit} bytes"
            )
        if not fin:
            return None
        whole = bytes(self._fragments)
        self._fragments = None
        return whole


def _close_code(payload: bytes) -> int:
    try:
        return int(Close.parse(payload).code)
    except ProtocolError as error:
        raise FrameError(CloseCode.PROTOCOL_ERROR, str(error)) from None
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_DATA, "close reason is not UTF-8") from None
