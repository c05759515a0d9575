"""What client and server say over the WebSocket: JSON objects with a `type`.

Client messages are decoded into one of the `ClientMessage` types; server messages are built as
JSON bytes by the functions below. docs/protocol.md describes both for users.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from service.core.errors import InvalidMessage
from service.core.json_errors import explain_mismatch, explain_syntax
from service.core.position import Position


class Connect(msgspec.Struct, tag="connect"):
    """The first message of `herald.v1`."""

    token: str | None = None
    positions: dict[str, str] = {}
    topics: list[str] = []


class Auth(msgspec.Struct, tag="auth"):
    """A new token for this connection."""

    token: str


class Subscribe(msgspec.Struct, tag="subscribe"):
    """Join a topic, after `position` where one is given."""

    topic: str
    position: str | None = None


class Unsubscribe(msgspec.Struct, tag="unsubscribe"):
    """Leave a topic."""

    topic: str


class Ack(msgspec.Struct, tag="ack"):
    """The client has dealt with the event `id` of `channel`."""

    channel: str
    id: str


class Ping(msgspec.Struct, tag="ping"):
    """Answer with `pong`."""


class Pong(msgspec.Struct, tag="pong"):
    """The answer to `ping`."""


ClientMessage = Connect | Auth | Subscribe | Unsubscribe | Ack | Ping | Pong
CLIENT_TYPES = ("connect", "auth", "subscribe", "unsubscribe", "ack", "ping", "pong")

_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_encode = msgspec.json.Encoder().encode


class _Typed(msgspec.Struct):
    type: str


_type_decoder = msgspec.json.Decoder(_Typed)


def decode_client_message(text: bytes) -> ClientMessage:
    """Read one client message; keys that are not known are passed over.

    Raises:
        InvalidMessage: `invalid_json`, `unknown_type` or `invalid_message`.
    """
    try:
        return _decoder.decode(text)
    except msgspec.ValidationError as error:
        try:
            kind = _type_decoder.decode(text).type
        except (msgspec.DecodeError, RecursionError):
            kind = None
        if kind is not None and kind not in CLIENT_TYPES:
            raise InvalidMessage(
                "unknown_type", f"There is no message of type {kind[:60]!r}."
            ) from None
        raise InvalidMessage("invalid_message", explain_mismatch(error)) from None
    except msgspec.DecodeError as error:
        raise InvalidMessage("invalid_json", explain_syntax(error)) from None
    except RecursionError:
        raise InvalidMessage("invalid_json", "Nested too deeply.") from None


class Joined(NamedTuple):
    """A channel in `welcome`: where its events will follow from."""

    position: Position
    recovered: bool


def welcome(
    connection: str, user: str, heartbeat: float, expires: float, channels: dict[str, Joined]
) -> bytes:
    """The first message of every connection."""
    return _encode(
        {
            "type": "welcome",
            "connection": connection,
            "user": user,
            "heartbeat": int(heartbeat) if heartbeat.is_integer() else heartbeat,
            "expires": int(expires),
            "channels": {
                channel: {"position": str(joined.position), "recovered": joined.recovered}
                for channel, joined in channels.items()
            },
        }
    )


def event_prefix(channel: str) -> bytes:
    """An `event` message up to its id, which is followed by `",` and the event's fragment."""
    return b'{"type":"event","channel":%b,"id":"' % _encode(channel)


def gap(channel: str, since: Position, to: Position) -> bytes:
    """Something after `since` may be missing; events follow from `to` on."""
    return _encode({"type": "gap", "channel": channel, "from": str(since), "to": str(to)})


def subscribed(channel: str, joined: Joined) -> bytes:
    """A `subscribe` was done."""
    return _encode(
        {
            "type": "subscribed",
            "channel": channel,
            "position": str(joined.position),
            "recovered": joined.recovered,
        }
    )


def unsubscribed(channel: str) -> bytes:
    """No more events of `channel` follow."""
    return _encode({"type": "unsubscribed", "channel": channel})


def authenticated(expires: float) -> bytes:
    """An `auth` was accepted."""
    return _encode({"type": "authenticated", "expires": int(expires)})


def reconnect(after_ms: int) -> bytes:
    """The connection is about to be closed; come back after `after_ms` milliseconds."""
    return _encode({"type": "reconnect", "after_ms": after_ms})


def close(code: int, reason: str) -> bytes:
    """The last message of a stream of server-sent events; a WebSocket has a frame for it."""
    return _encode({"type": "close", "code": int(code), "reason": reason})


def error(code: str, message: str, channel: str | None = None) -> bytes:
    """Something was refused; the connection goes on."""
    body = {"type": "error", "code": code, "message": message}
    if channel is not None:
        body["channel"] = channel
    return _encode(body)


PING = b'{"type":"ping"}'
PONG = b'{"type":"pong"}'
