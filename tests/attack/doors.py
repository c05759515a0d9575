"""The doors of a live Herald, knocked at with bytes: every way in which a token can come.

Bytes, because no client library would send some of the tokens. All knocking is blocking and quick:
the answer to a bad token never has to wait.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from urllib.parse import quote

from tests.edge.wire import open_socket, read_answer, read_head, request_bytes
from tests.harness.process import PATIENCE, Herald
from tests.hub.wire import TEXT, frame

HEADER_WAYS = ("subprotocol", "header", "cookie", "query")
OPENING = (
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
)
PUBLISH = (
    ("POST", "/v1/events", b'{"to":"topic:attack","type":"t"}'),
    ("POST", "/v1/events?asgi", b'{"to":"topic:attack","type":"t"}'),
    ("POST", "/v1/events/batch", b'{"events":[]}'),
    ("GET", "/v1/channels/topic:attack/events", b""),
)
"""Each way that a publisher's credential goes: past ASGI, through it, with a task, and to read."""

CUT_OFF = 0
"""Instead of a status, where a head was so long that the server ended before it was sent."""


def opening(way: str, token: str, *, herald_v1: bool) -> bytes:
    """A handshake that brings the token in this way."""
    offered = ["herald.v1"] if herald_v1 else []
    path = "/v1/ws"
    fields = list(OPENING)
    if way == "subprotocol":
        offered.append(f"bearer.{token}")
    elif way == "header":
        fields.append(("authorization", f"Bearer {token}"))
    elif way == "cookie":
        fields.append(("cookie", f"a=b; herald_token={token}; c=d"))
        fields.append(("origin", "http://localhost"))  # its own, as `host` says
    elif way == "query":
        path += "?token=" + quote(token, safe="")
    if offered:
        fields.append(("sec-websocket-protocol", ", ".join(offered)))
    request = request_bytes("GET", path, [(name, as_bytes(value)) for name, value in fields])
    # Where the token is good, the welcome waits for this.
    return request + frame(TEXT, b'{"type":"connect"}') if herald_v1 else request


def as_bytes(value: str) -> str:
    """What is not ASCII goes as UTF-8, in the form that `request_bytes` takes."""
    return value.encode("utf-8", "surrogatepass").decode("latin-1")


def knock(port: int, request: bytes) -> int:
    """The status of the answer; 101 for a welcome; where it comes after the upgrade, the code."""
    with open_socket(port) as sock:
        send(sock, request)
        return first_word(sock)


def first_word(sock: socket.socket) -> int:
    """As `knock`, of a request that was sent."""
    try:
        status, _, rest = read_head(sock)
    except ConnectionError:
        return CUT_OFF
    return _outcome(sock, rest) if status == 101 else status


def knock_with_connect(port: int, token: object) -> int:
    """As `knock`, with the token in the `connect` message."""
    with open_socket(port) as sock:
        message = json.dumps({"type": "connect", "token": token}).encode()
        fields = [*OPENING, ("sec-websocket-protocol", "herald.v1")]
        sock.sendall(request_bytes("GET", "/v1/ws", fields))
        status, _, rest = read_head(sock)
        assert status == 101
        send(sock, frame(TEXT, message))
        return _outcome(sock, rest)


def _outcome(sock: socket.socket, data: bytes) -> int:
    """What the first frame says: 101 for a welcome, or the code of a close."""
    while len(data) < 4:
        chunk = sock.recv(65536)
        assert chunk, "ended without a close"
        data += chunk
    if data[0] == 0x88:
        return int.from_bytes(data[2:4])
    while b'"type":"' not in data:
        data += sock.recv(65536)
    kind = data.split(b'"type":"')[1].split(b'"')[0]
    assert kind == b"welcome", data
    return 101


def publish_statuses(herald: Herald, token: str) -> dict[str, int]:
    """What each door of the publish API answers to this credential."""
    found = {}
    for method, path, body in PUBLISH:
        fields = [
            ("authorization", as_bytes(f"Bearer {token}")),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
        ]
        with open_socket(herald.api_port) as sock:
            send(sock, request_bytes(method, path, fields, body))
            try:
                status = read_answer(sock)[0]
            except ConnectionError:
                status = CUT_OFF
            found[f"{method} {path}"] = status
    return found


def send(sock: socket.socket, data: bytes) -> None:
    """All of it, or as much as the server takes before it answers and ends."""
    sock.settimeout(PATIENCE)
    with contextlib.suppress(ConnectionError):
        sock.sendall(data)


def new_lines(herald: Herald, begin: int) -> Iterator[str]:
    """The log's lines from this byte on."""
    with herald.log_file.open("rb") as log:
        log.seek(begin)
        yield from log.read().decode(errors="replace").splitlines()
