"""`GET /v1/ws`: who may come in, and in which of the two ways of talking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import parse_qs

from service.core.close import CloseCode
from service.core.errors import InvalidInput, InvalidPosition, KeysUnavailable, Unauthorized
from service.core.principal import Principal
from service.core.session import Request, parse_request
from service.edge.answers import ProblemError, problem_of
from service.edge.http import Upgrade
from service.edge.origins import permits_origin
from service.edge.upgrade import Opening
from service.hub.clients import Clients, Newcomer
from service.hub.connection import Connection
from service.ports import Health, Instrumentation, UserVerifier

PATH = "/v1/ws"
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

    def problem(self) -> ProblemError:
        """For a plain client."""
        match self.status:
            case 401:
                return problem_of(Unauthorized(self.text))
            case 429 | 503:
                return ProblemError(self.status, self.text, headers=_RETRY_AFTER)
        return ProblemError(self.status, self.text)


_DRAINING = Refusal("draining", 503, CloseCode.TRY_AGAIN_LATER, "The server restarts.")
_FULL = Refusal("full", 503, CloseCode.TRY_AGAIN_LATER, "The server is full.")
_AWAY = Refusal("engine", 503, CloseCode.TRY_AGAIN_LATER, "The engine is away.")
_ORIGIN = Refusal("origin", 403, CloseCode.FORBIDDEN, "This origin is not allowed.")
_USER_LIMIT = Refusal(
    "user_limit", 429, CloseCode.TOO_MANY_CONNECTIONS, "This user has too many connections."
)


class Handshake:
    """The WebSocket's door. It has done its work when the connection has been adopted."""

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
        self._waiting: set[asyncio.Task[None]] = set()

    def open(self, upgrade: Upgrade) -> None:
        """Serve one handshake: at once, unless a key must be fetched to verify its token."""
        opening = upgrade.opening
        if opening.path != PATH:
            no_websocket_here(upgrade)
            return
        query = _query(opening)
        credential = find_credential(opening, query)
        refusal = self._refusal(opening, credential)
        if SUBPROTOCOL in opening.subprotocols:
            self._open_herald(upgrade, credential, refusal)
        else:
            self._open_plain(upgrade, query, credential, refusal)

    # Plain: a refusal is a status

    def _open_plain(
        self,
        upgrade: Upgrade,
        query: dict[str, list[str]],
        credential: Credential | None,
        refusal: Refusal | None,
    ) -> None:
        if refusal is None and credential is None:
            refusal = Refusal(
                "token",
                401,
                CloseCode.UNAUTHORIZED,
                "Bring a token: see docs/protocol.md for the five ways.",
            )
        if refusal is not None or credential is None:
            self._refuse_plain(upgrade, refusal)
            return

        def go_on(verdict: Principal | Refusal) -> None:
            # The limits again: others came in while a key was fetched.
            late = verdict if isinstance(verdict, Refusal) else self._late_refusal(verdict)
            if late is not None or isinstance(verdict, Refusal):
                self._refuse_plain(upgrade, late)
                return
            try:
                request = plain_request(query)
            except InvalidInput as error:
                self._stats.refused("request")
                upgrade.refuse(problem_of(error).answer())
                return
            self._adopt(upgrade, None, Newcomer(True, verdict, request))

        self._verify(upgrade, credential, go_on)

    def _refuse_plain(self, upgrade: Upgrade, refusal: Refusal | None) -> None:
        assert refusal is not None
        self._stats.refused(refusal.reason)
        upgrade.refuse(refusal.problem().answer())

    # herald.v1: a refusal is a close, because browsers are not shown a status

    def _open_herald(
        self, upgrade: Upgrade, credential: Credential | None, refusal: Refusal | None
    ) -> None:
        def go_on(verdict: Principal | Refusal | None) -> None:
            if isinstance(verdict, Principal):
                # The limits again: others came in while a key was fetched.
                verdict = self._late_refusal(verdict) or verdict
            principal = verdict if isinstance(verdict, Principal) else None
            connection = self._adopt(upgrade, SUBPROTOCOL, Newcomer(False, principal, Request()))
            if isinstance(verdict, Refusal):
                self._stats.refused(verdict.reason)
                connection.close(verdict.code, verdict.text)

        if refusal is None and credential is not None:
            self._verify(upgrade, credential, go_on)
        else:
            go_on(refusal)

    # Both

    def _verify(
        self,
        upgrade: Upgrade,
        credential: Credential,
        then: Callable[[Principal | Refusal], None],
    ) -> None:
        """Call `then` with who it is or why not; later where a key must be fetched first."""
        try:
            principal = self._verifier.verify_now(credential.token)
        except Unauthorized as error:
            then(Refusal("token", 401, CloseCode.UNAUTHORIZED, str(error)))
            return
        if principal is not None:
            then(principal)
            return
        upgrade.wait()
        task = self._clients.loop.create_task(self._verify_later(upgrade, credential, then))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _verify_later(
        self,
        upgrade: Upgrade,
        credential: Credential,
        then: Callable[[Principal | Refusal], None],
    ) -> None:
        verdict: Principal | Refusal
        try:
            verdict = await self._verifier.verify(credential.token)
        except Unauthorized as error:
            verdict = Refusal("token", 401, CloseCode.UNAUTHORIZED, str(error))
        except KeysUnavailable as error:
            verdict = Refusal("keys", 503, CloseCode.TRY_AGAIN_LATER, str(error))
        if not upgrade.gone:
            then(verdict)

    def _refusal(self, opening: Opening, credential: Credential | None) -> Refusal | None:
        if self._clients.draining:
            return _DRAINING
        if self._clients.is_full:
            return _FULL
        if self._health.is_away():
            return _AWAY
        by_cookie = credential is not None and credential.by_cookie
        origin, host = opening.header(b"origin"), opening.header(b"host")
        if not permits_origin(origin, host, self._origins, by_cookie=by_cookie):
            return _ORIGIN
        return None

    def _late_refusal(self, principal: Principal) -> Refusal | None:
        if self._clients.draining:
            return _DRAINING
        if self._clients.is_full:
            return _FULL
        if self._clients.has_too_many(principal.user):
            return _USER_LIMIT
        return None

    def _adopt(self, upgrade: Upgrade, subprotocol: str | None, newcomer: Newcomer) -> Connection:
        transport, early = upgrade.accept(subprotocol)
        return self._clients.adopt(transport, newcomer, early)


def no_websocket_here(upgrade: Upgrade) -> None:
    """For any other path, and for a port without WebSockets."""
    upgrade.refuse(ProblemError(404, "There is nothing here.").answer())


def find_credential(opening: Opening, query: dict[str, list[str]]) -> Credential | None:
    """The handshake's token: from a subprotocol, a header, the query or a cookie.

    The cookie goes last: the others are given on purpose.
    """
    for offered in opening.subprotocols:
        if offered.startswith(_BEARER):
            return Credential(offered[len(_BEARER) :], by_cookie=False)
    scheme, _, token = (opening.header(b"authorization") or "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return Credential(token.strip(), by_cookie=False)
    if query.get("token"):
        return Credential(query["token"][0], by_cookie=False)
    for name, value in opening.headers:
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


def _query(opening: Opening) -> dict[str, list[str]]:
    if not opening.query:
        return {}
    try:
        return parse_qs(opening.query.decode("latin-1"), max_num_fields=1100)
    except ValueError:
        return {}
