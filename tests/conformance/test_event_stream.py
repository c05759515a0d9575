"""Streams as HTML has them (9.2.6): a strict parser, its own examples, and recorded streams.

The parser is `tests.harness.event_stream`; it passes over what the standard tells a browser to pass
over, but keeps count of it: a stream of Herald's must have nothing of that kind.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.broker.embedded import EmbeddedEngine
from tests.harness.event_stream import EventStreamParser, Message
from tests.harness.process import Herald, eventually, mint, open_plain
from tests.harness.streams import dial, open_stream, stream_request


def _parse(data: bytes) -> tuple[list[Message], EventStreamParser]:
    parser = EventStreamParser()
    return parser.feed(data), parser


# The standard's own examples, so that the parser can be believed


def test_three_messages() -> None:
    messages, _ = _parse(
        b"data: This is the first message.\n\n"
        b"data: This is the second message, it\ndata: has two lines.\n\n"
        b"data: This is the third message.\n\n"
    )
    assert [message.data for message in messages] == [
        "This is the first message.",
        "This is the second message, it\nhas two lines.",
        "This is the third message.",
    ]
    assert {message.event for message in messages} == {"message"}


def test_named_events() -> None:
    messages, _ = _parse(
        b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n"
    )
    assert messages == [
        ("73857293", "", "add"),
        ("2153", "", "remove"),
        ("113411", "", "add"),
    ]


def test_comments_ids_and_the_space_that_is_dropped() -> None:
    messages, parser = _parse(
        b": test stream\n\ndata: first event\nid: 1\n\n"
        b"data:second event\nid\n\ndata:  third event\n\n"
    )
    assert [(message.data, message.id) for message in messages] == [
        ("first event", "1"),
        ("second event", ""),
        (" third event", ""),
    ]
    assert parser.comments == 1
    assert parser.oddities == ["a field without a colon: 'id'"]


def test_empty_data_and_a_message_that_is_cut_off() -> None:
    messages, parser = _parse(b"data\n\ndata\ndata\n\ndata:")
    assert [message.data for message in messages] == ["", "\n"]
    assert not parser.is_between_messages


def test_two_forms_are_the_same() -> None:
    messages, _ = _parse(b"data:test\n\ndata: test\n\n")
    assert messages[0] == messages[1]


def test_what_is_passed_over_is_noted() -> None:
    messages, parser = _parse(
        b"\xef\xbb\xbfid: a\0b\nretry: soon\nfoo: bar\nretry: 10\ndata: x\n\nid: 7\n\n"
    )
    assert messages == [Message("x", "")]
    assert (parser.retry, parser.last_id) == (10, "7")  # an id counts without data as well
    assert len(parser.oddities) == 4


@given(
    st.lists(st.sampled_from(["\n", "\r", "\r\n", "data: x", "id: 5", ":c", "é", "data"])),
    st.integers(1, 5),
)
def test_how_the_bytes_are_cut_does_not_matter(parts: list[str], size: int) -> None:
    data = "".join(parts).encode()
    whole, parser = _parse(data)
    other = EventStreamParser()
    pieces = [other.feed(data[at : at + size]) for at in range(0, len(data), size)]
    assert [message for piece in pieces for message in piece] == whole
    assert (other.last_id, other.comments, other.oddities) == (
        parser.last_id,
        parser.comments,
        parser.oddities,
    )


# Streams of a live server


def _strictly(raw: bytes) -> list[tuple[Message, dict[str, Any]]]:
    """The messages of a recorded stream and their objects; everything about it must be right."""
    parser = EventStreamParser()
    messages = parser.feed(raw)
    assert parser.oddities == []
    assert parser.is_between_messages
    assert parser.retry is not None
    raw.decode("utf-8")
    # More than the standard asks: one way of writing, which any simple reader understands too.
    assert b"\r" not in raw
    assert b"\0" not in raw
    blocks = raw.decode().split("\n\n")
    assert blocks.pop() == ""
    assert re.fullmatch(r"retry: [1-9][0-9]{3}", blocks[0])
    for block in blocks[1:]:
        assert re.fullmatch(r":|(id: [!-~]+\n)?data: [^\n]*(\ndata: [^\n]*)*", block), block
    found = []
    for message in messages:
        assert message.event == "message"
        told = json.loads(message.data)
        assert isinstance(told, dict)
        found.append((message, told))
    assert found[0][1]["type"] in ("welcome", "close")
    for block in blocks[1:]:
        if block != ":":
            lines = block.split("\n")
            text = "\n".join(line[6:] for line in lines if line.startswith("data: "))
            has_id = lines[0].startswith("id: ")
            assert has_id == (json.loads(text)["type"] in ("welcome", "event", "gap")), block
    return found


ODD = [
    '"grüße €😀"',
    '"\u2028\u2029\ufeff"',
    r'"\n\r\u0000\ud83d\ude00"',
    "[\n1,\r2,\r\n3,\n\n4\n\r]",
    '{\r\n  "data: x" : "id: 5",\n\n"retry: 1" : 1\n}',
    "\n\n[]",
    "123456789012345678901234567890",
    '"data: \\n\\nid: evil\\n\\n"',
    '"' + "x" * 60_000 + '"',
    "null",
]


async def test_a_whole_life_is_well_formed_and_says_what_a_websocket_would(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    """Welcome, errors, events with odd payloads, comments, a gap, and the goodbye of a drain."""
    herald = start(own_engine.url, heartbeat_interval="0.3", engine_timeout="0.5")
    channel = f"user:{user}"
    query = "topics=secret&since=topic:other@1-1"
    stream = await open_stream(herald, query, token=mint(user))
    plain = await open_plain(herald, query, token=mint(user))
    for data in ODD:
        body = f'{{"to":"{channel}","type":"t: \\"\\u00e9","data":{data}}}'.encode()
        assert herald.post("/v1/events", body).status_code == 202
    herald.publish(["all", channel], {"id": "5"}, type="event: x")
    await eventually(lambda: herald.metrics()["herald_pings_total"] >= 6, "comments")
    own_engine.kill()
    own_engine.restart()
    await eventually(herald.is_ready, "readiness")
    herald.publish(channel, "after the loss")
    while True:
        if (told := await stream.next())["type"] == "event" and told["data"] == "after the loss":
            break
    herald.signal(signal.SIGTERM)
    assert await stream.closed() == 1012
    await stream.close()
    said = []
    while True:
        said.append(await plain.next())
        if said[-1]["type"] == "reconnect":
            break
    await plain.close()
    assert await asyncio.to_thread(herald.process.wait, 30) == 0

    recorded = _strictly(bytes(stream.raw))
    assert stream.parser.comments >= 3
    told = [told for _, told in recorded]
    kinds = [message["type"] for message in told]
    assert kinds[:3] == ["welcome", "error", "error"]
    assert kinds[-2:] == ["reconnect", "close"]
    assert set(kinds) == {"welcome", "error", "event", "gap", "reconnect", "close"}
    texts = [message.data for message, about in recorded if about["type"] == "event"]
    for data, text in zip(ODD, texts, strict=False):
        # Byte for byte as it was sent, but that each line end is a line feed.
        lines = re.sub("\r\n|\r", "\n", data).strip()
        assert f'"data":{lines},"time":' in text
    for one in (told, said):
        del one[0]["connection"]
    for channel_of in (channel, "all"):  # in order per channel, not across channels
        assert [m for m in told if m.get("channel") == channel_of] == [
            m for m in said if m.get("channel") == channel_of
        ]
    assert told[:3] == said[:3]


@pytest.mark.parametrize("way", ["4000", "3000", "1013"])
async def test_every_goodbye_is_well_formed(
    start: Callable[..., Herald], user: str, way: str
) -> None:
    settings = {"3000": {"jwt_leeway": "0"}, "1013": {"max_connections": "1"}}.get(way, {})
    herald = start(send_queue_bytes="65536", **settings)
    stream = await open_stream(herald, token=mint(user, ttl=1.2 if way == "3000" else 60.0))
    await stream.expect("welcome")
    if way == "1013":
        late = await dial(herald, stream_request(token=mint(user)))
        (found,) = _strictly(await late.body())
        assert found[1]["code"] == 1013
        await late.close()
    elif way == "4000":
        stream.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while herald.metrics()["herald_channels"]:
            events = [{"to": f"user:{user}", "type": "t", "data": "x" * 30_000}] * 10
            await asyncio.to_thread(herald.post, "/v1/events/batch", {"events": events})
        stream.writer.transport.resume_reading()  # type: ignore[attr-defined]
        if await stream.closed() == 4000:  # else it was cut off, as reading took too long
            _strictly(bytes(stream.raw))
    else:
        assert await stream.closed() == 3000
        _strictly(bytes(stream.raw))
    await stream.close()
