"""`GET /v1/ws`: who may come in, and in which of the two ways of talking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service.core.errors import InvalidInput, Unauthorized
from service.core.principal import Principal
from service.core.session import Request
from service.edge import elsewhere
from service.edge.admission import (
    Admission,
    Credential,
    Refusal,
    bad_token,
    bearer,
    cookie_token,
    identify,
    read_query,
    request_of,
)
from service.edge.answers import ProblemError, problem_of
from service.edge.doors import Upgrade
from service.edge.upgrade import Opening
from service.hub.clients import Clients, Newcomer
from service.hub.websocket import WebSocket
from service.ports import Instrumentation, UserVerifier

PATH = elsewhere.WEBSOCKET
SUBPROTOCOL = "herald.v1"
_BEARER = "bearer."
_NO_TOKEN = bad_token(Unauthorized("Bring a token: see docs/protocol.md for the five ways."))


class Handshake:
    """The WebSocket's door. It has done its work when the connection has been adopted."""

    def __init__(
        self,
        clients: Clients,
        admission: Admission,
        verifier: UserVerifier,
        stats: Instrumentation,
    ) -> None:
        self._clients = clients
        self._admission = admission
        self._verifier = verifier
        self._stats = stats
        self._waiting: set[asyncio.Task[None]] = set()

    def open(self, upgrade: Upgrade) -> None:
        """Serve one handshake: at once, unless a key must be fetched to verify its token."""
        opening = upgrade.opening
        if opening.path != PATH:
            no_websocket_here(upgrade)
            return
        query = read_query(opening.query)
        credential = find_credential(opening, query)
        by_cookie = credential is not None and credential.by_cookie
        refusal = self._admission.refuse(opening.headers, by_cookie=by_cookie)
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
            refusal = _NO_TOKEN
        if refusal is not None or credential is None:
            self._refuse_plain(upgrade, refusal)
            return

        def go_on(verdict: Principal | Refusal) -> None:
            # The limits again: others came in while a key was fetched.
            late = verdict if isinstance(verdict, Refusal) else self._admission.refuse_user(verdict)
            if late is not None or isinstance(verdict, Refusal):
                self._refuse_plain(upgrade, late)
                return
            try:
                request = request_of(query)
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
                verdict = self._admission.refuse_user(verdict) or verdict
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
            then(bad_token(error))
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
        verdict = await identify(self._verifier, credential.token)
        if not upgrade.gone:
            then(verdict)

    def _adopt(self, upgrade: Upgrade, subprotocol: str | None, newcomer: Newcomer) -> WebSocket:
        transport, early = upgrade.accept(subprotocol)
        return self._clients.adopt(transport, newcomer, early)


def no_websocket_here(upgrade: Upgrade) -> None:
    """For any other path, and for a port without WebSockets."""
    detail = elsewhere.of_websocket(upgrade.opening.path)
    upgrade.refuse(ProblemError(404, detail).answer())


def find_credential(opening: Opening, query: dict[str, list[str]]) -> Credential | None:
    """The handshake's token: from a subprotocol, a header, the query or a cookie.

    The cookie goes last: the others are given on purpose.
    """
    for offered in opening.subprotocols:
        if offered.startswith(_BEARER):
            return Credential(offered[len(_BEARER) :], by_cookie=False)
    if (token := bearer(opening.headers)) is not None:
        return Credential(token, by_cookie=False)
    if query.get("token"):
        return Credential(query["token"][0], by_cookie=False)
    if (token := cookie_token(opening.headers)) is not None:
        return Credential(token, by_cookie=True)
    return None
