"""The guard of one HTTP connection: what it may hold, and for how long.

uvicorn's protocol parses requests and runs the application, and trusts its clients. This one does
not. It limits

- the time and the bytes of a head, and the bytes of a trailer section;
- the requests that are parsed ahead: what was read is taken in pieces, some requests a turn of the
  loop, and the rest waits as bytes, while nothing more is read, until those before it are answered;
- the time in which nothing of an answer is read;
- the time in which nothing is asked for, as uvicorn does, with fewer timers.

What ends a connection (no HTTP, a head too large or too slow) is said after the answers to the
requests before it: a client would take it for one of theirs. It is counted, with its reason.

The bytes of a body are limited by those who read it (`edge.body`).
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.edge.answers import Answer, ProblemError, answer_bytes, mishap_of
from service.edge.lobby import Lobby
from service.edge.policy import LEAST_RATE, HttpPolicy
from service.hub.outstanding import outstanding
from service.ports import CutOff, Instrumentation

logger = logging.getLogger("herald.http")

_PIECE = 4096
"""Bytes: the least requests have 18, and each takes kilobytes once it is parsed."""
_REQUESTS_PER_TURN = 64
"""Then the others have their turn: a flood of tiny requests must not hold up the loop."""
_HEAD_END = b"\r\n\r\n"
_NOT_HTTP = ProblemError(400, "This is no HTTP request that can be understood.")


class _Flow(FlowControl):
    """uvicorn's, whose cycles go on reading when they want more of a body.

    `held`: some of what was read is not parsed yet, so nothing more is read, whoever wants it.
    """

    held = False

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


def _too_large(what: str, policy: HttpPolicy) -> ProblemError:
    detail = f"The {what} of a request may have at most {policy.max_head_bytes} bytes."
    return ProblemError(431, detail)


class GuardedHttp(HttpToolsProtocol):
    """uvicorn's connection with limits. What becomes of a request is for `edge.http` to say."""

    def __init__(
        self, policy: HttpPolicy, lobby: Lobby, stats: Instrumentation, **uvicorns: Any
    ) -> None:
        super().__init__(**uvicorns)
        self._policy = policy
        self._lobby = lobby
        self._stats = stats
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
        self._over = False  # lost, or another's now
        self._is_silent = True  # nothing was asked for yet
        self.idle_since = math.inf
        self._last_words: bytes | None = None  # to be said before closing
        self._running: RequestResponseCycle | None = None  # the last that ASGI was given

    # The transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # Not uvicorn's, which asks the system for the addresses of both ends, in seven calls:
        # nothing here wants to know them.
        self.connections.add(self)
        self.transport = transport
        self.flow = _Flow(transport)
        self.scheme = "http"
        self._watch_head()
        self._lobby.enter(self, self.connections)  # type: ignore[arg-type]

    def make_room(self) -> None:
        """See `Guest.make_room`."""
        self._stats.cut_off("no_room")
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

    def _stop_guarding(self) -> None:
        """The transport is another's from here on; what was read and is not parsed is dropped."""
        self._over = True
        self._stop_timers()
        self._stop_watching_reader()
        self._drop_read()
        self.connections.discard(self)

    # Requests that are parsed ahead

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

    def _read_on(self) -> None:
        if self.flow.held:
            self._plan_turn()
        else:
            self.flow.resume_reading()

    def _all_parsed(self) -> None:
        """All that was read, that is."""

    def _drop_read(self) -> None:
        self._read = b""
        self._parsed = 0

    def _parse(self, data: bytes) -> None:
        self._one_head = not self._in_body
        if self._one_head:
            if self._is_too_large(data):
                self._give_up(_too_large("head", self._policy), "head_large")
                return
        else:
            self._no_body_bytes += len(data)
            if self._no_body_bytes > self._policy.max_head_bytes:
                self._give_up(_too_large("trailer section", self._policy), "trailers_large")
                return
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as failure:
            error = failure.__context__ or failure
            if isinstance(error, httptools.HttpParserError):  # a URL that is none
                self._give_up(_NOT_HTTP, "bad_request")
                return
            # Not the client's fault: what the parser calls here has failed.
            logger.error("a request was not read", exc_info=error)
            self._give_up(mishap_of(error), None)
            return
        except httptools.HttpParserError:
            self._give_up(_NOT_HTTP, "bad_request")
            return
        if self._in_head:
            # Where the head began is not known, unless all that was read is of it.
            if self._one_head:
                self._head_bytes += len(data)
            self._head_tail = (self._head_tail + data)[-len(_HEAD_END) + 1 :]
            if self._head_timer is None:
                self._watch_head()

    def _feed(self, data: bytes) -> None:
        """Have the parser take it.

        Raises:
            HttpParserError
        """
        self.parser.feed_data(data)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

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

    # Heads

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

    def _head_done(self) -> None:
        self._in_head = self._one_head = False
        if self._is_silent:
            self._is_silent = False
            self._lobby.leave(self)
        self._head_bytes = 0
        self._head_tail = b""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _is_too_large(self, data: bytes) -> bool:
        most = self._policy.max_head_bytes
        if self._head_bytes + len(data) <= most:
            return False
        # The end of the head may lie across two reads.
        end = (self._head_tail + data).find(_HEAD_END)
        more = len(data) if end < 0 else end - len(self._head_tail)
        return self._head_bytes + more > most

    def _watch_head(self) -> None:
        self._head_timer = self.loop.call_later(self._policy.head_timeout, self._head_too_slow)

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self.flow.read_paused:  # the rest of it may be here, or would be: we do not look
            self._watch_head()
        elif not self.transport.is_closing():
            self._stats.cut_off("head_slow")
            self._end(b"")

    # Answers that nobody reads

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

    def _watch_reader(self) -> None:
        # What the kernel holds counts too: it asks for more only when a good part of it was read.
        if self._unread_timer is None and self.transport.get_write_buffer_size():
            unread = outstanding(self.transport, -1)
            seconds = self._policy.unread_timeout
            self._unread_timer = self.loop.call_later(seconds, self._look_after, unread)

    def _look_after(self, unread: int) -> None:
        self._unread_timer = None
        if outstanding(self.transport, -1) > unread - LEAST_RATE * self._policy.unread_timeout:
            self._stats.cut_off("unread")
            self.transport.abort()
        else:
            self._watch_reader()

    def _stop_watching_reader(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    # Connections on which nothing is asked for

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

    def _stop_timers(self) -> None:
        self._head_done()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    # Ends

    def _give_up(self, problem: ProblemError, reason: CutOff | None) -> None:
        """`reason`: None where the failure is ours."""
        if reason is not None:
            self._stats.cut_off(reason)
        headers = self.server_state.default_headers
        self._end(answer_bytes(problem.answer(), headers, keep_alive=False))

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

    def say_and_close(self, answer: Answer) -> None:
        """Answer, and read nothing more."""
        headers = self.server_state.default_headers
        self._say_and_close(answer_bytes(answer, headers, keep_alive=False))

    def _say_and_close(self, last_words: bytes) -> None:
        # The socket is closed once this is read, which some would put off for ever.
        self.transport.write(last_words)
        self.transport.close()
        self._watch_reader()
        self._disconnect()

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
