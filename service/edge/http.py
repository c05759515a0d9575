"""One HTTP connection: uvicorn's protocol, with two doors of our own and a guard.

uvicorn parses requests and runs the ASGI application. Two kinds of request do not go there:

- **A WebSocket's opening** goes to `Doors.websocket`, which answers it and takes the transport
  over. A stock WebSocket of an ASGI server keeps a task, a queue, a parser and the scope: 19 KB for
  each connection (docs/adr/0004), and half the time of each handshake (docs/adr/0010).
- **A POST to a path of `Doors.posts`** that came in one piece is handed over as headers and body,
  and answered by a call, in one write: no task, no scope, no queue between. That is half of what
  uvicorn does per request (docs/performance.md). Any other request to these paths, as one whose
  body comes slowly, takes the ordinary way through ASGI, where the same endpoint is.

The guard limits the time and the bytes that a request's head may take, which uvicorn does not.

What ends a connection (no HTTP, a head too large or too slow) is said after the answers to the
requests before it: a client would take it for one of theirs.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.edge.answers import Answer, ProblemError
from service.edge.asgi import Headers
from service.edge.upgrade import Opening, accept, read_opening

logger = logging.getLogger("herald.http")

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 * 1024
_HEAD_END = b"\r\n\r\n"

Respond = Callable[[Answer], None]
PostEndpoint = Callable[[Headers, bytes, Respond], None]
"""Headers, body, and what to call with the answer, once, now or later."""


class Doors(NamedTuple):
    """What is not served through ASGI.

    Attributes:
        websocket: gets every WebSocket's opening, on any path.
        posts: by raw path.
    """

    websocket: Callable[[Upgrade], None]
    posts: Mapping[bytes, PostEndpoint]


class Upgrade:
    """A WebSocket that is being opened. One of `accept` and `refuse` is called, now or later."""

    __slots__ = ("_default_headers", "_early", "_transport", "opening")

    def __init__(
        self,
        opening: Opening,
        transport: asyncio.Transport,
        early: bytes,
        default_headers: list[tuple[bytes, bytes]],
    ) -> None:
        self.opening = opening
        self._transport = transport
        self._early = early
        self._default_headers = default_headers

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
        self._transport.write(_response(answer, self._default_headers, keep_alive=False))
        self._transport.close()


def _response(answer: Answer, headers: list[tuple[bytes, bytes]], *, keep_alive: bool) -> bytes:
    lines = [
        b"HTTP/1.1 %d %b\r\n" % (answer.status, _PHRASES[answer.status]),
        *[b"%b: %b\r\n" % pair for pair in headers],
        b"content-type: %b\r\ncontent-length: %d\r\n" % (answer.content_type, len(answer.body)),
        *[b"%b: %b\r\n" % pair for pair in answer.headers],
        b"\r\n" if keep_alive else b"connection: close\r\n\r\n",
        answer.body,
    ]
    return b"".join(lines)


_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_TOO_LARGE = ProblemError(431, f"The head of a request may have at most {HEAD_BYTES} bytes.")
_WENT_WRONG = ProblemError(500, "Something went wrong here; it is logged.")
_NOT_HTTP = ProblemError(400, "This is no HTTP request that can be understood.")
_TOO_EARLY = ProblemError(400, "A WebSocket is opened when the requests before it are answered.")


class _DirectCycle:
    """Stands where uvicorn keeps the request that is being answered, for one that is not ASGI's.

    The attributes are those that uvicorn's protocol uses (`RequestResponseCycle`).
    """

    __slots__ = ("_http", "body", "disconnected", "keep_alive", "more_body", "response_complete")

    def __init__(self, http: HeraldHttp, *, keep_alive: bool) -> None:
        self._http = http
        self.keep_alive = keep_alive
        self.body = b""
        self.more_body = False
        self.disconnected = False
        self.response_complete = False

    @property
    def message_event(self) -> _DirectCycle:
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
            _response(answer, http.server_state.default_headers, keep_alive=self.keep_alive)
        )
        if not self.keep_alive:
            http.transport.close()
        http.on_response_complete()


class HeraldHttp(HttpToolsProtocol):
    """See the module's text. `doors` is bound with `functools.partial`."""

    def __init__(self, doors: Doors, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._doors = doors
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0  # of a head that has not come in whole
        self._head_tail = b""
        self._in_head = True
        self._in_body = False  # neither: between two requests
        self._one_head = True  # all that was read at once so far is of one head
        self._idle_since = math.inf
        self._last_words: bytes | None = None  # to be said before closing
        self._direct: PostEndpoint | None = None  # for the request whose body is being read
        self._direct_body = b""

    # The transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # Not uvicorn's, which asks the system for the addresses of both ends, in seven calls:
        # nothing here wants to know them.
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.scheme = "http"
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._last_words is not None:
            return
        self._one_head = not self._in_body
        if self._one_head and self._is_too_large(data):
            self._give_up(_TOO_LARGE)
            return
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._give_up(_NOT_HTTP)
            return
        if self._direct is not None:
            self._go_the_ordinary_way()
        if self._in_head:
            # Where the head began is not known, unless all that was read is of it.
            if self._one_head:
                self._head_bytes += len(data)
            self._head_tail = (self._head_tail + data)[-len(_HEAD_END) + 1 :]
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_too_slow)

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
                if self._should_upgrade():
                    self._open_websocket(rest)
                    return
                data = self._without_upgrade() + rest

    def _without_upgrade(self) -> bytes:
        """The head that was read, without its Upgrade, which may be ignored (RFC 9110, 7.8).

        The parser would take a body for another protocol's, and so lose that of Java's and curl's
        clients, which ask for h2c as they send it.

        Raises:
            HttpParserError: for CONNECT, which is for proxies.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise httptools.HttpParserError("CONNECT")
        version = self.parser.get_http_version().encode()
        lines = [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines))

    # The parser's side

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._idle_since = math.inf

    def on_headers_complete(self) -> None:
        self._head_done()
        self._idle_since = math.inf
        if self.parser.should_upgrade():
            return  # `_feed` hears of it
        self._in_body = True
        endpoint = self._doors.posts.get(self.url)
        if (
            endpoint is not None
            and not self._is_answering()
            and not self.expect_100_continue
            and not self.flow.write_paused  # a client that does not read is waited for by ASGI
            and self.parser.get_method() == b"POST"
        ):
            self._direct = endpoint
            self._direct_body = b""
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._direct is None:
            super().on_body(body)
        elif self._direct_body:
            self._direct_body += body
        else:
            self._direct_body = body

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_body = False
        endpoint = self._direct
        if endpoint is None:
            super().on_message_complete()
            return
        self._direct = None
        body, self._direct_body = self._direct_body, b""
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        cycle = _DirectCycle(self, keep_alive=keep_alive)
        self.cycle = cycle  # type: ignore[assignment]
        try:
            endpoint(self.headers, body, cycle.respond)
        except Exception:
            logger.exception("a request was not dealt with")
            cycle.respond(_WENT_WRONG.answer())

    def _go_the_ordinary_way(self) -> None:
        """The body is still coming: ASGI reads it as it comes, with its limits and deadlines."""
        self._direct = None
        body, self._direct_body = self._direct_body, b""
        super().on_headers_complete()
        if body:
            super().on_body(body)

    # WebSockets

    def _should_upgrade_to_ws(self) -> bool:
        return True

    def _open_websocket(self, early: bytes) -> None:
        if self.transport.is_closing():
            return  # the request before it was the last one
        if self._is_answering():
            self._give_up(_TOO_EARLY)
            return
        url = httptools.parse_url(self.url)
        path = unquote((url.path or b"/").decode("ascii"))
        self._stop_timers()
        self.connections.discard(self)
        headers = self.server_state.default_headers
        try:
            opening = read_opening(
                self.parser.get_method(),
                self.parser.get_http_version(),
                path,
                url.query or b"",
                self.headers,
            )
        except ProblemError as problem:
            self.transport.write(_response(problem.answer(), headers, keep_alive=False))
            self.transport.close()
            return
        # The parser and this protocol hold each other, which only a collection would find.
        self.parser = None  # type: ignore[assignment]
        self._doors.websocket(Upgrade(opening, self.transport, early, headers))

    # Time and limits

    def on_response_complete(self) -> None:
        """Uvicorn's, with one timer for each connection instead of one for each answer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        if self._last_words is not None:
            self.transport.write(self._last_words)
            self.transport.close()
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch_idleness(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        """Uvicorn's timer of the next request; ours goes on by itself."""

    def _watch_idleness(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        # Busy now: it may become idle at once, and is then seen after the whole time once more.
        left: float = self.timeout_keep_alive
        if self._idle_since < math.inf:
            left += self._idle_since - self.loop.time()
        if left > 0:
            self._watch_idleness(left)
        else:
            self.timeout_keep_alive_handler()

    def _is_too_large(self, data: bytes) -> bool:
        if self._head_bytes + len(data) <= HEAD_BYTES:
            return False
        # The end of the head may lie across two reads.
        end = (self._head_tail + data).find(_HEAD_END)
        return self._head_bytes + (len(data) if end < 0 else end) > HEAD_BYTES

    def _head_done(self) -> None:
        self._in_head = self._one_head = False
        self._head_bytes = 0
        self._head_tail = b""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._end(b"")

    def _stop_timers(self) -> None:
        self._head_done()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self, problem: ProblemError) -> None:
        headers = self.server_state.default_headers
        self._end(_response(problem.answer(), headers, keep_alive=False))

    def _end(self, last_words: bytes) -> None:
        """Say this and close, after the answers to the requests that came in whole."""
        self._stop_timers()
        answering = self._is_answering()
        if answering and self._in_body:
            # The last request is the one that broke off: it is not answered if it has not begun.
            answering = bool(self.pipeline)
            if answering:
                self.pipeline.popleft()
        if answering:
            self._last_words = last_words
        else:
            self.transport.write(last_words)
            self.transport.close()
