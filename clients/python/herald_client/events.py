"""What is published, what is answered, and what is received."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, NotRequired, TypedDict

from herald_client.errors import InvalidEvent, RequestFailed

Dumps = Callable[[Any], str | bytes]
"""Writes an event's data as JSON, as `json.dumps` does."""
Loads = Callable[[str | bytes], Any]
"""Reads JSON, as `json.loads` does."""


class EventFields(TypedDict):
    """One event of many, as keyword arguments of `publish`."""

    to: str | Sequence[str]
    type: str
    data: NotRequired[Any]
    id: NotRequired[str | None]
    ttl: NotRequired[float | None]


@dataclass(frozen=True, slots=True)
class Published:
    """An event that is stored.

    Attributes:
        id: its idempotency id.
        positions: where it is stored, by channel.
        duplicate: all of its channels had this id already; nothing was delivered again.
    """

    id: str
    positions: dict[str, str]
    duplicate: bool


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """An event of the background queue that was not published.

    Attributes:
        fields: the event as it would have been sent, with its id: ready to be published again.
        error: why not; `Unavailable` means that another try may succeed.
    """

    fields: EventFields
    error: RequestFailed


@dataclass(frozen=True, slots=True)
class Event:
    """An event as a channel retains it.

    Attributes:
        channel: `user:<id>`, `topic:<name>` or `all`.
        position: its place in the channel's log; store it once the event is dealt with.
        type: the publisher's type, as `order.shipped`.
        data: the JSON that was published.
        time: when it was accepted, in UTC.
    """

    channel: str
    position: str
    type: str
    data: Any
    time: datetime


@dataclass(frozen=True, slots=True)
class Gap:
    """Events of a channel may be missing: load your state afresh.

    Attributes:
        channel: of which channel.
        after: the position after which they may be missing.
        position: what follows comes after this; store it as you store an event's.
    """

    channel: str
    after: str
    position: str


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """What a channel retains, oldest first.

    Attributes:
        events: up to `limit` of them.
        next: `after` of the next page, or None at the end.
        gap: events after `after` may be missing.
    """

    events: list[Event]
    next: str | None
    gap: bool


@dataclass(frozen=True, slots=True)
class Ticket:
    """Opens one stream of server-sent events, once.

    Attributes:
        ticket: for the query, `/v1/stream?ticket=…`.
        expires: Unix seconds until which it opens one.
    """

    ticket: str
    expires: float


class Outgoing(NamedTuple):
    """An event on its way: what is sent stays the same, however often it is repeated."""

    id: str
    channels: tuple[str, ...]
    body: bytes

    def fields(self) -> EventFields:
        """What the body says."""
        fields: EventFields = json.loads(self.body)
        return fields


def new_id() -> str:
    """An idempotency id that nobody else makes, also not after a fork."""
    return uuid.uuid4().hex


def dump_json(value: Any) -> str:
    """The shortest JSON text of a value; what is no JSON (NaN, a datetime) is refused."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode_event(
    to: str | Sequence[str],
    type: str,
    data: Any,
    id: str | None,
    ttl: float | None,
    dumps: Dumps,
) -> Outgoing:
    """Write an event as the JSON that is sent; one without an id gets one.

    Raises:
        InvalidEvent: if it cannot be written, or `to` holds no channels. What its values may be
            else, the server judges.
    """
    channels = _channels(to)
    event_id = new_id() if id is None else id
    try:
        text = dumps(data)
        parts = [
            b'{"to":%b' % _json(channels[0] if len(channels) == 1 else list(channels)),
            b'"type":%b' % _json(type),
            b'"id":%b' % _json(event_id),
            b'"data":%b' % (text.encode() if isinstance(text, str) else text),
        ]
        if ttl is not None:
            parts.append(b'"ttl":%b' % _json(ttl))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"This event cannot be written as JSON: {error}") from error
    return Outgoing(event_id, channels, b",".join(parts) + b"}")


def encode_fields(fields: EventFields, dumps: Dumps) -> Outgoing:
    """The same of an event given as a mapping.

    Raises:
        InvalidEvent: as `encode_event`, and where `to` or `type` is missing or a key is unknown.
    """
    if not isinstance(fields, Mapping):
        raise InvalidEvent(f"An event is a mapping, this is of type {type(fields).__name__}.")
    unknown = fields.keys() - _KEYS
    if unknown or not fields.keys() >= _REQUIRED:
        raise InvalidEvent(
            "An event has the keys to, type, data, id, ttl; "
            f"this has {', '.join(map(str, fields)) or 'none'}."
        )
    return encode_event(
        fields["to"],
        fields["type"],
        fields.get("data"),
        fields.get("id"),
        fields.get("ttl"),
        dumps,
    )


def read_event(channel: str, message: Mapping[str, Any]) -> Event:
    """An event as a WebSocket message or a history page has it.

    Raises:
        KeyError, TypeError, ValueError: if it is none.
    """
    return Event(
        channel,
        message["id"],
        message["event"],
        message["data"],
        datetime.fromisoformat(message["time"]),
    )


_KEYS = frozenset(("to", "type", "data", "id", "ttl"))
_REQUIRED = frozenset(("to", "type"))


def _channels(to: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(to, str):
        return (to,)
    if isinstance(to, Iterable):
        channels = tuple(to)
        if all(isinstance(channel, str) for channel in channels):
            return channels
    raise InvalidEvent("`to` is user:<id>, topic:<name>, all, or a list of them.")


def _json(value: Any) -> bytes:
    return dump_json(value).encode()
