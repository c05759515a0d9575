"""Who may come in at the client edge, whether over a WebSocket or for a stream of events."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qs

from service.core.close import CloseCode
from service.core.errors import InvalidInput, InvalidPosition, KeysUnavailable, Unauthorized
from service.core.principal import Principal
from service.core.session import Request, parse_request
from service.edge.answers import ProblemError, problem_of
from service.edge.asgi import Headers, find_header
from service.edge.origins import Sender, permits
from service.hub.clients import Clients
from service.ports import Health, Refused, UserVerifier

COOKIE = "herald_token"
_RETRY_AFTER = ((b"retry-after", b"5"),)
_MAX_PARAMETERS = 1100
_TOO_MANY: dict[str, list[str]] = {}


class Credential(NamedTuple):
    """A token and whether a browser sent it by itself."""

    token: str
    by_cookie: bool


class Refusal(NamedTuple):
    """Why not: as a status where HTTP is spoken, as a close code for `herald.v1`."""

    reason: Refused
    status: int
    code: CloseCode
    text: str

    def problem(self) -> ProblemError:
        """The problem document's."""
        match self.status:
            case 401:
                return problem_of(Unauthorized(self.text))
            case 429 | 503:
                return ProblemError(self.status, self.text, headers=_RETRY_AFTER)
        return ProblemError(self.status, self.text)


DRAINING = Refusal("draining", 503, CloseCode.TRY_AGAIN_LATER, "The server restarts.")
FULL = Refusal("full", 503, CloseCode.TRY_AGAIN_LATER, "The server is full.")
AWAY = Refusal("engine", 503, CloseCode.TRY_AGAIN_LATER, "The engine is away.")
ORIGIN = Refusal("origin", 403, CloseCode.FORBIDDEN, "This origin is not allowed.")
USER_LIMIT = Refusal(
    "user_limit", 429, CloseCode.TOO_MANY_CONNECTIONS, "This user has too many connections."
)


def bad_token(error: Unauthorized) -> Refusal:
    """No token, or one that does not count."""
    return Refusal("token", 401, CloseCode.UNAUTHORIZED, str(error))


def no_keys(error: KeysUnavailable) -> Refusal:
    """Nobody can tell whether the token is good."""
    return Refusal("keys", 503, CloseCode.TRY_AGAIN_LATER, str(error))


class Admission:
    """The conditions that do not depend on how a client talks."""

    def __init__(self, clients: Clients, health: Health, allowed_origins: frozenset[str]) -> None:
        self._clients = clients
        self._health = health
        self.origins = allowed_origins

    def refuse(self, headers: Headers, *, by_cookie: bool) -> Refusal | None:
        """Before anybody knows who it is."""
        if (refusal := self.refuse_everyone()) is not None:
            return refusal
        if self._health.is_away():
            return AWAY
        return None if permits(sender(headers), self.origins, by_cookie=by_cookie) else ORIGIN

    def refuse_user(self, principal: Principal) -> Refusal | None:
        """Once that is known; the limits again, because others may have come in meanwhile."""
        if (refusal := self.refuse_everyone()) is not None:
            return refusal
        return USER_LIMIT if self._clients.has_too_many(principal.user) else None

    def refuse_everyone(self) -> Refusal | None:
        """Whether nobody is taken at the moment."""
        if self._clients.draining:
            return DRAINING
        return FULL if self._clients.is_full else None


async def identify(verifier: UserVerifier, token: str) -> Principal | Refusal:
    """Who it is, or why not, also where a key must be fetched first."""
    try:
        return await verifier.verify(token)
    except Unauthorized as error:
        return bad_token(error)
    except KeysUnavailable as error:
        return no_keys(error)


def sender(headers: Headers) -> Sender:
    """What a browser says of the page that asks."""
    return Sender(
        find_header(headers, b"origin"),
        find_header(headers, b"host"),
        find_header(headers, b"sec-fetch-site") == "same-origin",
    )


def bearer(headers: Headers) -> str | None:
    """The token of the header `Authorization`."""
    scheme, _, token = (find_header(headers, b"authorization") or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def cookie_token(headers: Headers) -> str | None:
    """The token that a browser sends by itself."""
    for name, value in headers:
        if name == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                key, _, token = pair.strip().partition("=")
                if key == COOKIE and token:
                    return token.strip('"')
    return None


def read_query(query: bytes) -> dict[str, list[str]]:
    """The parameters of a URL; none where they are too many, which `request_of` then says."""
    if not query:
        return {}
    try:
        return parse_qs(query.decode("latin-1"), max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        return _TOO_MANY


def request_of(query: dict[str, list[str]], resumed: list[tuple[str, str]] = []) -> Request:  # noqa: B006
    """What a URL asks for: `topics=a,b` and `since=<channel>@<position>`.

    `resumed`: channels and positions that go before those of the URL.

    Raises:
        InvalidChannel, InvalidPosition, InvalidInput
    """
    if query is _TOO_MANY:
        raise InvalidInput(f"A URL may have at most {_MAX_PARAMETERS} parameters.")
    topics = [name for text in query.get("topics", []) for name in text.split(",") if name]
    positions: list[tuple[str, str]] = []
    for text in query.get("since", []):
        channel, at, position = text.rpartition("@")
        if not at:
            raise InvalidPosition("`since` is <channel>@<position>.")
        positions.append((channel, position))
    return parse_request(topics, [*positions, *resumed])
