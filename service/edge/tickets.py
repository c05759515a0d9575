"""`POST /v1/tickets`: something to open one stream with, for clients that cannot send a token."""

from __future__ import annotations

import logging
import secrets
import time
from typing import NamedTuple

import msgspec

from service.core.channel import parse_topic_grant, user_channel
from service.core.errors import EngineError, EngineUnavailable, HeraldError, InvalidInput
from service.core.json_errors import read_json
from service.core.principal import Principal
from service.edge.answers import JSON, Answer, ProblemError, problem_of
from service.edge.asgi import Receive, Scope, header
from service.edge.body import body_chunks, check_content_length, check_content_type, read_body
from service.ports import Instrumentation, PublisherVerifier, Tickets

logger = logging.getLogger("herald.http")

MAX_BYTES = 16 * 1024
"""Of the request's body: as much as a token may have."""
MAX_SECONDS = 86400
_RANDOM_BYTES = 24
_NOT_KEPT = ((b"cache-control", b"no-store"),)
_AWAY = ProblemError(
    503, "The engine is away; ask again.", headers=((b"retry-after", b"1"),)
).answer()

_encode = msgspec.json.Encoder().encode


class _Wish(msgspec.Struct, forbid_unknown_fields=True):
    user: str
    topics: list[str] = []
    expires_in: float = 3600.0


_decoder = msgspec.json.Decoder(_Wish)


class TicketPolicy(NamedTuple):
    """Seconds that a ticket may be kept before it is used, and see `body_chunks`."""

    life: float
    body_timeout: float


class TicketOffice:
    """The endpoint, from a request to an `Answer`; errors are answers too."""

    def __init__(
        self,
        tickets: Tickets,
        publishers: PublisherVerifier,
        policy: TicketPolicy,
        stats: Instrumentation,
    ) -> None:
        self._tickets = tickets
        self._stats = stats
        self._publishers = publishers
        self._policy = policy

    async def issue(self, scope: Scope, receive: Receive) -> Answer:
        """A ticket for one user's stream."""
        try:
            await self._publishers.verify(header(scope, b"authorization"))
            check_content_type(scope["headers"], "application/json")
            check_content_length(scope["headers"], MAX_BYTES)
            chunks = body_chunks(receive, self._policy.body_timeout, self._stats)
            principal = _principal(await read_body(chunks, MAX_BYTES), time.time())
            ticket = secrets.token_urlsafe(_RANDOM_BYTES)
            now = time.time()
            life = min(self._policy.life, principal.expires - now)
            await self._tickets.keep(ticket, principal, life)
        except (EngineUnavailable, EngineError) as error:
            logger.warning("no ticket was given out", extra={"reason": str(error)})
            return _AWAY
        except HeraldError as error:
            return problem_of(error).answer()
        body = _encode({"ticket": ticket, "expires": int(now + life)})
        return Answer(201, JSON, body, _NOT_KEPT)


def _principal(body: bytes, now: float) -> Principal:
    """Whom the ticket stands for.

    Raises:
        InvalidInput, ProblemError
    """
    wish = read_json(_decoder, body, InvalidInput)
    user_channel(wish.user)
    if not 1 <= wish.expires_in <= MAX_SECONDS:
        raise ProblemError(400, f"`expires_in` is a number of seconds from 1 to {MAX_SECONDS}.")
    return Principal(wish.user, now + wish.expires_in, parse_topic_grant(wish.topics))
