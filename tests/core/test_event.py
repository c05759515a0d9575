"""Events: what is accepted, what is kept byte for byte, and when two are the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.errors import EventTooLarge, InvalidChannel, InvalidEvent, TooManyEvents
from service.core.event import (
    MAX_CHANNELS,
    MAX_TTL,
    Event,
    decode_batch,
    decode_event,
    encode_fragment,
    fingerprint,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def decode(body: str | bytes, **options: str) -> Event:
    raw = body.encode() if isinstance(body, str) else body
    return decode_event(raw, max_bytes=1 << 20, idempotency_key=options.get("key"))


def with_data(data: str) -> Event:
    return decode(f'{{"to":"all","type":"t","data":{data}}}')


def with_field(name: str, value: str) -> Event:
    return decode(f'{{"to":"all","type":"t","{name}":{value}}}')


def test_an_event_of_few_words() -> None:
    assert decode('{"to":"all","type":"t"}') == Event(("all",), "t", b"null", None, None)


def test_an_event_with_everything() -> None:
    body = '{"ttl":1.5,"id":"i","data":[1],"type":"t","to":["user:a","topic:b","user:a"]}'
    assert decode(body) == Event(("user:a", "topic:b"), "t", b"[1]", "i", 1500)


@settings(deadline=None)
@given(values, st.sampled_from([None, 2]), st.booleans())
def test_data_passes_byte_for_byte(value: object, indent: int | None, ascii_only: bool) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    event = with_data(data)
    assert event.data == data.encode()
    message = b"{" + encode_fragment(event, 0)
    assert b'"data":' + data.encode() + b"," in message
    assert json.loads(message)["data"] == value


@pytest.mark.parametrize(
    "data",
    [
        "1.0",
        "1e400",
        "-0",
        "-0.0",
        "1E+2",
        "9" * 5_000,
        "0.1000",
        r'"\u00e9\/"',
        '"é"',
        '{"a":1,"a":2}',
    ],
)
def test_no_number_or_character_is_converted(data: str) -> None:
    assert with_data(data).data == data.encode()


@given(texts.filter(bool).filter(str.isprintable))
def test_the_fragment_names_type_and_time(kind: str) -> None:
    event = decode(json.dumps({"to": "all", "type": kind}))
    assert json.loads(b"{" + encode_fragment(event, 1_795_415_280_123)) == {
        "event": kind,
        "data": None,
        "time": "2026-11-23T06:28:00.123Z",
    }


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        '"all"',
        "{}",
        '{"to":"all"}',
        '{"type":"t"}',
        '{"to":[],"type":"t"}',
        '{"to":null,"type":"t"}',
        '{"to":[1],"type":"t"}',
        '{"to":"all","type":""}',
        '{"to":"all","type":1}',
        '{"to":"all","type":"a\\u0000"}',
        '{"to":"all","type":"a\\n"}',
        '{"to":"all","type":"%s"}' % ("t" * 201),
        '{"to":"all","type":"t"} {}',
        '{"to":"all","type":"t","tll":1}',
        '{"to":"all","type":"t","data":}',
        '{"to":"all","type":"t","data":NaN}',
        '{"to":"all","type":"t","data":01}',
        '{"to":"all","type":"t","data":' + "[" * 100_000,
        '{"to":"all","type":"t","data":' + "[" * 100_000 + "]" * 100_000 + "}",
        b'{"to":"all","type":"t","data":"\xff"}',
        b'{"to":"all","type":"\xed\xa0\x80"}',
        b"\xff\xfe{\x00}\x00",
    ],
)
def test_other_bodies_are_refused(body: str | bytes) -> None:
    with pytest.raises(InvalidEvent) as refusal:
        decode(body)
    assert 0 < len(str(refusal.value)) < 500


@pytest.mark.parametrize("ttl", ["0", "-1", "true", '"1"', "1e400", str(MAX_TTL + 1), "9" * 400])
def test_other_times_to_live_are_refused(ttl: str) -> None:
    with pytest.raises(InvalidEvent):
        with_field("ttl", ttl)


@pytest.mark.parametrize(
    ("ttl", "milliseconds"), [("3600", 3_600_000), ("0.2", 200), ("1e-9", 1), ("null", None)]
)
def test_times_to_live(ttl: str, milliseconds: int | None) -> None:
    assert with_field("ttl", ttl).ttl_ms == milliseconds


@pytest.mark.parametrize("event_id", ['""', "1", '"a\\u0007"', '"%s"' % ("i" * 256)])
def test_other_ids_are_refused(event_id: str) -> None:
    with pytest.raises(InvalidEvent):
        with_field("id", event_id)


def test_an_unknown_channel_is_refused() -> None:
    with pytest.raises(InvalidChannel):
        decode('{"to":["all","room:1"],"type":"t"}')


def test_channels_are_limited() -> None:
    names = [f"user:{number}" for number in range(MAX_CHANNELS + 1)]
    assert len(decode(json.dumps({"to": names[1:], "type": "t"})).channels) == MAX_CHANNELS
    with pytest.raises(InvalidEvent):
        decode(json.dumps({"to": names, "type": "t"}))


def test_bytes_are_limited() -> None:
    body = b'{"to":"all","type":"t"}'
    assert decode_event(body, max_bytes=len(body)).type == "t"
    with pytest.raises(EventTooLarge):
        decode_event(body, max_bytes=len(body) - 1)


def test_the_header_gives_the_id() -> None:
    assert decode('{"to":"all","type":"t"}', key="k").id == "k"
    assert decode('{"to":"all","type":"t","id":"k"}', key="k").id == "k"
    with pytest.raises(InvalidEvent):
        decode('{"to":"all","type":"t","id":"i"}', key="k")


def test_a_batch_is_split_and_not_judged() -> None:
    assert decode_batch(b'{"events": [ {"to" : 1}, 2 ]}', max_events=2) == [b'{"to" : 1}', b"2"]
    with pytest.raises(TooManyEvents):
        decode_batch(b'{"events":[1,2,3]}', max_events=2)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"events":1}', b'{"events":[],"x":1}', b"\xff"]
)
def test_other_batches_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidEvent):
        decode_batch(body, max_events=10)


def shuffled(value: object) -> object:
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(values)
def test_key_order_and_white_space_do_not_change_a_payload(value: object) -> None:
    other = json.dumps(shuffled(value), indent=3, ensure_ascii=False)
    assert fingerprint(with_data(json.dumps(value))) == fingerprint(with_data(other))


@settings(deadline=None)
@given(values, values)
def test_other_values_are_other_payloads(one: object, other: object) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    prints = [fingerprint(with_data(json.dumps(value))) for value in (one, other)]
    assert (prints[0] == prints[1]) == same


DIFFERENT = [
    *("1", "1.0", "1e0", "-1", '"1"', '"1.0"', "[1]", "true", "null", '"null"', "{}", "[]"),
    *(str(2**64), str(2**64 + 1), "9" * 5_000, "9" * 4_999 + "8", "0.1", "0.10000000000000000001"),
    *('{"n":1}', '{"n":"1"}', '"n1"', '"n:1"', '{"number":"1"}', "[1,2]", "[2,1]", '"a b"', '"ab"'),
]


def test_what_looks_alike_is_told_apart() -> None:
    assert len({fingerprint(with_data(data)) for data in DIFFERENT}) == len(DIFFERENT)


def test_type_and_time_to_live_belong_to_the_payload_but_not_id_and_channels() -> None:
    event = Event(("all",), "t", b"1", "i", None)
    same = [event._replace(id=None), event._replace(channels=("user:a",))]
    others = [event._replace(type="u"), event._replace(ttl_ms=1), event._replace(ttl_ms=2)]
    assert {fingerprint(one) for one in same} == {fingerprint(event)}
    assert len({fingerprint(one) for one in [event, *others]}) == 4
