"""Server-sent events: what is encoded is what a browser reads, and an id says where it stood."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.core import sse
from service.core.channel import parse_channel
from service.core.errors import InvalidPosition
from service.core.position import BEGINNING, Position, parse_position
from tests.harness.event_stream import EventStreamParser, Message

ODD_USERS = [
    "a,b",
    "a@b",
    "100%",
    "%2C",
    "%zz",
    "two words",
    " ",
    "+",
    "a+b",
    "é",
    "Zoë@example.com",
    "日本",
    "😀",
    "\u2028",
    "a&b=c#d?e",
    '"quoted"',
    "back\\slash",
    ":/~._-",
    "a:b",
    "user:x@1-1,all@2-2",
    "x" * 255,
    "é" * 127,
]


def _read(text: bytes) -> list[Message]:
    """Byte by byte: no reader may depend on where the pieces end."""
    parser = EventStreamParser()
    found = [message for byte in text for message in parser.feed(bytes([byte]))]
    assert parser.oddities == []
    assert parser.is_between_messages
    return found


# Messages


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\n\n", "\r\r", "\n\r", "\r\n\r\n"])
def test_line_ends_in_a_payload_end_no_message(end: str) -> None:
    payload = f'{end}{{"type":{end} "event",{end}"data":[1,{end}2]{end}}}{end}'
    (message,) = _read(sse.message(payload.encode()))
    assert json.loads(message.data) == {"type": "event", "data": [1, 2]}
    assert message.event == "message"


def test_what_is_escaped_in_json_stays_escaped() -> None:
    payload = b'{"data":"a\\nb\\r\\n:\\u0000"}'
    (message,) = _read(sse.message(payload))
    assert message.data.encode() == payload


def test_a_payload_without_line_ends_is_one_line() -> None:
    assert sse.message(b'{"a":1}') == b'data: {"a":1}\n\n'


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values, st.lists(st.sampled_from(["\n", "\r", "\r\n", " ", "\t"]), max_size=6))
def test_any_json_with_any_white_space_is_read_as_it_was(value: Any, space: list[str]) -> None:
    white = "".join(space)
    text = json.dumps(value, ensure_ascii=False, indent="\r", separators=(white + ",", ":" + white))
    (message,) = _read(sse.message(f"{white}{text}{white}".encode()))
    assert json.loads(message.data) == value


def test_retry_and_heartbeat_are_no_messages() -> None:
    parser = EventStreamParser()
    assert parser.feed(sse.retry(2412) + b"\n" + sse.HEARTBEAT + sse.HEARTBEAT) == []
    assert (parser.retry, parser.comments, parser.oddities) == (2412, 2, [])


def test_retry_may_stand_before_a_message_of_which_it_is_part() -> None:
    parser = EventStreamParser()
    (message,) = parser.feed(sse.retry(7) + sse.message(b"{}"))
    assert (parser.retry, message.data) == (7, "{}")


# Ids


def _text(bookmark: sse.Bookmark) -> str:
    """What a browser keeps of the id, and sends back."""
    (message,) = _read(bookmark.id() + sse.message(b"{}"))
    return message.id


def test_an_id_is_written_as_the_document_says() -> None:
    bookmark = sse.Bookmark(
        {"user:alice": Position(1763790000000, 17), "all": Position(1763780000000, 0)}
    )
    bookmark.move("user:alice", Position(1763790000000, 18))
    assert bookmark.id() == b"id: user:alice@1763790000000-18,all@1763780000000-0\n"


@pytest.mark.parametrize("user", ODD_USERS)
def test_odd_user_names_come_back_from_an_id(user: str) -> None:
    channel = parse_channel(f"user:{user}")
    text = _text(sse.Bookmark({channel: Position(5, 6), "all": Position(7, 8)}))
    assert re.fullmatch(r"[A-Za-z0-9._:/~%@,-]+", text)  # any header and any log can carry it
    assert sse.parse_event_id(text) == [(channel, "5-6"), ("all", "7-8")]


_numbers = st.integers(0, 2**64 - 1)
positions = st.builds(Position, _numbers, _numbers)
_users = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
_topics = st.from_regex(r"[A-Za-z0-9._:@/-]{1,200}", fullmatch=True)
channels = st.one_of(st.just("all"), _users.map("user:".__add__), _topics.map("topic:".__add__))


@given(st.dictionaries(channels, positions, min_size=1, max_size=8))
@example({"topic:@": Position(0, 0), "topic:@1-1": Position(1, 1), "user:,": Position(2, 2)})
def test_an_id_is_read_as_it_was_written(places: dict[str, Position]) -> None:
    text = _text(sse.Bookmark(places))
    read = [
        (parse_channel(name), parse_position(place)) for name, place in sse.parse_event_id(text)
    ]
    assert read == list(places.items())


@given(st.data(), st.dictionaries(channels, positions, min_size=1, max_size=5))
def test_a_bookmark_is_where_it_was_moved_last(
    data: st.DataObject, start: dict[str, Position]
) -> None:
    bookmark = sse.Bookmark(start)
    names = st.sampled_from(list(start))
    now = dict(start)
    for channel, position, sent in data.draw(
        st.lists(st.tuples(names, positions, st.booleans()), max_size=10)
    ):
        place = bookmark.place(channel)
        bookmark.move(channel, position)
        if sent:
            now[channel] = position
        else:
            bookmark.put_back(channel, place)
        assert _text(bookmark) == _text(sse.Bookmark(now))


def test_the_beginning_is_a_place_like_another() -> None:
    assert sse.Bookmark({"all": BEGINNING}).id() == b"id: all@0-0\n"
    assert sse.parse_event_id("all@0-0") == [("all", "0-0")]


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "all@1-0,",
        ",all@1-0",
        "all@1-0,,user:a@1-0",
        "all",
        "17",
        "user:alice",
        "user:%ff@1-0",
        "user:%C3@1-0",
        "user:\ud800@1-0",
        " ",
        "abc",
    ],
)
def test_what_no_stream_has_sent_as_an_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidPosition, match="event id"):
        sse.parse_event_id(text)


def test_no_id_is_no_position() -> None:
    assert sse.parse_event_id("") == []


@given(st.text(st.characters()))
def test_any_text_is_an_id_or_refused(text: str) -> None:
    try:
        places = sse.parse_event_id(text)
    except InvalidPosition:
        return
    assert len(places) == (text.count(",") + 1 if text else 0)


def test_a_refusal_does_not_repeat_a_text_without_end() -> None:
    with pytest.raises(InvalidPosition) as caught:
        sse.parse_event_id("x" * 10_000)
    assert len(str(caught.value)) < 300
