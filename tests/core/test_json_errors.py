"""What is wrong with a JSON text is said in JSON's words."""

from __future__ import annotations

import msgspec
import pytest

from service.core.errors import InvalidEvent, InvalidMessage
from service.core.event import decode_batch, decode_event
from service.core.json_errors import explain_mismatch
from service.core.messages import decode_client_message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"to":5,"type":"t"}', "`to`: expected text or a list, got a number."),
        ('{"to":["all",5],"type":"t"}', "`to[1]`: expected text, got a number."),
        ('{"to":"all","type":null}', "`type`: expected text, got null."),
        ('{"to":"all","type":"t","id":1}', "`id`: expected text or null, got a number."),
        ('{"to":"all","type":"t","ttl":"1"}', "`ttl`: expected a number or null, got text."),
        ("[]", "Expected an object, got a list."),
        ('{"to":"all"}', "Object missing required field `type`."),
        (
            '{"to":"all","type":"t","tll":1}',
            "Object contains unknown field `tll`. Known: `to`, `type`, `data`, `id`, `ttl`.",
        ),
        ('{"to":"all",}', "Not JSON: trailing comma in object (byte 12)."),
        ("", "Not JSON: there is nothing."),
        (" \n", "Not JSON: there is nothing."),
        ("{", "Not JSON: Input data was truncated."),
    ],
)
def test_an_event_of_the_wrong_shape_is_told_plainly(body: str, said: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        decode_event(body.encode(), max_bytes=1000)
    assert str(caught.value) == said


def test_a_client_message_of_the_wrong_shape_is_told_plainly() -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_client_message(b'{"type":"subscribe","topic":5}')
    assert str(caught.value) == "`topic`: expected text, got a number."


def test_what_is_not_a_mismatch_is_left_as_it_is() -> None:
    assert explain_mismatch(msgspec.ValidationError("Something else")) == "Something else."


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'[{"to":"all","type":"t"}]', 'A batch is `{"events":[…]}`; this is a list.'),
        (b'{"to":"all","type":"t"}', "Object contains unknown field `to`. Known: `events`."),
    ],
)
def test_a_batch_that_is_none_is_told_what_one_is(body: bytes, said: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        decode_batch(body, max_events=10)
    assert str(caught.value) == said
