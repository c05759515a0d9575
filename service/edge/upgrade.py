"""The server's side of WebSocket's opening handshake (RFC 6455, 4.2), without extensions."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import NamedTuple

from service.edge.answers import ProblemError
from service.edge.asgi import Headers, find_header

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION = b"13"
_KEY_BYTES = 16


class Opening(NamedTuple):
    """What a client that opens a WebSocket asks for.

    Attributes:
        path: decoded, without the query.
        query: raw.
        headers: names in lower case.
        key: `Sec-WebSocket-Key`, checked.
        subprotocols: offered, in the client's order.
    """

    path: str
    query: bytes
    headers: Headers
    key: bytes
    subprotocols: list[str]

    def header(self, name: bytes) -> str | None:
        """The first header of this lower-case name, as text."""
        return find_header(self.headers, name)


def read_opening(
    method: bytes, http_version: str, path: str, query: bytes, headers: Headers
) -> Opening:
    """Check a request that says `Connection: Upgrade` and `Upgrade: websocket`.

    Raises:
        ProblemError: 400, 405, or 426 for another version of the protocol, as the RFC says (4.2.2).
    """
    if method != b"GET":
        raise ProblemError(405, "A WebSocket is opened with GET.", headers=((b"allow", b"GET"),))
    if http_version != "1.1":
        raise ProblemError(400, "A WebSocket is opened with HTTP/1.1.")
    keys: list[bytes] = []
    version = b""
    subprotocols: list[str] = []
    for name, value in headers:
        if name == b"sec-websocket-key":
            keys.append(value.strip())
        elif name == b"sec-websocket-version":
            version = value.strip()
        elif name == b"sec-websocket-protocol":
            subprotocols += [
                item for part in value.decode("latin-1").split(",") if (item := part.strip())
            ]
        elif (name == b"content-length" and value.strip() != b"0") or name == b"transfer-encoding":
            raise ProblemError(400, "The request that opens a WebSocket has no body.")
    if version != _VERSION:
        raise ProblemError(
            426,
            "This server speaks version 13 of the WebSocket protocol (RFC 6455).",
            headers=((b"sec-websocket-version", _VERSION), (b"upgrade", b"websocket")),
        )
    if len(keys) != 1 or not _is_key(keys[0]):
        raise ProblemError(400, "Sec-WebSocket-Key is 16 bytes in base64, once.")
    return Opening(path, query, headers, keys[0], subprotocols)


def accept(opening: Opening, subprotocol: str | None) -> bytes:
    """The whole answer that opens the WebSocket."""
    digest = base64.b64encode(hashlib.sha1(opening.key + _GUID, usedforsecurity=False).digest())
    chosen = (
        b"" if subprotocol is None else b"Sec-WebSocket-Protocol: %b\r\n" % subprotocol.encode()
    )
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (digest, chosen)
    )


def _is_key(text: bytes) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False
