"""`GET /v1/ws`: who may come in, and in which of the two ways of talking."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qs

from service.core.close import CloseCode
from service.core.errors import (
    HeraldError,
    InvalidInput,
    InvalidPosition,
    KeysUnavailable,
    Unauthorized,
)
from service.core.session import Request, parse_request
from service.edge.adoption import EXTENSION, Release
from service.edge.answers import ProblemError, problem_of, reject_websocket
from service.edge.asgi import Receive, Scope, Send, header
from service.edge.origins import permits_origin
from service.hub.clients import Clients, Newcomer
from service.hub.connection import Connection
from service.ports import Health, Instrumentation, UserVerifier

SUBPROTOCOL = "herald.v1"
COOKIE = "herald_token"
_BEARER = "bearer."
_RETRY_AFTER = ((b"retry-after", b"5"),)


class Credential(NamedTuple):
    """A token and whether a browser sent it by itself."""

    token: str
    by_cookie: bool


class Refusal(NamedTuple):
    """Why not: as a status for plain clients, as a close code for `herald.v1`."""

    reason: str
    status: int
    code: CloseCode
    text: str


class Handshake:
    """The ASGI endpoint of the WebSocket. It ends when the connection has been adopted."""

    def __init__(
        self,
        clients: Clients,
        verifier: UserVerifier,
        health: Health,
        allowed_origins: frozenset[str],
        stats: Instrumentation,
    ) -> None:
        self._clients = clients
        self._verifier = verifier
        self._health = health
        self._origins = allowed_origins
        self._stats = stats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one handshake."""
        await receive()  # websocket.connect
        if SUBPROTOCOL in scope["subprotocols"]:
            await self._herald(scope, send)
        else:
            await self._plain(scope, send)

    async def _plain(self, scope: Scope, send: Send) -> None:
        query = _query(scope)
        try:
            credential = find_credential(scope, query)
            refusal = self._refusal(scope, credential)
            if refusal is not None:
                raise self._problem(refusal)
            if credential is None:
                self._stats.refused("token")
                raise Unauthorized("Bring a token: see docs/protocol.md for the five ways.")
            try:
                principal = await self._verifier.verify(credential.token)
            except Unauthorized:
                self._stats.refused("token")
                raise
            except KeysUnavailable:
                self._stats.refused("keys")
                raise
            try:
                request = plain_request(query)
            except InvalidInput:
                self._stats.refused("request")
                raise
            if self._clients.has_too_many(principal.user):
                raise self._problem(
                    Refusal(
                        "user_limit",
                        429,
                        CloseCode.TOO_MANY_CONNECTIONS,
                        "This user has too many connections.",
                    )
                )
            # The limits again: others came in while the token was verified.
            refusal = self._refusal(scope, credential)
            if refusal is not None:
                raise self._problem(refusal)
        except HeraldError as error:
            await reject_websocket(send, problem_of(error).answer())
            return
        await self._adopt(scope, send, None, Newcomer(True, principal, request))

    async def _herald(self, scope: Scope, send: Send) -> None:
        credential = find_credential(scope, _query(scope))
        refusal = self._refusal(scope, credential)
        principal = None
        if refusal is None and credential is not None:
            try:
                principal = await self._verifier.verify(credential.token)
            except Unauthorized as error:
                refusal = Refusal("token", 401, CloseCode.UNAUTHORIZED, str(error))
            except KeysUnavailable as error:
                refusal = Refusal("keys", 503, CloseCode.TRY_AGAIN_LATER, str(error))
        connection = await self._adopt(
            scope, send, SUBPROTOCOL, Newcomer(False, principal, Request())
        )
        if refusal is not None:
            self._stats.refused(refusal.reason)
            connection.close(refusal.code, refusal.text)

    def _refusal(self, scope: Scope, credential: Credential | None) -> Refusal | None:
        if self._clients.draining:
            return Refusal("draining", 503, CloseCode.TRY_AGAIN_LATER, "The server restarts.")
        if self._clients.is_full:
            return Refusal("full", 503, CloseCode.TRY_AGAIN_LATER, "The server is full.")
        if self._health.is_away():
            return Refusal("engine", 503, CloseCode.TRY_AGAIN_LATER, "The engine is away.")
        by_cookie = credential is not None and credential.by_cookie
        origin, host = header(scope, b"origin"), header(scope, b"host")
        if not permits_origin(origin, host, self._origins, by_cookie=by_cookie):
            return Refusal("origin", 403, CloseCode.FORBIDDEN, "This origin is not allowed.")
        return None

    def _problem(self, refusal: Refusal) -> ProblemError:
        self._stats.refused(refusal.reason)
        headers = _RETRY_AFTER if refusal.status in (429, 503) else ()
        return ProblemError(refusal.status, refusal.text, headers=headers)

    async def _adopt(
        self, scope: Scope, send: Send, subprotocol: str | None, newcomer: Newcomer
    ) -> Connection:
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
        release: Release = scope["extensions"][EXTENSION]
        transport, early = release()
        return self._clients.adopt(transport, newcomer, early)


def find_credential(scope: Scope, query: dict[str, list[str]]) -> Credential | None:
    """The handshake's token: from a subprotocol, a header, the query or a cookie.

    The cookie goes last: the others are given on purpose.
    """
    for offered in scope["subprotocols"]:
        if offered.startswith(_BEARER):
            return Credential(offered[len(_BEARER) :], by_cookie=False)
    scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return Credential(token.strip(), by_cookie=False)
    if query.get("token"):
        return Credential(query["token"][0], by_cookie=False)
    for name, value in scope["headers"]:
        if name == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                key, _, token = pair.strip().partition("=")
                if key == COOKIE and token:
                    return Credential(token.strip('"'), by_cookie=True)
    return None


def plain_request(query: dict[str, list[str]]) -> Request:
    """What a plain client's URL asks for: `topics=a,b` and `since=<channel>@<position>`.

    Raises:
        InvalidChannel, InvalidPosition
    """
    topics = [name for text in query.get("topics", []) for name in text.split(",") if name]
    positions: list[tuple[str, str]] = []
    for text in query.get("since", []):
        channel, at, position = text.rpartition("@")
        if not at:
            raise InvalidPosition("`since` is <channel>@<position>.")
        positions.append((channel, position))
    return parse_request(topics, positions)


def _query(scope: Scope) -> dict[str, list[str]]:
    try:
        return parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=1100)
    except ValueError:
        return {}
