"""Events: what a publisher POSTs, and the JSON in which it is kept and sent.

An event is encoded once, when it is accepted. Its *fragment* is the JSON that follows its id,

    "event":"order.shipped","data":{"order":17},"time":"2026-11-23T06:28:00.123Z"}

so that the message to a client and the entry of a history page are both a short prefix and these
bytes. `data` is kept as the JSON text that was sent: no number or character is converted.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from service.core.channel import parse_channel
from service.core.errors import EventTooLarge, InvalidEvent, TooManyEvents
from service.core.json_errors import read_json

MAX_CHANNELS = 1000
"""Channels that one event may name."""
MAX_TTL = 10 * 365 * 86400
"""Seconds."""
_MAX_TYPE = 200
_MAX_ID = 255
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_parser = json.JSONDecoder()


class Event(NamedTuple):
    """A valid event, not yet stored.

    Attributes:
        channels: where to, 1 to 1,000 distinct channels.
        type: the publisher's type, 1 to 200 characters.
        data: the JSON text as it was sent.
        id: makes it idempotent; None where the publisher gave none.
        ttl_ms: milliseconds after which it is no longer delivered, or None.
    """

    channels: tuple[str, ...]
    type: str
    data: bytes
    id: str | None
    ttl_ms: int | None


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    to: str | list[str]
    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    id: str | None = None
    ttl: int | float | None = None


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


_body = msgspec.json.Decoder(_Body)
_batch = msgspec.json.Decoder(_Batch)
_encode_text = msgspec.json.Encoder().encode


def decode_event(body: bytes, *, max_bytes: int, idempotency_key: str | None = None) -> Event:
    """Read one event from the JSON of a request or of a line of a batch.

    Args:
        body: UTF-8 JSON text.
        max_bytes: its limit.
        idempotency_key: the request header's, where one was sent.

    Raises:
        EventTooLarge: if `body` is over `max_bytes`.
        InvalidEvent: if it is not an event, with what is wrong and where.
        InvalidChannel: if `to` names something that is no channel.
    """
    if len(body) > max_bytes:
        raise EventTooLarge(max_bytes)
    fields = read_json(_body, body, InvalidEvent)
    names = [fields.to] if isinstance(fields.to, str) else fields.to
    if not names:
        raise InvalidEvent("`to` names no channel.")
    if len(names) > MAX_CHANNELS:
        raise InvalidEvent(f"`to` names {len(names)} channels; at most {MAX_CHANNELS}.")
    channels = tuple(dict.fromkeys([parse_channel(name) for name in names]))
    check_type(fields.type)
    event_id = fields.id
    if event_id is not None:
        check_id(event_id, "`id`")
    if idempotency_key is not None:
        if event_id is not None and event_id != idempotency_key:
            raise InvalidEvent("`id` and the header Idempotency-Key are both given and differ.")
        event_id = idempotency_key
    ttl_ms = None
    if fields.ttl is not None:
        if not 0 < fields.ttl <= MAX_TTL:
            raise InvalidEvent(f"`ttl` is a number of seconds above 0 and up to {MAX_TTL}.")
        ttl_ms = max(1, round(fields.ttl * 1000))
    return Event(channels, fields.type, bytes(fields.data), event_id, ttl_ms)


def decode_batch(body: bytes, *, max_events: int) -> list[bytes]:
    """Split `{"events": [ … ]}` into the JSON text of each event.

    Raises:
        InvalidEvent: if the body has another shape.
        TooManyEvents: if there are more than `max_events`.
        EventTooLarge: never; each event's own size is judged by `decode_event`.
    """
    if body.lstrip()[:1] == b"[":
        raise InvalidEvent('A batch is `{"events":[…]}`; this is a list.')
    events = read_json(_batch, body, InvalidEvent).events
    if len(events) > max_events:
        raise TooManyEvents(f"A batch has at most {max_events} events; this one has {len(events)}.")
    return [bytes(event) for event in events]


def check_type(text: str) -> None:
    """Raises InvalidEvent unless `text` can be an event's type."""
    if not 1 <= len(text) <= _MAX_TYPE or _CONTROL.search(text):
        raise InvalidEvent(f"`type` is 1 to {_MAX_TYPE} characters, none of them a control one.")


def check_id(text: str, name: str) -> None:
    """Raises InvalidEvent unless `text` can be an idempotency id; `name` says where it stood."""
    if not 1 <= len(text) <= _MAX_ID or _CONTROL.search(text):
        raise InvalidEvent(f"{name} is 1 to {_MAX_ID} characters, none of them a control one.")


def encode_fragment(event: Event, accepted_ms: int) -> bytes:
    """The event's JSON after its id, accepted at `accepted_ms` (Unix milliseconds)."""
    return b'"event":%b,"data":%b,"time":"%bZ"}' % (
        _encode_text(event.type),
        event.data,
        _time(accepted_ms),
    )


def read_fragment(fragment: bytes) -> tuple[str, str]:
    """An event's type and time, of its fragment; whatever its data is, it is not looked at."""
    text = fragment.decode()
    kind, _ = _parser.raw_decode(text, len('"event":'))
    return kind, text.rpartition('"time":"')[2].removesuffix('"}')


@lru_cache(maxsize=1)  # many events are accepted within a millisecond
def _time(unix_ms: int) -> bytes:
    text = datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text[:-6].encode()


def fingerprint(event: Event) -> str:
    """32 hex digits that are the same for the same payload (type, data, ttl).

    The order of an object's keys and the white space between tokens do not count, because a
    publisher that builds the same request again may write them differently; numbers count as they
    are written.
    """
    try:
        # Tuples stand for what is no list and no text, so no two values look the same.
        value = json.loads(
            event.data, parse_int=_number, parse_float=_number, object_pairs_hook=_members
        )
        data = repr(value).encode(errors="backslashreplace")
    except (ValueError, RecursionError):
        data = event.data
    digest = hashlib.sha256()
    for part in (event.type.encode(), str(event.ttl_ms).encode(), data):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:32]


def _number(text: str) -> tuple[str, str]:
    return ("number", text)


def _members(pairs: list[tuple[str, Any]]) -> tuple[str, list[tuple[str, Any]]]:
    return ("object", sorted(pairs, key=itemgetter(0)))
