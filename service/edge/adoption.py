"""uvicorn's protocols, made to hand a WebSocket's transport over after the handshake.

A stock uvicorn WebSocket keeps a task, a queue, a parser and the ASGI scope per connection: 19 KB.
Here the ASGI endpoint authenticates and accepts as usual, then calls the scope's extension
`herald.release`, which gives it the transport and lets everything else be freed (docs/adr/0004).

The HTTP side also limits the time and the bytes that a request's head may take, which uvicorn does
not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.edge.answers import ProblemError

EXTENSION = "herald.release"
Release = Callable[[], tuple[asyncio.Transport, bytes]]

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 * 1024
_EARLY_BYTES = 64 * 1024

_PROBLEM = ProblemError(431, f"The head of a request may have at most {HEAD_BYTES} bytes.").answer()
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: %b\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b"
    % (_PROBLEM.content_type, len(_PROBLEM.body), _PROBLEM.body)
)


class _Released(asyncio.Transport):
    """Stands where the transport was, so that uvicorn's cleaning up closes nothing."""

    def close(self) -> None:
        pass

    def is_closing(self) -> bool:
        return True


_RELEASED = _Released()


class AdoptableWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket handshake; the connection itself is the endpoint's."""

    _early = b""

    def data_received(self, data: bytes) -> None:
        """Before the handshake: the request. After it: bytes for whoever gets the transport."""
        if not self.handshake_initiated:
            super().data_received(data)
            return
        # A client should wait for the answer to its handshake; one that does not loses nothing.
        self._early += data
        if len(self._early) > _EARLY_BYTES:
            self.transport.pause_reading()

    def handle_connect(self, event: Any) -> None:
        """Offer the extension to the endpoint, whose task has not run yet."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions = cast("dict[str, Any]", self.scope["extensions"])
            extensions[EXTENSION] = self._release

    def _release(self) -> tuple[asyncio.Transport, bytes]:
        transport, early = self.transport, self._early
        self.stop_keepalive()
        self.connections.discard(self)
        self.transport = _RELEASED
        self._early = b""
        return transport, early


class GuardedHttp(HttpToolsProtocol):
    """uvicorn's HTTP, with a deadline and a limit for the head of a request."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_timer is not None:
            end = data.find(b"\r\n\r\n")
            self._head_bytes += len(data) if end < 0 else end
            if self._head_bytes > HEAD_BYTES:
                self._head_done()
                self.transport.write(_TOO_LARGE)
                self.transport.close()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_done()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_too_slow)

    def _head_done(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()
