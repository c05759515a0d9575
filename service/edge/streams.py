"""`GET /v1/stream`: events as server-sent events, over plain HTTP (docs/sse.md).

The request is served through ASGI up to the head of its answer. Then the transport is taken over
by a `hub.stream.EventStream`, as a WebSocket's is: ASGI would keep a task, a queue and the scope
for as long as the stream lasts, and its response cannot see what its client acknowledges.
"""

from __future__ import annotations

import logging
import random
from email.utils import formatdate

from service.core import messages, sse
from service.core.errors import EngineError, EngineUnavailable, InvalidInput, Unauthorized
from service.core.principal import Principal
from service.core.session import Request
from service.edge.admission import (
    AWAY,
    Admission,
    Refusal,
    bad_token,
    bearer,
    cookie_token,
    identify,
    read_query,
    request_of,
    sender,
)
from service.edge.answers import Answer, ProblemError, problem_of, send_answer
from service.edge.asgi import Headers, Receive, Scope, Send, find_header
from service.edge.doors import TAKEOVER, Takeover
from service.edge.elsewhere import STREAM
from service.edge.origins import permits, readers
from service.hub.clients import Clients
from service.ports import Instrumentation, Tickets, UserVerifier

logger = logging.getLogger("herald.http")

Pairs = tuple[tuple[bytes, bytes], ...]

PATH = STREAM

_KIND = b"text/event-stream"
_NOT_KEPT = (b"cache-control", b"no-store")
_RETRY_MS = range(2000, 4000)
"""After which a browser comes back. It draws no time of its own, so each is told another: those who
lost the same node do not come back in one moment."""
_REFUSED_RETRY_MS = range(5000, 10000)
_METHODS = (b"allow", b"GET, OPTIONS")
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET"),
    (b"access-control-allow-headers", b"authorization, cache-control, last-event-id"),
    (b"access-control-max-age", b"7200"),
)
_NO_TOKEN = bad_token(
    Unauthorized(
        "Bring a token in the header Authorization or the cookie herald_token, or a ticket in "
        "?ticket=; see docs/sse.md."
    )
)
_BAD_TICKET = bad_token(Unauthorized("There is no such ticket, or not any more."))


class Streams:
    """The endpoint, as an ASGI application."""

    def __init__(
        self,
        clients: Clients,
        admission: Admission,
        verifier: UserVerifier,
        tickets: Tickets,
        stats: Instrumentation,
    ) -> None:
        self._clients = clients
        self._admission = admission
        self._verifier = verifier
        self._tickets = tickets
        self._stats = stats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers: Headers = scope["headers"]
        cors = readers(sender(headers), self._admission.origins)
        match scope["method"]:
            case "GET":
                answer = await self._open(scope, headers, cors)
            case "OPTIONS" if permits(sender(headers), self._admission.origins, by_cookie=False):
                await _send_nothing(send, (_METHODS, *_PREFLIGHT, *cors))
                return
            case "OPTIONS":
                answer = ProblemError(403, "This origin is not allowed.").answer()
            case _:
                text = "A stream is opened with GET."
                answer = ProblemError(405, text, headers=(_METHODS,)).answer()
        if answer is not None:
            await send_answer(send, answer._replace(headers=(*answer.headers, *cors)))

    async def _open(self, scope: Scope, headers: Headers, cors: Pairs) -> Answer | None:
        """Open a stream; where that cannot be, the answer that says why."""
        verdict = await self._admit(scope, headers)
        if isinstance(verdict, Answer):
            return verdict
        principal, request = verdict
        takeover: Takeover = scope["extensions"][TAKEOVER]
        try:
            joined = await self._clients.begin_stream(principal, request)
        except (EngineUnavailable, EngineError) as error:
            logger.warning("a client was turned away", extra={"reason": str(error)})
            return self._refuse(AWAY, headers)
        # Others may have come in, or the drain begun, while the engine was asked. Not of this user
        # more than allowed: each counts from the moment it asks the engine.
        if (refusal := self._admission.refuse_everyone()) is not None:
            self._clients.turn_away(joined)
            return self._refuse(refusal, headers)
        if (transport := takeover()) is None:
            self._clients.turn_away(joined)
            return None
        self._clients.adopt_stream(transport, _head(cors) + _begin(_RETRY_MS), joined)
        return None

    async def _admit(self, scope: Scope, headers: Headers) -> tuple[Principal, Request] | Answer:
        """Who it is and what is asked for; or the answer that says why not."""
        query = read_query(scope["query_string"])
        token = bearer(headers)
        ticket = query.get("ticket", [None])[0]
        by_cookie = False
        if token is None and ticket is None:
            token = cookie_token(headers)
            by_cookie = token is not None
        refusal = self._admission.refuse(headers, by_cookie=by_cookie)
        if refusal is not None:
            return self._refuse(refusal, headers)
        try:
            request = request_of(query, sse.parse_event_id(_last_event_id(headers, query)))
        except InvalidInput as error:
            self._stats.refused("request")
            return problem_of(error).answer()
        # The ticket last of all: it can be used only once.
        verdict: Principal | Refusal = _NO_TOKEN
        if token is not None:
            verdict = await identify(self._verifier, token)
        elif ticket is not None:
            verdict = await self._redeem(ticket)
        if isinstance(verdict, Principal):
            late = self._admission.refuse_user(verdict)
            return (verdict, request) if late is None else self._refuse(late, headers)
        return self._refuse(verdict, headers)

    async def _redeem(self, ticket: str) -> Principal | Refusal:
        try:
            principal = await self._tickets.take(ticket)
        except (EngineUnavailable, EngineError) as error:
            logger.warning("a client was turned away", extra={"reason": str(error)})
            return AWAY
        return _BAD_TICKET if principal is None else principal

    def _refuse(self, refusal: Refusal, headers: Headers) -> Answer:
        """Say why not.

        `EventSource` never comes back after an error's status (HTML, 9.2.3), so what passes by
        itself is told to it as a stream that ends.
        """
        self._stats.refused(refusal.reason)
        accepted = find_header(headers, b"accept") or ""
        if refusal.status == 503 and _KIND.decode() in accepted.lower():
            end = sse.message(messages.close(refusal.code, refusal.text))
            return Answer(200, _KIND, _begin(_REFUSED_RETRY_MS) + end, (_NOT_KEPT,))
        return refusal.problem().answer()


def _last_event_id(headers: Headers, query: dict[str, list[str]]) -> str:
    """Where the client was; the header is newer than a URL."""
    return find_header(headers, b"last-event-id") or query.get("last_event_id", [""])[0]


def _begin(retry_ms: range) -> bytes:
    return sse.retry(random.choice(retry_ms)) + b"\n"


def _head(cors: Pairs) -> bytes:
    """The end of the connection is the end of the stream (RFC 9112, 6.3)."""
    pairs = (
        (b"date", formatdate(usegmt=True).encode()),
        (b"content-type", _KIND),
        _NOT_KEPT,
        (b"x-accel-buffering", b"no"),  # nginx would hold the stream back
        (b"connection", b"close"),
        *cors,
    )
    return b"HTTP/1.1 200 OK\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % pair for pair in pairs])


async def _send_nothing(send: Send, headers: Pairs) -> None:
    """A 204, which has no length (RFC 9110, 8.6)."""
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
