"""WebSocket frames against RFC 6455; client frames are built by the `websockets` library."""

from __future__ import annotations

import contextlib
import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from service.core.close import CloseCode
from service.core.frames import (
    PING_FRAME,
    FrameError,
    Incoming,
    Kind,
    MessageReader,
    close_frame,
    is_lone_pong,
    pong_frame,
    text_frame,
)

LIMIT = 1_000
CONTROLS = {Kind.PING: Opcode.PING, Kind.PONG: Opcode.PONG}


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(Opcode(opcode), payload, fin=fin).serialize(mask=True)


def raw(first: int, second: int, rest: bytes = b"") -> bytes:
    return bytes([first, second]) + rest


def parse_as_client(data: bytes) -> list[Frame]:
    """What a client makes of the server's bytes."""
    reader = MessageReader(1 << 30)
    reader.feed(data)
    frames = []
    while reader._stream.buffer:
        parser = Frame.parse(reader._stream.read_exact, mask=False)
        with pytest.raises(StopIteration) as done:
            next(parser)
        frames.append(done.value.value)
    return frames


def read_all(reader: MessageReader, pieces: list[bytes]) -> list[Incoming]:
    incoming = []
    for piece in pieces:
        reader.feed(piece)
        while (one := reader.read()) is not None:
            if one.kind is not Kind.PART:
                incoming.append(one)
    return incoming


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).map(str.encode)
controls = st.builds(
    Incoming, st.sampled_from([Kind.PING, Kind.PONG]), st.binary(max_size=125), st.just(0)
)
messages = st.one_of(controls, st.builds(Incoming, st.just(Kind.TEXT), texts, st.just(0)))


@settings(deadline=None, max_examples=200)
@given(st.lists(messages, max_size=8), st.data())
def test_any_fragmentation_in_any_byte_splits_gives_the_same_messages(
    sent: list[Incoming], data: st.DataObject
) -> None:
    expected: list[Incoming] = []
    wire = b""
    for message in sent:
        if message.kind is not Kind.TEXT:
            wire += frame(CONTROLS[message.kind], message.payload)
            expected.append(message)
            continue
        cuts = data.draw(st.lists(st.integers(0, len(message.payload)), max_size=4).map(sorted))
        edges = [0, *cuts, len(message.payload)]
        for number, (start, end) in enumerate(itertools.pairwise(edges)):
            if number and data.draw(st.booleans()):  # control frames may come between fragments
                control = data.draw(controls)
                wire += frame(CONTROLS[control.kind], control.payload)
                expected.append(control)
            opcode = Opcode.CONT if number else Opcode.TEXT
            wire += frame(opcode, message.payload[start:end], fin=number == len(edges) - 2)
        expected.append(message)
    splits = data.draw(st.lists(st.integers(0, len(wire)), max_size=12).map(sorted))
    edges = [0, *splits, len(wire)]
    pieces = [wire[start:end] for start, end in itertools.pairwise(edges)]
    reader = MessageReader(LIMIT)
    assert read_all(reader, pieces) == expected
    assert reader.idle


def test_a_reader_is_busy_exactly_while_something_is_half_read() -> None:
    wire = frame(Opcode.TEXT, b"ab", fin=False) + frame(Opcode.CONT, b"c")
    reader = MessageReader(LIMIT)
    assert reader.idle
    for byte in wire[:-1]:
        reader.feed(bytes([byte]))
        assert reader.read() in (None, Incoming(Kind.PART, b""))
        assert not reader.idle
    reader.feed(wire[-1:])
    assert reader.read() == Incoming(Kind.TEXT, b"abc")
    assert reader.idle
    assert reader._fragments is None
    assert not reader._stream.buffer


