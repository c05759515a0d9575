"""The doors past ASGI: which requests go through them, and what those behind them are handed.

- `Doors.websocket` gets a WebSocket's opening as an `Upgrade`: it refuses it with a status, or
  accepts it and has the transport from then on.
- `Doors.posts` get a POST as headers, body and a function to call with the answer.
- Through `TAKEOVER`, an ASGI application that was given a request takes the transport, and writes
  to it whatever it likes instead of an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from service.edge.answers import Answer, answer_bytes
from service.edge.asgi import Headers
from service.edge.guard import GuardedHttp
from service.edge.lobby import Lobby
from service.edge.upgrade import Opening, accept

Respond = Callable[[Answer], None]
PostEndpoint = Callable[[Headers, bytes, Respond], None]
"""Headers, body, and what to call with the answer, once, now or later."""
Takeover = Callable[[], asyncio.Transport | None]
"""Gives the transport, or None where the client has gone. Nothing is answered through ASGI then."""
TAKEOVER = "herald.takeover"
"""The name of the ASGI extension that holds a `Takeover`."""


class Doors(NamedTuple):
    """What is not served through ASGI.

    Attributes:
        websocket: gets every WebSocket's opening, on any path.
        posts: by raw path.
        lobby: where those are who wait outside of either.
    """

    websocket: Callable[[Upgrade], None]
    posts: Mapping[bytes, PostEndpoint]
    lobby: Lobby = Lobby()


class Upgrade:
    """A WebSocket that is being opened. One of `accept` and `refuse` is called, now or later."""

    __slots__ = ("_early", "_http", "_transport", "opening")

    def __init__(self, opening: Opening, http: GuardedHttp, early: bytes) -> None:
        self.opening = opening
        self._http = http
        self._transport = http.transport
        self._early = early

    @property
    def gone(self) -> bool:
        """Whether the client has gone meanwhile."""
        return self._transport.is_closing()

    def wait(self) -> None:
        """The answer takes a while: read nothing more until then."""
        self._transport.pause_reading()

    def accept(self, subprotocol: str | None) -> tuple[asyncio.Transport, bytes]:
        """Open it; the transport is the caller's now, with what the client sent early."""
        self._transport.write(accept(self.opening, subprotocol))
        return self._transport, self._early

    def refuse(self, answer: Answer) -> None:
        """Answer with a status instead, and close."""
        self._http.say_and_close(answer)


class DirectCycle:
    """A POST that is being answered. It stands where uvicorn keeps such a request.

    The attributes are those that uvicorn's protocol uses (`RequestResponseCycle`).
    """

    __slots__ = ("_http", "body", "disconnected", "keep_alive", "more_body", "response_complete")

    def __init__(self, http: GuardedHttp, *, keep_alive: bool) -> None:
        self._http = http
        self.keep_alive = keep_alive
        self.body = b""
        self.more_body = False
        self.disconnected = False
        self.response_complete = False

    @property
    def message_event(self) -> DirectCycle:
        return self

    def set(self) -> None:
        """What uvicorn would wake is not there."""

    def respond(self, answer: Answer) -> None:
        """Write the whole answer."""
        if self.disconnected or self.response_complete:
            return
        self.response_complete = True
        http = self._http
        http.transport.write(
            answer_bytes(answer, http.server_state.default_headers, keep_alive=self.keep_alive)
        )
        if not self.keep_alive:
            http.transport.close()
        http.on_response_complete()
