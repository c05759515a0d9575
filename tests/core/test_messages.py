"""What client and server say: reading the client's, building the server's."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import messages
from service.core.errors import InvalidMessage
from service.core.messages import Joined, decode_client_message
from service.core.position import Position

HERE = Position(1_763_790_000_000, 17)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"type":"connect"}', messages.Connect()),
        (
            '{"type":"connect","token":"t","positions":{"all":"1-2"},"topics":["a"]}',
            messages.Connect("t", {"all": "1-2"}, ["a"]),
        ),
        ('{"token":null,"type":"connect"}', messages.Connect()),
        ('{"type":"auth","token":"t"}', messages.Auth("t")),
        ('{"type":"subscribe","topic":"a"}', messages.Subscribe("a")),
        ('{"type":"subscribe","topic":"a","position":"1-2"}', messages.Subscribe("a", "1-2")),
        ('{"type":"unsubscribe","topic":"a"}', messages.Unsubscribe("a")),
        ('{"type":"ack","channel":"all","id":"1-2"}', messages.Ack("all", "1-2")),
        ('{"type":"ping"}', messages.Ping()),
        (' {"type":"pong", "new": [1, {"key": null}]} ', messages.Pong()),
    ],
)
def test_client_messages(text: str, expected: messages.ClientMessage) -> None:
    assert decode_client_message(text.encode()) == expected


def test_every_type_is_known_by_name() -> None:
    kinds = [kind.__struct_config__.tag for kind in messages.ClientMessage.__args__]
    assert tuple(kinds) == messages.CLIENT_TYPES


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "invalid_json"),
        (b"hello", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"type":"ping"} x', "invalid_json"),
        (b"[" * 100_000, "invalid_message"),
        (b'{"type":"ping","x":' + b"[" * 100_000, "invalid_json"),
        (b'{"type":"dance"}', "unknown_type"),
        (b'{"type":"' + b"x" * 10_000 + b'"}', "unknown_type"),
        (b'{"type":""}', "unknown_type"),
        (b"{}", "invalid_message"),
        (b"[]", "invalid_message"),
        (b"null", "invalid_message"),
        (b"1", "invalid_message"),
        (b'"ping"', "invalid_message"),
        (b'{"type":1}', "invalid_message"),
        (b'{"type":null}', "invalid_message"),
        (b'{"type":"auth"}', "invalid_message"),
        (b'{"type":"auth","token":null}', "invalid_message"),
        (b'{"type":"subscribe","topic":1}', "invalid_message"),
        (b'{"type":"subscribe","topic":"a","position":1}', "invalid_message"),
        (b'{"type":"connect","positions":["all"]}', "invalid_message"),
        (b'{"type":"connect","positions":{"all":null}}', "invalid_message"),
        (b'{"type":"connect","topics":"a"}', "invalid_message"),
        (b'{"type":"ack","channel":"all"}', "invalid_message"),
    ],
)
def test_other_text_is_refused_with_a_word(text: bytes, code: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        decode_client_message(text)
    assert refusal.value.code == code
    assert 0 < len(str(refusal.value)) < 300


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="ignore")))
def test_noise_is_refused_and_breaks_nothing(noise: bytes) -> None:
    with contextlib.suppress(InvalidMessage):
        assert isinstance(decode_client_message(noise), messages.ClientMessage)


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (
            messages.welcome("c1", 'a"b', 25.0, 99.9, {"all": Joined(HERE, True)}),
            {
                "type": "welcome",
                "connection": "c1",
                "user": 'a"b',
                "heartbeat": 25.0,
                "expires": 99,
                "channels": {"all": {"position": str(HERE), "recovered": True}},
            },
        ),
        (
            messages.gap("all", HERE, Position(HERE.epoch, 20)),
            {"type": "gap", "channel": "all", "from": str(HERE), "to": f"{HERE.epoch}-20"},
        ),
        (
            messages.subscribed("topic:a", Joined(HERE, False)),
            {
                "type": "subscribed",
                "channel": "topic:a",
                "position": str(HERE),
                "recovered": False,
            },
        ),
        (messages.unsubscribed("topic:a"), {"type": "unsubscribed", "channel": "topic:a"}),
        (messages.authenticated(99.9), {"type": "authenticated", "expires": 99}),
        (messages.reconnect(250), {"type": "reconnect", "after_ms": 250}),
        (messages.error("w", "t"), {"type": "error", "code": "w", "message": "t"}),
        (
            messages.error("w", "t", "all"),
            {"type": "error", "code": "w", "message": "t", "channel": "all"},
        ),
        (messages.PING, {"type": "ping"}),
        (messages.PONG, {"type": "pong"}),
    ],
)
def test_server_messages(built: bytes, expected: dict[str, object]) -> None:
    assert json.loads(built) == expected


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_an_event_begins_with_its_channel(channel: str) -> None:
    built = messages.event_prefix(channel) + str(HERE).encode() + b'","data":1}'
    assert json.loads(built) == {
        "type": "event",
        "channel": channel,
        "id": str(HERE),
        "data": 1,
    }
