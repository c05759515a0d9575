"""uvicorn's protocols, made to hand a WebSocket's transport over after the handshake.

A stock uvicorn WebSocket keeps a task, a queue, a parser and the ASGI scope per connection: 19 KB.
Here the ASGI endpoint authenticates and accepts as usual, then calls the scope's extension
`herald.release`, which gives it the transport and lets everything else be freed (docs/adr/0004).

The HTTP side also limits the time and the bytes that a request's head may take, which uvicorn does
not.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from httptools import HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.edge.answers import ProblemError

EXTENSION = "herald.release"
Release = Callable[[], tuple[asyncio.Transport, bytes]]

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 * 1024
_HEAD_END = b"\r\n\r\n"
_EARLY_BYTES = 64 * 1024


def _last_answer(problem: ProblemError) -> bytes:
    """A whole HTTP response, after which the connection is closed."""
    answer, phrase = problem.answer(), HTTPStatus(problem.status).phrase.encode()
    return (
        b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
        % (answer.status, phrase, answer.content_type, len(answer.body), answer.body)
    )


_TOO_LARGE = _last_answer(
    ProblemError(431, f"The head of a request may have at most {HEAD_BYTES} bytes.")
)
_UNREADABLE = _last_answer(
    ProblemError(400, "The handshake has too many or too long header lines, or a body.")
)


class _Released(asyncio.Transport):
    """Stands where the transport was, so that uvicorn's cleaning up closes nothing."""

    def close(self) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
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
            if not self.handshake_initiated:
                # The whole request came, and its own parser took no part of it: uvicorn would
                # neither answer nor close.
                self.transport.write(_UNREADABLE)
                self.transport.close()
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

    async def send(self, message: Any) -> None:
        """A refusal completes the handshake too: uvicorn would log each one as an error."""
        await super().send(message)
        if self.close_sent:
            self.handshake_complete = True

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
    _head_tail = b""
    _piece = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_timer is not None:
            # The end of the head may lie across two reads.
            end = (self._head_tail + data).find(_HEAD_END)
            self._head_bytes += len(data) if end < 0 else end
            self._head_tail = data[-len(_HEAD_END) + 1 :]
            if self._head_bytes > HEAD_BYTES:
                self._head_done()
                self.transport.write(_TOO_LARGE)
                self.transport.close()
                return
        self._piece = data
        super().data_received(data)
        self._piece = b""

    def handle_websocket_upgrade(self) -> None:
        """Uvicorn drops what came in one piece with the request: pass it on."""
        super().handle_websocket_upgrade()
        upgrade = sys.exc_info()[1]  # is being handled, and says where the request ended
        websocket = self.transport.get_protocol()
        if (
            isinstance(upgrade, HttpParserUpgrade)
            and isinstance(websocket, AdoptableWebSocket)
            and websocket.handshake_initiated
            and (early := self._piece[upgrade.args[0] :])
        ):
            websocket.data_received(early)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_done()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._head_tail = b""
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_too_slow)

    def _head_done(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()
