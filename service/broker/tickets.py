"""Tickets: who may open one stream, kept in the engine until somebody does.

Keys: `herald:ticket:{<SHA-256 of the ticket>}`, so that who can read the engine cannot use what is
there. A ticket is taken with GETDEL: by one node, once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from service.broker import keys
from service.broker.event_log import PATIENCE
from service.broker.keeper import LinkKeeper
from service.broker.link import Argument
from service.broker.shards import Shards
from service.broker.topology import slot_of
from service.core.channel import TopicGrant
from service.core.principal import Principal


class Caller(Protocol):
    """Has a command carried out, at most once, where the keys with this hash tag are."""

    async def __call__(self, tag: str, command: Sequence[Argument]) -> Any:
        """Raises EngineUnavailable or EngineError."""


class _Kept(msgspec.Struct):
    user: str
    expires: float
    names: tuple[str, ...]
    prefixes: tuple[str, ...]


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(_Kept)


class EngineTickets:
    """The `Tickets` port."""

    def __init__(self, call: Caller) -> None:
        self._call = call

    async def keep(self, ticket: str, principal: Principal, seconds: float) -> None:
        """See `Tickets.keep`."""
        kept = _Kept(principal.user, principal.expires, *principal.topics)
        tag = _digest(ticket)
        life = b"%d" % max(1, round(seconds * 1000))
        await self._call(tag, (b"SET", keys.ticket_key(tag), _encode(kept), b"PX", life))

    async def take(self, ticket: str) -> Principal | None:
        """See `Tickets.take`."""
        tag = _digest(ticket)
        kept = await self._call(tag, (b"GETDEL", keys.ticket_key(tag)))
        if kept is None:
            return None
        found = _decoder.decode(kept)
        return Principal(found.user, found.expires, TopicGrant(found.names, found.prefixes))


def _digest(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()


def on_link(keeper: LinkKeeper) -> Caller:
    """Of one primary."""

    async def call(tag: str, command: Sequence[Argument]) -> Any:
        link = keeper.link or await keeper.wait_open(PATIENCE)
        return await link.call(*command)

    return call


def on_shards(shards: Shards) -> Caller:
    """Of a Cluster."""

    async def call(tag: str, command: Sequence[Argument]) -> Any:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        reply = await shards.call(slot_of(tag), command, deadline, reads=True)
        return reply.value

    return call
