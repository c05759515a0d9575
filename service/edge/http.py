"""One HTTP connection: uvicorn's protocol, with two doors of our own and a guard.

uvicorn parses requests and runs the ASGI application. Two kinds of request do not go there:

- **A WebSocket's opening** goes to `Doors.websocket`, which answers it and takes the transport
  over. A stock WebSocket of an ASGI server keeps a task, a queue, a parser and the scope: 19 KB for
  each connection (docs/adr/0004), and half the time of each handshake (docs/adr/0010).
- **A POST to a path of `Doors.posts`** that came in one piece is handed over as headers and body,
  and answered by a call, in one write: no task, no scope, no queue between. That is half of what
  uvicorn does per request (docs/performance.md). Any other request to these paths, as one whose
  body comes slowly, takes the ordinary way through ASGI, where the same endpoint is.

The guard limits what one connection may hold, and for how long, which uvicorn does not:

- the time and the bytes of a head, and the bytes of a trailer section;
- the requests that are parsed ahead: what was read is taken in pieces, some requests a turn of the
  loop, and the rest waits as bytes, while nothing more is read, until those before it are answered;
- the time in which nothing of an answer is read.

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
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.edge.answers import Answer, ProblemError, mishap_of
from service.edge.asgi import Headers
from service.edge.lobby import Lobby
from service.edge.upgrade import Opening, accept, read_opening
from service.hub.outstanding import outstanding

logger = logging.getLogger("herald.http")

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 * 1024
UNREAD_SECONDS = 30.0
_LEAST_READ = 15_000
"""Bytes: a client that reads less of its answers in `UNREAD_SECONDS` is cut off."""
_PIECE = 4096
"""Bytes: the least requests have 18, and each takes kilobytes once it is parsed."""
_REQUESTS_PER_TURN = 64
"""Then the others have their turn: a flood of tiny requests must not hold up the loop."""
_HEAD_END = b"\r\n\r\n"

Respond = Callable[[Answer], None]
PostEndpoint = Callable[[Headers, bytes, Respond], None]
"""Headers, body, and what to call with the answer, once, now or later."""


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

    def __init__(self, opening: Opening, http: HeraldHttp, early: bytes) -> None:
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
_NOT_HTTP = ProblemError(400, "This is no HTTP request that can be understood.")
_TOO_EARLY = ProblemError(400, "A WebSocket is opened when the requests before it are answered.")


class _Flow(FlowControl):
    """uvicorn's, whose cycles go on reading when they want more of a body.

    `held`: some of what was read is not parsed yet, so nothing more is read, whoever wants it.
    """

    held = False

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


def _origin_form(url: bytes) -> bytes:
    """A whole URL without its scheme and host, which every server must take (RFC 9112, 3.2.2).

    Raises:
        HttpParserError: for what is none.
    """
    parts = httptools.parse_url(url)
    return (parts.path or b"/") + (b"" if parts.query is None else b"?" + parts.query)


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
        self.flow: _Flow
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0  # of a head that has not come in whole
        self._head_tail = b""
        self._in_head = True
        self._in_body = False  # neither: between two requests
        self._one_head = True  # all that was read at once so far is of one head
        self._no_body_bytes = 0  # of a body, since some of it came: of chunks' heads or trailers
        self._read = b""  # what was read at once, unless that is just a piece …
        self._parsed = 0  # … and how much of it has been parsed
        self._begun = 0  # requests, in this turn
        self._turn_due = False
        self._over = False  # lost, or a WebSocket's now
        self._is_silent = True  # nothing was asked for yet
        self.idle_since = math.inf
        self._last_words: bytes | None = None  # to be said before closing
        self._running: RequestResponseCycle | None = None  # the last that ASGI was given
        self._direct: PostEndpoint | None = None  # for the request whose body is being read
        self._direct_body: list[bytes] = []

    # The transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # Not uvicorn's, which asks the system for the addresses of both ends, in seven calls:
        # nothing here wants to know them.
        self.connections.add(self)
        self.transport = transport
        self.flow = _Flow(transport)
        self.scheme = "http"
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_too_slow)
        self._doors.lobby.enter(self, self.connections)  # type: ignore[arg-type]

    def make_room(self) -> None:
        """See `Guest.make_room`."""
        self.connections.discard(self)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._stop_timers()
        self._stop_watching_reader()
        self._disconnect()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """The client is gone: the transport closes by itself."""
        self._disconnect()

    def data_received(self, data: bytes) -> None:
        if self._last_words is not None:
            return
        if self._read:  # the pause takes effect a read later
            self._read += data
            return
        self._begun = 0
        if len(data) <= _PIECE:
            self._parse(data)
            self._all_parsed()
        else:
            self._read = data
            if not self._go_on():
                self._hold()

    def _go_on(self) -> bool:
        """Parse piece by piece, while requests are answered at once; whether all is parsed."""
        while self._parsed < len(self._read):
            if self.pipeline or self._begun >= _REQUESTS_PER_TURN:
                return False
            begin = self._parsed
            self._parsed += _PIECE
            self._parse(self._read[begin : self._parsed])
        self._drop_read()
        self._all_parsed()
        return True

    def _hold(self) -> None:
        """Read nothing more until the rest is parsed, in a turn to come."""
        self.flow.held = True
        self.flow.pause_reading()
        self._turn_due = False
        if not self.pipeline:  # else when that is empty
            self._plan_turn()

    def _plan_turn(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        if self._over:
            return
        self._begun = 0
        if self.transport.is_closing():
            self._drop_read()
        if not self._go_on():
            self._hold()
        elif not self._over:
            self.flow.held = self._turn_due = False
            if not self.pipeline:
                self.flow.resume_reading()

    def _all_parsed(self) -> None:
        """All that was read, that is."""
        if self._direct is not None:
            self._go_the_ordinary_way()

    def _drop_read(self) -> None:
        self._read = b""
        self._parsed = 0

    def _parse(self, data: bytes) -> None:
        self._one_head = not self._in_body
        if self._one_head:
            too_large = self._is_too_large(data)
        else:
            self._no_body_bytes += len(data)
            too_large = self._no_body_bytes > HEAD_BYTES
        if too_large:
            self._give_up(_TOO_LARGE)
            return
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as failure:
            error = failure.__context__ or failure
            if isinstance(error, httptools.HttpParserError):  # a URL that is none
                self._give_up(_NOT_HTTP)
                return
            # Not the client's fault: what the parser calls here has failed.
            logger.error("a request was not read", exc_info=error)
            self._give_up(mishap_of(error))
            return
        except httptools.HttpParserError:
            self._give_up(_NOT_HTTP)
            return
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
        self._begun += 1
        self.idle_since = math.inf

    def on_header(self, name: bytes, value: bytes) -> None:
        # Not uvicorn's, which takes a trailer for one: whoever let this request through has not
        # looked at those (RFC 9110, 6.5.1).
        if self._in_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_done()
        self.idle_since = math.inf
        if self.parser.should_upgrade():
            return  # `_feed` hears of it
        self._in_body = True
        self._no_body_bytes = 0
        endpoint = self._doors.posts.get(self.url)
        if (
            endpoint is not None
            and not self._is_answering()
            and not self.expect_100_continue
            and not self.flow.write_paused  # a client that does not read is waited for by ASGI
            and self.parser.get_method() == b"POST"
        ):
            self._direct = endpoint
            self._direct_body = []
        else:
            if not self.url.startswith((b"/", b"*")):
                self.url = _origin_form(self.url)  # uvicorn knows no URL without a path
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._no_body_bytes = 0
        if self._direct is None:
            super().on_body(body)
        else:
            self._direct_body.append(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_body = False
        endpoint = self._direct
        if endpoint is None:
            super().on_message_complete()
            return
        self._direct = None
        body, self._direct_body = b"".join(self._direct_body), []
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        cycle = _DirectCycle(self, keep_alive=keep_alive)
        self.cycle = cycle  # type: ignore[assignment]
        try:
            endpoint(self.headers, body, cycle.respond)
        except Exception as error:
            logger.exception("a request was not dealt with")
            cycle.respond(mishap_of(error).answer())

    def _go_the_ordinary_way(self) -> None:
        """The body is still coming: ASGI reads it as it comes, with its limits and deadlines."""
        self._direct = None
        body, self._direct_body = b"".join(self._direct_body), []
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
        self._over = True
        self._stop_timers()
        self._stop_watching_reader()
        self.connections.discard(self)
        early += self._read[self._parsed :]
        self._drop_read()
        try:
            opening = read_opening(
                self.parser.get_method(),
                self.parser.get_http_version(),
                path,
                url.query or b"",
                self.headers,
            )
        except ProblemError as problem:
            self.say_and_close(problem.answer())
            return
        # The parser and this protocol hold each other, which only a collection would find.
        self.parser = None  # type: ignore[assignment]
        self._doors.websocket(Upgrade(opening, self, early))

    # Time and limits

    def on_response_complete(self) -> None:
        """Uvicorn's, with one timer for each connection instead of one for each answer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._watch_reader()
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            if not self.pipeline:
                self._read_on()
            return
        if self._last_words is not None:
            self._say_and_close(self._last_words)
            return
        self._read_on()
        self.idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch_idleness(self.timeout_keep_alive)

    def _read_on(self) -> None:
        if self.flow.held:
            self._plan_turn()
        else:
            self.flow.resume_reading()

    def _unset_keepalive_if_required(self) -> None:
        """Uvicorn's timer of the next request; ours goes on by itself."""

    def _watch_idleness(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        # Busy now: it may become idle at once, and is then seen after the whole time once more.
        left: float = self.timeout_keep_alive
        if self.idle_since < math.inf:
            left += self.idle_since - self.loop.time()
        if left > 0:
            self._watch_idleness(left)
        else:
            self._say_and_close(b"")

    def pause_writing(self) -> None:
        """An answer waits for its reader: for a while."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """Most of it was read."""
        super().resume_writing()
        self._stop_watching_reader()
        if self.transport.is_closing():
            self._watch_reader()  # what is left, too

    def _stop_watching_reader(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _watch_reader(self) -> None:
        # What the kernel holds counts too: it asks for more only when a good part of it was read.
        if self._unread_timer is None and self.transport.get_write_buffer_size():
            unread = outstanding(self.transport, -1)
            self._unread_timer = self.loop.call_later(UNREAD_SECONDS, self._look_after, unread)

    def _look_after(self, unread: int) -> None:
        self._unread_timer = None
        if outstanding(self.transport, -1) > unread - _LEAST_READ:
            self.transport.abort()
        else:
            self._watch_reader()

    def _is_too_large(self, data: bytes) -> bool:
        if self._head_bytes + len(data) <= HEAD_BYTES:
            return False
        # The end of the head may lie across two reads.
        end = (self._head_tail + data).find(_HEAD_END)
        return self._head_bytes + (len(data) if end < 0 else end) > HEAD_BYTES

    def _head_done(self) -> None:
        self._in_head = self._one_head = False
        if self._is_silent:
            self._is_silent = False
            self._doors.lobby.leave(self)
        self._head_bytes = 0
        self._head_tail = b""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self.flow.read_paused:  # the rest of it may be here, or would be: we do not look
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_too_slow)
        elif not self.transport.is_closing():
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

    def say_and_close(self, answer: Answer) -> None:
        """Answer, and read nothing more."""
        headers = self.server_state.default_headers
        self._say_and_close(_response(answer, headers, keep_alive=False))

    def _say_and_close(self, last_words: bytes) -> None:
        # The socket is closed once this is read, which some would put off for ever.
        self.transport.write(last_words)
        self.transport.close()
        self._watch_reader()
        self._disconnect()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _disconnect(self) -> None:
        """No answer is written any more.

        A transport that is closed takes none, and `connection_lost` comes a moment later. Nor does
        uvicorn tell the request that is being answered while others wait behind it.
        """
        self.pipeline.clear()
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _end(self, last_words: bytes) -> None:
        """Say this and close, after the answers to the requests that came in whole."""
        self._stop_timers()
        self._drop_read()
        answering = self._is_answering()
        if answering and self._in_body:
            # The last request is the one that broke off: it is not answered if it has not begun.
            answering = bool(self.pipeline)
            if answering:
                self.pipeline.popleft()
        if answering:
            self._last_words = last_words
        else:
            self._say_and_close(last_words)
