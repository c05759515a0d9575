"""Puts the playground in front of a node's client edge: `herald dev` only."""

from __future__ import annotations

from functools import partial

from service.app.credentials import mint_token, plain_key
from service.app.node import Node, allowed_origins
from service.app.server import Sockets
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
        allowed_origins=tuple(sorted(allowed_origins(settings))),
    )
    deeds = Deeds(lent, node.clients)
    node.wrap_client_edge(
        lambda rest: with_playground(rest, node.api, Files(), deeds, settings.host)
    )
