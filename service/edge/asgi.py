"""The types of ASGI that are passed around here (https://asgi.readthedocs.io)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


Headers = Sequence[tuple[bytes, bytes]]
"""Of a request; the names are in lower case."""


def find_header(headers: Headers, name: bytes) -> str | None:
    """The first header of this lower-case name, as text."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return None


def header(scope: Scope, name: bytes) -> str | None:
    """The same, of an ASGI scope."""
    return find_header(scope["headers"], name)