VIOLATIONS = {
    "unmasked": (raw(0x81, 1, b"a"), 1002),
    "reserved bit 1": (raw(0xC1, 0x80, b"mask"), 1002),
    "reserved bit 2": (raw(0xA1, 0x80, b"mask"), 1002),
    "reserved bit 3": (raw(0x91, 0x80, b"mask"), 1002),
    **{
        f"opcode {opcode}": (raw(0x80 | opcode, 0x80, b"mask"), 1002)
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    "fragmented ping": (raw(0x09, 0x80, b"mask"), 1002),
    "fragmented close": (raw(0x08, 0x80, b"mask"), 1002),
    "ping of 126 bytes": (raw(0x89, 0xFE, struct.pack("!H", 126) + b"mask" + bytes(126)), 1002),
    "continuation of nothing": (frame(Opcode.CONT, b"a"), 1002),
    "text between fragments": (frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.TEXT), 1002),
    "close of one byte": (frame(Opcode.CLOSE, b"\x03"), 1002),
    **{
        f"close with {code}": (frame(Opcode.CLOSE, struct.pack("!H", code)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "close whose reason is not UTF-8": (frame(Opcode.CLOSE, b"\x03\xe8\xff"), 1007),
    "binary": (frame(Opcode.BINARY, b"a"), 1003),
    "first fragment of binary": (frame(Opcode.BINARY, b"a", fin=False), 1003),
    "text that is not UTF-8": (frame(Opcode.TEXT, b"a\xff"), 1007),
    "a surrogate": (frame(Opcode.TEXT, b"\xed\xa0\x80"), 1007),
    "a cut character": (frame(Opcode.TEXT, "é".encode()[:1]), 1007),
    "fragments that are not UTF-8": (
        frame(Opcode.TEXT, b"\xc3", fin=False) + frame(Opcode.CONT, b"a"),
        1007,
    ),
    "too long": (frame(Opcode.TEXT, bytes(LIMIT + 1)), 1009),
    "too long, announced": (raw(0x81, 0xFE, struct.pack("!H", LIMIT + 1)), 1009),
    "far too long, announced": (raw(0x81, 0xFF, struct.pack("!Q", 2**64 - 1)), 1009),
    "too long together": (
        frame(Opcode.TEXT, bytes(LIMIT), fin=False) + frame(Opcode.CONT, b"a", fin=False),
        1009,
    ),
}


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(("wire", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_violation_has_its_code(wire: bytes, code: int, bytewise: bool) -> None:
    before = frame(Opcode.TEXT, b"good")
    reader = MessageReader(LIMIT)
    reader.feed(before)
    assert reader.read() == Incoming(Kind.TEXT, b"good")
    with pytest.raises(FrameError) as refusal:
        read_all(reader, [bytes([byte]) for byte in wire] if bytewise else [wire])
    assert refusal.value.code == CloseCode(code)
    assert refusal.value.reason


def test_a_message_of_the_limit_passes() -> None:
    wire = frame(Opcode.TEXT, b"a" * LIMIT)
    wire += frame(Opcode.TEXT, b"b" * (LIMIT - 1), fin=False) + frame(Opcode.CONT, b"b")
    assert [len(one.payload) for one in read_all(MessageReader(LIMIT), [wire])] == [LIMIT, LIMIT]


@given(st.binary(max_size=400))
def test_noise_is_waited_for_or_refused_but_never_breaks_the_reader(noise: bytes) -> None:
    with contextlib.suppress(FrameError):
        read_all(MessageReader(LIMIT), [noise])


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 3999, 4000, 4999])
def test_a_close_gives_its_code(code: int) -> None:
    wire = frame(Opcode.CLOSE, struct.pack("!H", code) + "why – so".encode())
    assert read_all(MessageReader(LIMIT), [wire]) == [Incoming(Kind.CLOSE, b"", code)]


def test_a_close_without_a_code_is_1005() -> None:
    wire = frame(Opcode.CLOSE)
    assert read_all(MessageReader(LIMIT), [wire]) == [Incoming(Kind.CLOSE, b"", 1005)]


@pytest.mark.parametrize(
    ("size", "header"), [(0, 2), (125, 2), (126, 4), (65535, 4), (65536, 10), (70000, 10)]
)
def test_text_frames_have_the_shortest_header(size: int, header: int) -> None:
    payload = b"x" * size
    wire = text_frame(payload)
    assert len(wire) == header + size
    assert wire == Frame(Opcode.TEXT, payload).serialize(mask=False)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_a_close_reason_is_cut_to_whole_characters(reason: str) -> None:
    (close,) = parse_as_client(close_frame(4000, reason))
    assert len(close.data) <= 125
    assert struct.unpack("!H", bytes(close.data[:2])) == (4000,)
    kept = bytes(close.data[2:]).decode()
    assert reason.startswith(kept)
    assert kept == reason or len(reason[: len(kept) + 1].encode()) > 123


@given(st.binary(max_size=125))
def test_control_frames_are_what_a_client_reads(payload: bytes) -> None:
    ping, pong = parse_as_client(PING_FRAME + pong_frame(payload))
    assert (ping.opcode, bytes(ping.data)) == (Opcode.PING, b"")
    assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, payload)


@given(st.binary(max_size=125))
def test_a_lone_pong_is_seen_as_one(payload: bytes) -> None:
    assert is_lone_pong(frame(Opcode.PONG, payload))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x8a",
        frame(Opcode.PONG)[:-1],
        frame(Opcode.PONG) + b"\x8a",
        frame(Opcode.PONG) * 2,
        frame(Opcode.PING),
        frame(Opcode.TEXT, b"a"),
        raw(0x8A, 0x04, b"pong"),  # not masked
        raw(0x0A, 0x80, b"mask"),  # a fragment
        raw(0xCA, 0x80, b"mask"),  # a reserved bit
        raw(0x8A, 0xFE, struct.pack("!H", 300) + bytes(128)),  # begins a pong of 300 bytes
        raw(0x8A, 0xFF, bytes(131)),
    ],
    ids=map(str, range(12)),  # the bytes themselves hold random masks
)
def test_nothing_else_is_a_lone_pong(data: bytes) -> None:
    assert not is_lone_pong(data)
