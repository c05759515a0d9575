"""RFC 6455 against a running server: what a client may do, and what it is closed for."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable

import pytest

from tests.harness.process import Herald, eventually
from tests.hub.wire import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Got,
    close,
    frame,
    plain,
    text,
)

_LIMIT = 65536
_HALF = "é".encode()[:1]

FATAL = {
    "unmasked": (frame(TEXT, b'{"type":"ping"}', masked=False), 1002),
    "ping of 126 bytes": (frame(PING, bytes(126)), 1002),
    "fragmented ping": (frame(PING, fin=False), 1002),
    "reserved bit 1": (b"\xc1\x80\0\0\0\0", 1002),
    "reserved bit 2": (b"\xa1\x80\0\0\0\0", 1002),
    "reserved bit 3": (b"\x91\x80\0\0\0\0", 1002),
    "opcode 3": (frame(3), 1002),
    "opcode 11": (frame(11), 1002),
    "continuation of nothing": (frame(CONT, b"a"), 1002),
    "text between fragments": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    "binary": (frame(BINARY, b"a"), 1003),
    "not UTF-8": (frame(TEXT, b'"\xff"'), 1007),
    "a cut character": (frame(TEXT, b'"' + _HALF), 1007),
    "a character cut for ever": (
        frame(TEXT, b'"' + _HALF, fin=False) + frame(CONT, b'"'),
        1007,
    ),
    "too long": (frame(TEXT, bytes(_LIMIT + 1)), 1009),
    "too long, announced": (struct.pack("!BBQ", 0x81, 0xFF, 2**62), 1009),
    "too long in fragments": (
        frame(TEXT, bytes(_LIMIT // 2), fin=False)
        + frame(CONT, bytes(_LIMIT // 2), fin=False)
        + frame(CONT, b"a"),
        1009,
    ),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close with 999": (close(999), 1002),
    "close with 1005": (close(1005), 1002),
    "close with 2999": (close(2999), 1002),
    "close with 5000": (close(5000), 1002),
    "close whose reason is not UTF-8": (close(1000, b"\xff"), 1007),
}


@pytest.mark.parametrize(("wire_bytes", "code"), FATAL.values(), ids=FATAL.keys())
async def test_a_violation_closes_with_its_code_and_ends_tcp(
    herald: Herald, user: str, wire_bytes: bytes, code: int
) -> None:
    async with plain(herald, user) as wire:
        # What came before it is answered; what comes after it is not.
        await wire.send(frame(PING, b"before") + wire_bytes + frame(PING, b"after"))
        assert await wire.next() == Got(PONG, b"before")
        assert await wire.closed() == code


async def test_a_fragmented_message_may_have_control_frames_in_between(
    herald: Herald, user: str
) -> None:
    async with plain(herald, user) as wire:
        await wire.send(
            frame(TEXT, b'{"type":', fin=False)
            + frame(PING, b"1")
            + frame(CONT, b'"pi', fin=False)
            + frame(PONG, b"nobody asked")
            + frame(PING, b"2")
            + frame(CONT, b'ng"}')
        )
        assert await wire.next() == Got(PONG, b"1")
        assert await wire.next() == Got(PONG, b"2")
        await wire.expect("pong")


async def test_a_character_may_be_cut_between_fragments(herald: Herald, user: str) -> None:
    message = '{"type":"ping","é":"😀"}'.encode()
    async with plain(herald, user) as wire:
        for cut in range(1, len(message)):
            await wire.send(frame(TEXT, message[:cut], fin=False) + frame(CONT, message[cut:]))
            await wire.expect("pong")


@pytest.mark.parametrize("size", [0, 1, 124, 125])
async def test_a_ping_is_answered_with_its_payload(herald: Herald, user: str, size: int) -> None:
    payload = bytes(range(size))
    async with plain(herald, user) as wire:
        await wire.send(frame(PING, payload))
        assert await wire.next() == Got(PONG, payload)


async def test_a_message_of_exactly_the_limit_is_taken(herald: Herald, user: str) -> None:
    message = json.dumps({"type": "ping", "x": ""}).encode()
    message = message.replace(b'""', b'"%b"' % (b"a" * (_LIMIT - len(message))))
    async with plain(herald, user) as wire:
        await wire.send(frame(TEXT, message))
        await wire.expect("pong")
        await wire.send(frame(TEXT, message[:100], fin=False) + frame(CONT, message[100:]))
        await wire.expect("pong")


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999, None])
async def test_a_close_is_echoed_and_nothing_after_it_counts(
    herald: Herald, user: str, code: int | None
) -> None:
    async with plain(herald, user) as wire:
        sent = frame(CLOSE) if code is None else close(code, b"bye")
        await wire.send(sent + frame(PING, b"late") + frame(BINARY, b"noise") + b"\xff" * 50)
        assert await wire.closed(answer=False) == (code or 1005)


async def test_frames_may_come_byte_by_byte(herald: Herald, user: str) -> None:
    wire_bytes = text(type="ping") + frame(PING, b"x" * 125) + frame(TEXT, b'{"type"', fin=False)
    wire_bytes += frame(CONT, b':"ping"}')
    async with plain(herald, user) as wire:
        for byte in wire_bytes:
            await wire.send(bytes([byte]))
            await asyncio.sleep(0)
        await wire.expect("pong")
        assert await wire.next() == Got(PONG, b"x" * 125)
        await wire.expect("pong")
        await wire.send(close(1000))
        assert await wire.closed(answer=False) == 1000


async def test_a_flood_of_pings_is_answered_in_order_and_holds_nobody_up(
    herald: Herald, user: str, new_name: Callable[[], str]
) -> None:
    count = 10_000
    async with plain(herald, user) as flood, plain(herald, new_name()) as other:
        await other.send(frame(PING, b"warm"))
        await other.next()
        flood.writer.write(b"".join(frame(PING, b"%d" % number) for number in range(count)))
        answered_between = 0

        async def read_flood() -> None:
            for number in range(count):
                assert await flood.next() == Got(PONG, b"%d" % number)

        reading = asyncio.create_task(read_flood())
        while not reading.done():
            await other.send(frame(PING, b"me too"))
            assert await other.next() == Got(PONG, b"me too")
            answered_between += 1
        await reading
        assert answered_between > 1


async def test_a_half_closed_client_gets_its_answers_and_the_connection_ends(
    herald: Herald, user: str
) -> None:
    async with plain(herald, user) as wire:
        await wire.send(b"".join(frame(PING, b"%d" % number) for number in range(500)))
        wire.writer.write_eof()
        for number in range(500):
            assert await wire.next() == Got(PONG, b"%d" % number)
        async with asyncio.timeout(30):
            assert await wire.reader.read() == b""


async def test_a_reset_frees_the_connection(start: Callable[..., Herald], user: str) -> None:
    herald = start()
    async with plain(herald, user) as wire:
        await wire.send(frame(TEXT, b"half a message", fin=False))
        wire.reset()
        await eventually(lambda: herald.metrics()["herald_channels"] == 0, "it was freed")
        assert herald.metrics()["herald_connections"] == 0
        assert herald.metrics()['herald_disconnects_total{code="1006"}'] == 1
