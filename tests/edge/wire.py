"""HTTP as bytes on a socket, for what no client library would send, and what answers look like."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from typing import Any

import httpx2

from tests.harness.process import KEY, PATIENCE

AUTHORIZED = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}


def problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """The problem document, which the answer must be."""
    assert answer.status_code == status, (answer.status_code, answer.text[:300])
    assert answer.headers["content-type"] == "application/problem+json"
    return check_problem(answer.json(), status)


def check_problem(document: dict[str, Any], status: int) -> dict[str, Any]:
    assert document["status"] == status, document
    assert document["type"] == "about:blank"
    assert isinstance(document["title"], str)
    assert isinstance(document["detail"], str)
    assert document["title"]
    assert document["detail"]
    return document


def request_bytes(
    method: str, path: str, headers: dict[str, str] | Iterable[tuple[str, str]], body: bytes = b""
) -> bytes:
    pairs = headers.items() if isinstance(headers, dict) else headers
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *(f"{k}: {v}" for k, v in pairs)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def open_socket(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


Head = tuple[int, dict[str, str], bytes]


def read_head(sock: socket.socket, data: bytes = b"") -> Head:
    """Status, headers (names in lower case) and what came of the body with them.

    `data`: what has been read of it already.
    """
    while b"\r\n\r\n" not in data:
        chunk = sock.recv(65536)
        assert chunk, f"closed after {data[:200]!r}"
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
    return int(first.split(" ")[1]), headers, rest


def read_answer(sock: socket.socket, data: bytes = b"", head: Head | None = None) -> Head:
    """A whole answer; its body has a length. `data` or `head`: what has been read of it already."""
    status, headers, body = read_head(sock, data) if head is None else head
    while len(body) < int(headers.get("content-length", "0")):
        chunk = sock.recv(65536)
        assert chunk, "closed in the middle of a body"
        body += chunk
    return status, headers, body


def exchange(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes on a connection of their own and read one answer."""
    with open_socket(port) as sock:
        sock.sendall(data)
        return read_answer(sock)


def json_of(body: bytes) -> Any:
    return json.loads(body)
