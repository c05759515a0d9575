"""Puts the playground in front of a node's client edge: `herald dev` only."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from service.app.node import Node
from service.app.server import Sockets
from service.auth.minting import mint_user_token
from service.edge.origins import parse_origins
from service.edge.playground.deeds import Deeds, Lent
from service.edge.playground.files import Files
from service.edge.playground.routes import with_playground
from service.settings import Settings


def open_playground(settings: Settings, sockets: Sockets, node: Node, command: str) -> None:
    """Serve it at `/` of the client edge. `command`: `herald`, ready for a shell."""
    lent = Lent(
        mint=None if settings.jwt_secret is None else partial(mint_token, settings),
        key=plain_key(settings),
        command=command,
        api_port=None if sockets.api is None else sockets.api_port,
        workers=settings.workers,
        history_size=settings.history_size,
        max_event_bytes=settings.max_event_bytes,
        send_queue_bytes=settings.send_queue_bytes,
        allowed_origins=tuple(sorted(parse_origins(list(settings.allowed_origins)))),
    )
    deeds = Deeds(lent, node.clients)
    node.wrap_client_edge(
        lambda rest: with_playground(rest, node.api, Files(), deeds, settings.host)
    )


def mint_token(settings: Settings, user: str, topics: Iterable[str], ttl: float) -> str:
    """A user's token by the configured secret, which there must be."""
    assert settings.jwt_secret is not None
    return mint_user_token(
        settings.jwt_secret,
        user,
        ttl=ttl,
        topics=topics,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        algorithms=settings.jwt_algorithms,
    )


def plain_key(settings: Settings) -> str | None:
    """The first API key that is known in plain text."""
    return next((key for key in settings.api_keys if not key.startswith("sha256:")), None)
