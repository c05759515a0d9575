"""One HTTP connection: uvicorn's protocol, with a guard (`edge.guard`) and doors of our own.

uvicorn parses requests and runs the ASGI application. Two kinds of request do not go there
(`edge.doors`):

- **A WebSocket's opening** goes to `Doors.websocket`, which answers it and takes the transport
  over. A stock WebSocket of an ASGI server keeps a task, a queue, a parser and the scope: 19 KB for
  each connection (docs/adr/0004), and half the time of each handshake (docs/adr/0010).
- **A POST to a path of `Doors.posts`** that came in one piece is handed over as headers and body,
  and answered by a call, in one write: no task, no scope, no queue between. That is half of what
  uvicorn does per request (docs/performance.md). Any other request to these paths, as one whose
  body comes slowly, takes the ordinary way through ASGI, where the same endpoint is.

And the application may take the transport over instead of answering (`TAKEOVER`), for an answer
that lasts.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any
from urllib.parse import unquote

import httptools

from service.edge.answers import ProblemError, mishap_of
from service.edge.doors import TAKEOVER, DirectCycle, Doors, PostEndpoint, Upgrade
from service.edge.guard import GuardedHttp
from service.edge.policy import HttpPolicy
from service.edge.upgrade import read_opening
from service.ports import Instrumentation

logger = logging.getLogger("herald.http")

_TOO_EARLY = ProblemError(400, "A WebSocket is opened when the requests before it are answered.")


def _origin_form(url: bytes) -> bytes:
    """A whole URL without its scheme and host, which every server must take (RFC 9112, 3.2.2).

    Raises:
        HttpParserError: for what is none.
    """
    parts = httptools.parse_url(url)
    return (parts.path or b"/") + (b"" if parts.query is None else b"?" + parts.query)


class HeraldHttp(GuardedHttp):
    """See the module's text. All but uvicorn's own is bound with `functools.partial`."""

    def __init__(
        self, doors: Doors, policy: HttpPolicy, stats: Instrumentation, **uvicorns: Any
    ) -> None:
        super().__init__(policy, doors.lobby, stats, **uvicorns)
        self._doors = doors
        self._direct: PostEndpoint | None = None  # for the request whose body is being read
        self._direct_body: list[bytes] = []

    # Which way a request goes

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
            extensions: dict[str, Any] = {TAKEOVER: self._hand_over}
            self.scope["extensions"] = extensions
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
        cycle = DirectCycle(self, keep_alive=keep_alive)
        self.cycle = cycle  # type: ignore[assignment]
        try:
            endpoint(self.headers, body, cycle.respond)
        except Exception as error:
            logger.exception("a request was not dealt with")
            cycle.respond(mishap_of(error, of_event=True).answer())

    def _all_parsed(self) -> None:
        if self._direct is not None:
            self._go_the_ordinary_way()

    def _go_the_ordinary_way(self) -> None:
        """The body is still coming: ASGI reads it as it comes, with its limits and deadlines."""
        self._direct = None
        body, self._direct_body = b"".join(self._direct_body), []
        super().on_headers_complete()
        if body:
            super().on_body(body)

    # Upgrades

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

    def _should_upgrade_to_ws(self) -> bool:
        return True

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

    def _open_websocket(self, early: bytes) -> None:
        if self.transport.is_closing():
            return  # the request before it was the last one
        if self._is_answering() or self.flow.write_paused:
            # Or its answers are still unread: what comes then is not told that nothing is read.
            self._give_up(_TOO_EARLY, "bad_request")
            return
        url = httptools.parse_url(self.url)
        path = unquote((url.path or b"/").decode("ascii"))
        early += self._read[self._parsed :]
        self._stop_guarding()
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

    # Answers that last

    def _hand_over(self) -> asyncio.Transport | None:
        """See `Takeover`: for the application that has been given the request being answered."""
        cycle = self._running
        if self._over or cycle is None or cycle.disconnected or self.transport.is_closing():
            return None
        cycle.disconnected = True  # uvicorn does not miss its answer
        self._stop_guarding()
        self.pipeline.clear()
        self._let_go()
        return self.transport

    # The end

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._let_go()

    def _let_go(self) -> None:
        """They and this protocol hold each other, which only a collection would find."""
        self.parser = self.cycle = self.scope = self._running = None  # type: ignore[assignment]
