"""What the page may have done, under `/dev/`: tokens, cut lines, a drain; nothing is faked.

Each is a POST of a JSON object that is answered with one (docs/playground.md).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from service import __version__
from service.core.channel import parse_topic_grant, user_channel
from service.core.errors import HeraldError, InvalidInput
from service.core.json_errors import read_json
from service.edge.answers import JSON, Answer, ProblemError, problem_of
from service.edge.asgi import Receive
from service.edge.body import body_chunks, read_body
from service.hub.clients import Clients
from service.hub.connection import Connection
from service.hub.stream import EventStream

logger = logging.getLogger("herald.playground")

PREFIX = "/dev/"
_MAX_BYTES = 16 * 1024
"""Of a request's body."""
_BODY_TIMEOUT = 10.0
_MOST_TTL = 7 * 86400
_encode = msgspec.json.Encoder().encode

Mint = Callable[[str, Iterable[str], float], str]
"""Makes a token: user, topics, seconds."""


class Lent(NamedTuple):
    """What `herald dev` lends to the page, and tells it.

    Attributes:
        mint: None where tokens are made elsewhere only.
        key: an API key in plain text; None where only digests are known.
        command: the `herald` command, ready for a shell.
        api_port: where the API has a port of its own.
        workers: processes; a request reaches one of them, and the connections of that one.
        history_size: events retained per channel.
        max_event_bytes: of one event.
        send_queue_bytes: what may wait for one connection.
        allowed_origins: pages that may connect; empty: all.
    """

    mint: Mint | None
    key: str | None
    command: str
    api_port: int | None
    workers: int
    history_size: int
    max_event_bytes: int
    send_queue_bytes: int
    allowed_origins: tuple[str, ...]


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Bearer(msgspec.Struct, forbid_unknown_fields=True):
    user: str
    topics: list[str] = []
    ttl: float = 3600.0


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    connection: str


class Deeds:
    """The endpoints by name, each from a request to an `Answer`; errors are answers too."""

    def __init__(self, lent: Lent, clients: Clients) -> None:
        self._lent = lent
        self._clients = clients
        self._deeds: dict[str, tuple[type, Callable[[Any], dict[str, Any]]]] = {
            "about": (_Nothing, self._about),
            "token": (_Bearer, self._token),
            "connections": (_Nothing, self._connections),
            "cut": (_Line, self._cut),
            "drain": (_Nothing, self._drain),
        }

    def find(self, name: str) -> Callable[[Receive], Awaitable[Answer]] | None:
        """The endpoint of this name."""
        if (found := self._deeds.get(name)) is None:
            return None
        form, deed = found

        async def endpoint(receive: Receive) -> Answer:
            try:
                chunks = body_chunks(receive, _BODY_TIMEOUT, self._clients.stats)
                body = await read_body(chunks, _MAX_BYTES)
                told = deed(read_json(msgspec.json.Decoder(form), body, InvalidInput))
            except HeraldError as error:
                return problem_of(error).answer()
            return Answer(200, JSON, _encode(told), ((b"cache-control", b"no-store"),))

        return endpoint

    def _about(self, wish: _Nothing) -> dict[str, Any]:
        told = self._lent._asdict()
        told["mint"] = self._lent.mint is not None
        return {"version": __version__, **told}

    def _token(self, wish: _Bearer) -> dict[str, Any]:
        if self._lent.mint is None:
            raise ProblemError(
                409, "Tokens are not made here: HERALD_JWT_SECRET is not set. Bring one of yours."
            )
        user_channel(wish.user)
        parse_topic_grant(wish.topics)
        if not 1 <= wish.ttl <= _MOST_TTL:
            raise InvalidInput(f"`ttl` is a number of seconds from 1 to {_MOST_TTL}.")
        return {"token": self._lent.mint(wish.user, wish.topics, wish.ttl)}

    def _connections(self, wish: _Nothing) -> dict[str, Any]:
        return {"connections": [_describe(one) for one in self._clients.connections]}

    def _cut(self, wish: _Line) -> dict[str, Any]:
        for connection in self._clients.connections:
            if connection.name == wish.connection:
                logger.info("the playground cuts a connection", extra={"id": connection.name})
                connection.transport.abort()
                return {}
        where = " in this worker" if self._lent.workers > 1 else ""
        raise ProblemError(404, f"There is no such connection{where}.")

    def _drain(self, wish: _Nothing) -> dict[str, Any]:
        everyone = [one for one in self._clients.connections if not one.closing]
        logger.info("the playground dismisses everyone", extra={"connections": len(everyone)})
        self._clients.dismiss(everyone)
        return {"dismissed": len(everyone)}


def _describe(connection: Connection) -> dict[str, Any]:
    """A connection; `waiting`: bytes that it has not taken; `closing`: the close code, or 0."""
    principal = connection.session.principal
    return {
        "connection": connection.name,
        "user": None if principal is None else principal.user,
        "transport": "sse" if isinstance(connection, EventStream) else "websocket",
        "waiting": connection.transport.get_write_buffer_size(),
        "closing": connection.closing,
    }
