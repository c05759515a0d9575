"""RFC 6455, case by case, against a running server.

The groups are those of the Autobahn test suite, as it lists them for a server without compression,
and so are their numbers. Autobahn's server sends each message back; this one answers `ping` with
`pong`, which may be padded with white space to any size, and names in an `error` the type of a
message that it does not know. So each case says which answers come, and how the connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from service.broker.embedded import EmbeddedEngine
from tests.harness.process import Herald, running
from tests.hub import wire as client
from tests.hub.wire import BINARY, CLOSE, CONT, PING, PONG, TEXT, Got, Wire, plain

LIMIT = 65536
"""The default of HERALD_MAX_MESSAGE_BYTES."""
SIZES = (125, 126, 127, 128, 65535, 65536)
"""Around the three ways to write a length."""

# A mask that changes every byte: RFC 6455, 5.7, has the same in its examples.
frame = partial(client.frame, mask=b"\x37\xfa\x21\x3d")


class Case(NamedTuple):
    """What is sent, and what follows.

    Attributes:
        answers: all that comes, in order: a frame, or the keys that a message must have.
        violated: the code of the server's close; 0 where it goes on.
        closed: the code with which the server answers a close of ours; 0 where none was sent.
    """

    sent: bytes
    answers: tuple[Got | dict[str, Any], ...] = ()
    violated: int = 0
    closed: int = 0


def padded(size: int) -> bytes:
    """A `ping` of this many bytes."""
    return b'{"type":"ping"}'.ljust(size)


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


def fragments(payload: bytes, size: int, between: bytes = b"") -> bytes:
    """A text message in fragments of this size, with other frames between any two."""
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    last = len(pieces) - 1
    return between.join(
        frame(CONT if number else TEXT, piece, fin=number == last)
        for number, piece in enumerate(pieces)
    )


ECHO = {"type": "pong"}
HELLO = frame(TEXT, padded(20))
NO_JSON = {"type": "error", "code": "invalid_json"}


def _framing() -> Iterator[tuple[str, Case]]:
    yield "1.1 text of 0 bytes", Case(frame(TEXT), (NO_JSON,))
    yield "1.2 binary of 0 bytes", Case(frame(BINARY), violated=1003)
    for size in SIZES:
        yield f"1.1 text of {size} bytes", Case(frame(TEXT, padded(size)), (ECHO,))
        yield f"1.2 binary of {size} bytes", Case(frame(BINARY, bytes(size)), violated=1003)
    yield "unmasked text", Case(frame(TEXT, padded(15), masked=False), violated=1002)
    yield "unmasked ping", Case(frame(PING, masked=False), violated=1002)
    yield "unmasked close", Case(frame(CLOSE, b"\x03\xe8", masked=False), violated=1002)


def _pings() -> Iterator[tuple[str, Case]]:
    payloads = {
        "nothing": b"",
        "text": b"Hello, world!",
        "bytes": bytes.fromhex("00fffefdfcfb00ff"),
        "125 bytes": b"\xfe" * 125,
    }
    for name, payload in payloads.items():
        yield f"2 ping with {name}", Case(frame(PING, payload), (Got(PONG, payload),))
        yield f"2 pong with {name} that nobody asked for", Case(frame(PONG, payload))
    yield "2 ping of 126 bytes", Case(frame(PING, b"\xfe" * 126), violated=1002)
    yield "2 pong of 126 bytes", Case(frame(PONG, b"\xfe" * 126), violated=1002)
    yield (
        "2 pong that nobody asked for, then ping",
        Case(frame(PONG, b"unasked") + frame(PING, b"asked"), (Got(PONG, b"asked"),)),
    )
    numbers = [b"payload-%d" % number for number in range(10)]
    yield (
        "2 ten pings",
        Case(
            b"".join(frame(PING, number) for number in numbers),
            tuple(Got(PONG, number) for number in numbers),
        ),
    )


def _reserved_bits() -> Iterator[tuple[str, Case]]:
    kinds = {
        "text": (TEXT, b"Hello"),
        "binary": (BINARY, b"\0\xff"),
        "ping": (PING, b"Hello"),
        "pong": (PONG, b""),
        "close": (CLOSE, b"\x03\xe8"),
    }
    for bits, (name, (opcode, payload)) in itertools.product(range(1, 8), kinds.items()):
        wrong = frame(opcode, payload, reserved=bits)
        yield f"3 {name} with reserved bits {bits:03b}", Case(HELLO + wrong, (ECHO,), violated=1002)
    wrong = frame(TEXT, b'{"type":', fin=False) + frame(CONT, b'"ping"}', reserved=4)
    yield "3 continuation with a reserved bit", Case(wrong, violated=1002)


def _opcodes() -> Iterator[tuple[str, Case]]:
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield f"4 opcode {opcode}", Case(frame(opcode), violated=1002)
        yield (
            f"4 opcode {opcode} with a payload after text",
            Case(HELLO + frame(opcode, b"payload"), (ECHO,), violated=1002),
        )
        yield (
            f"4 opcode {opcode} between fragments",
            Case(fragments(padded(20), 10, frame(opcode)), violated=1002),
        )


def _fragmentation() -> Iterator[tuple[str, Case]]:
    first = frame(TEXT, b'{"type":', fin=False)
    middle = frame(CONT, b'"ping"', fin=False)
    last = frame(CONT, b'"ping"}')
    middle_first = frame(CONT, b'{"type":', fin=False)
    empty, empty_end = frame(CONT, fin=False), frame(CONT)
    ping = frame(PING, b"between")
    pong = Got(PONG, b"between")
    for name, opcode in (("ping", PING), ("pong", PONG), ("close", CLOSE)):
        for number, begin in enumerate((frame(opcode, fin=False), frame(opcode, b"ab", fin=False))):
            sent = begin + frame(CONT, b"fragment")
            yield f"5 {name} in fragments, {number}", Case(sent, violated=1002)
    yield "5 text in two", Case(first + last, (ECHO,))
    yield "5 text in three", Case(first + middle + frame(CONT, b"}"), (ECHO,))
    yield "5 ping between", Case(first + ping + last, (pong, ECHO))
    yield "5 pong between", Case(first + frame(PONG, b"between") + last, (ECHO,))
    yield (
        "5 pings between five",
        Case(fragments(padded(50), 10, ping + frame(PONG)), (*[pong] * 4, ECHO)),
    )
    yield (
        "5 empty fragments",
        Case(frame(TEXT, fin=False) + empty + middle_first + empty + last, (ECHO,)),
    )
    yield "5 only empty fragments", Case(frame(TEXT, fin=False) + empty_end, (NO_JSON,))
    yield "5 two messages in fragments", Case((first + last) * 2, (ECHO, ECHO))
    yield "5 end of nothing, then text", Case(last + HELLO, violated=1002)
    yield "5 middle of nothing, then text", Case(middle + HELLO, violated=1002)
    yield "5 empty end of nothing", Case(empty_end, violated=1002)
    yield "5 empty middle of nothing", Case(empty, violated=1002)
    yield "5 whole, then middle of nothing", Case(HELLO + middle, (ECHO,), violated=1002)
    yield "5 message, then middle of nothing", Case(first + last + middle, (ECHO,), violated=1002)
    yield "5 message, then end of nothing", Case(first + last + last, (ECHO,), violated=1002)
    yield "5 text within text", Case(first + HELLO, violated=1002)
    yield "5 beginning within text", Case(first + first, violated=1002)
    yield "5 binary within text", Case(first + frame(BINARY, b"a"), violated=1003)
    yield "5 beginning of binary", Case(frame(BINARY, b"a", fin=False), violated=1003)
    yield "5 never ended", Case(first + middle + ping, (pong,))


def _unknown(text: str) -> Case:
    """The text comes back in the words of an error, so it was understood as it is."""
    said = f"There is no message of type {text[:60]!r}."
    sent = frame(TEXT, b'{"type":"%b"}' % text.encode())
    return Case(sent, ({"type": "error", "code": "unknown_type", "message": said},))


_VALID_TEXTS = {
    "greeting": "Hello-µ@ßöäüàá-UTF-8!!",
    "kosme": "κ\u1f79σμε",
    "first of 2 bytes": "\x80",
    "first of 3 bytes": "\u0800",
    "first of 4 bytes": "\U00010000",
    "last of 1 byte": "\x7f",
    "last of 2 bytes": "\u07ff",
    "last of 3 bytes": "\uffff",
    "before the surrogates": "\ud7ff",
    "after the surrogates": "\ue000",
    "replacement": "\ufffd",
    "last of all": "\U0010ffff",
    "specials": "\ufff9\ufffa\ufffb\ufffc\ufffd\ufffe",
    **{
        f"noncharacter {plane:x}{end:x}": chr(plane << 16 | end)
        for plane in range(17)
        for end in (0xFFFE, 0xFFFF)
    },
    "noncharacters fdd0 to fdef": "".join(map(chr, range(0xFDD0, 0xFDF0))),
}
_KOSME = "κ\u1f79σμε".encode()


def _lead(first: int, last: int) -> bytes:
    """Bytes that begin a character, each followed by a space."""
    return b" ".join(bytes([byte]) for byte in range(first, last + 1))


_INVALID_TEXTS = {
    "surrogate between good text": _KOSME + b"\xed\xa0\x80" + b"edited",
    **{f"kosme cut after {cut}": _KOSME[:cut] for cut in (1, 3, 4, 6, 8, 10)},
    "first of 5 bytes": b"\xf8\x88\x80\x80\x80",
    "first of 6 bytes": b"\xfc\x84\x80\x80\x80\x80",
    "last of 4 bytes": b"\xf7\xbf\xbf\xbf",
    "last of 5 bytes": b"\xfb\xbf\xbf\xbf\xbf",
    "last of 6 bytes": b"\xfd\xbf\xbf\xbf\xbf\xbf",
    "beyond the last of all": b"\xf4\x90\x80\x80",
    **{f"{count} continuations": b"\x80\xbf" * (count // 2) for count in (2, 4, 6)},
    "a first continuation": b"\x80",
    "a last continuation": b"\xbf",
    "3 continuations": b"\x80\xbf\x80",
    "5 continuations": b"\x80\xbf\x80\xbf\x80",
    "all continuations": bytes(range(0x80, 0xC0)),
    "lonely beginnings of 2": _lead(0xC0, 0xDF),
    "lonely beginnings of 3": _lead(0xE0, 0xEF),
    "lonely beginnings of 4": _lead(0xF0, 0xF7),
    "lonely beginnings of 5": _lead(0xF8, 0xFB),
    "lonely beginnings of 6": _lead(0xFC, 0xFD),
    **{
        f"last byte missing, {cut.hex()}": cut
        for cut in (
            b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xfc\x80\x80\x80\x80",
            b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfb\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf",
        )
    },
    "all of these": b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80"
    b"\xdf\xef\xbf\xf7\xbf\xbf\xfb\xbf\xbf\xbf\xfd\xbf\xbf\xbf\xbf",
    "impossible fe": b"\xfe",
    "impossible ff": b"\xff",
    "impossible both": b"\xfe\xfe\xff\xff",
    **{
        f"overlong, {text.hex()}": text
        for text in (
            b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf",
            b"\xf8\x80\x80\x80\xaf", b"\xfc\x80\x80\x80\x80\xaf",
            b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf",
            b"\xf8\x87\xbf\xbf\xbf", b"\xfc\x83\xbf\xbf\xbf\xbf",
            b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80",
            b"\xf8\x80\x80\x80\x80", b"\xfc\x80\x80\x80\x80\x80",
        )
    },
    **{
        f"surrogate {half:x}": chr(half).encode(errors="surrogatepass")
        for half in (0xD800, 0xDB7F, 0xDB80, 0xDBFF, 0xDC00, 0xDF80, 0xDFFF)
    },
    **{
        f"surrogates {high:x} {low:x}": (chr(high) + chr(low)).encode(errors="surrogatepass")
        for high in (0xD800, 0xDB7F, 0xDB80, 0xDBFF)
        for low in (0xDC00, 0xDFFF)
    },
}  # fmt: skip


def _utf8() -> Iterator[tuple[str, Case]]:
    for name, text in _VALID_TEXTS.items():
        yield f"6 valid, {name}", _unknown(text)
        cut = b'{"type":"ping","":"%b"}' % text.encode()
        # Cut into single bytes, and so within every character.
        yield f"6 valid, {name}, in fragments", Case(fragments(cut, 1), (ECHO,))
    yield "6 valid, but no JSON: a zero", Case(frame(TEXT, b"\0"), (NO_JSON,))
    for name, text in _INVALID_TEXTS.items():
        yield f"6 invalid, {name}", Case(frame(TEXT, b'"%b"' % text), violated=1007)
        yield f"6 invalid, {name}, bare", Case(frame(TEXT, text), violated=1007)
        yield f"6 invalid, {name}, in fragments", Case(fragments(b'"%b"' % text, 1), violated=1007)


# IANA has registered 1012 to 1014 since Autobahn's list was made; 1015 is for no wire.
_VALID_CODES = (*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999)
_INVALID_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)


def _closing() -> Iterator[tuple[str, Case]]:
    yield "7 text, then close", Case(HELLO + close(1000), (ECHO,), closed=1000)
    yield "7 two closes", Case(close(1000) + close(1001), closed=1000)
    yield "7 ping after close", Case(close(1000) + frame(PING, b"late"), closed=1000)
    yield "7 text after close", Case(close(1000) + HELLO, closed=1000)
    yield "7 noise after close", Case(close(1000) + b"\xff" * 50, closed=1000)
    yield (
        "7 close between fragments",
        Case(fragments(padded(20), 10, close(1000)), closed=1000),
    )
    yield (
        "7 long text, close, ping",
        Case(frame(TEXT, padded(LIMIT)) + close(1000) + frame(PING), (ECHO,), closed=1000),
    )
    yield "7 close with nothing", Case(frame(CLOSE), closed=1005)
    yield "7 close of one byte", Case(frame(CLOSE, b"\x03"), violated=1002)
    yield "7 close with a code", Case(close(1000), closed=1000)
    yield "7 close with a reason", Case(close(1000, "Grüße".encode()), closed=1000)
    yield "7 close with the longest reason", Case(close(1000, b"*" * 123), closed=1000)
    yield "7 close with a longer reason", Case(close(1000, b"*" * 124), violated=1002)
    for name, text in _INVALID_TEXTS.items():
        yield f"7 close, reason {name}", Case(close(1000, text[:120]), violated=1007)
    for code in _VALID_CODES:
        yield f"7 close with {code}", Case(close(code), closed=code)
        yield f"7 close with {code} and a reason", Case(close(code, b"reason"), closed=code)
    for code in _INVALID_CODES:
        yield f"7 close with {code}", Case(close(code), violated=1002)
        yield f"7 close with {code} and a reason", Case(close(code, b"reason"), violated=1002)


def _limits() -> Iterator[tuple[str, Case]]:
    over = padded(LIMIT + 1)
    yield "9 text of one over the limit", Case(frame(TEXT, over), violated=1009)
    for size in (1, LIMIT // 2, LIMIT):
        yield (
            f"9 over the limit, the last fragment {size}",
            Case(frame(TEXT, over[:-size], fin=False) + frame(CONT, over[-size:]), violated=1009),
        )
    yield (
        "9 over the limit before the last fragment",
        Case(frame(TEXT, over[:-1], fin=False) + frame(CONT, b" ", fin=False), violated=1009),
    )
    for name, size in (("2^16", 2**16 + 1), ("2^32", 2**32), ("2^63", 2**63), ("2^64", 2**64 - 1)):
        # Refused for its length alone: what is announced never comes.
        announced = struct.pack("!BBQ", 0x81, 0xFF, size) + b"mask"
        yield f"9 text of about {name} bytes announced", Case(announced, violated=1009)


CASES = dict(
    itertools.chain(
        _framing(),
        _pings(),
        _reserved_bits(),
        _opcodes(),
        _fragmentation(),
        _utf8(),
        _closing(),
        _limits(),
    )
)


def test_no_case_hides_another() -> None:
    groups = (_framing, _pings, _reserved_bits, _opcodes, _fragmentation, _utf8, _closing, _limits)
    assert len(CASES) == sum(len(list(group())) for group in groups)


def _at_once(sent: bytes) -> list[bytes]:
    return [sent]


def _in_chops(sent: bytes) -> list[bytes]:
    size = 1 if len(sent) < 500 else 997
    return [sent[at : at + size] for at in range(0, len(sent), size)]


@pytest.mark.parametrize("cut", [_at_once, _in_chops], ids=["at once", "in chops"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_case(herald: Herald, user: str, case: Case, cut: Any) -> None:
    async with plain(herald, user) as wire:
        if case.violated:
            # What came before it is answered; what comes after it is not.
            await _send(wire, cut(frame(PING, b"before") + case.sent + frame(PING, b"after")))
            assert await wire.next() == Got(PONG, b"before")
        elif case.closed:
            # In one piece: what is sent after the server's answer would reset the connection.
            await wire.send(case.sent)
        else:
            await _send(wire, cut(case.sent))
        for expected in case.answers:
            await _expect(wire, expected)
        if case.violated:
            assert await wire.closed() == case.violated
        elif case.closed:
            assert await wire.closed(answer=False) == case.closed
        else:
            await _expect_alive(wire)


async def _send(wire: Wire, pieces: list[bytes]) -> None:
    with contextlib.suppress(ConnectionError):  # it has ended already: what came is read below
        for piece in pieces:
            await wire.send(piece)
            await asyncio.sleep(0)


async def _expect(wire: Wire, expected: Got | dict[str, Any]) -> None:
    if isinstance(expected, Got):
        assert await wire.next() == expected
    else:
        message = await wire.message()
        assert {key: message.get(key) for key in expected} == expected


async def _expect_alive(wire: Wire) -> None:
    """Nothing else was answered, and a close is answered well."""
    await wire.send(frame(PING, b"still here?"))
    assert await wire.next() == Got(PONG, b"still here?")
    await wire.send(close(1000))
    assert await wire.closed(answer=False) == 1000


# Group 9 goes on, with a limit as high as its messages

MIB = 1 << 20
HIGH_LIMIT = 4 * MIB


@pytest.fixture(scope="module")
def high(engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herald]:
    directory = tmp_path_factory.mktemp("high")
    with running(engine.url, directory, max_message_bytes=str(HIGH_LIMIT)) as herald:
        yield herald


@pytest.mark.parametrize("size", [MIB // 16, MIB // 4, MIB, 4 * MIB])
async def test_a_large_message_is_taken(high: Herald, user: str, size: int) -> None:
    async with plain(high, user) as wire:
        await wire.send(frame(TEXT, padded(size)))
        await wire.expect("pong")
        await _expect_alive(wire)


@pytest.mark.parametrize("fragment", [HIGH_LIMIT + 1, MIB, 1000])
async def test_a_larger_one_than_the_limit_is_refused(
    high: Herald, user: str, fragment: int
) -> None:
    async with plain(high, user) as wire:
        await wire.send(fragments(padded(HIGH_LIMIT + 1), fragment))
        assert await wire.closed() == 1009


@pytest.mark.parametrize("size", [64 * 4**power for power in range(8)])
async def test_a_large_message_may_come_in_fragments(high: Herald, user: str, size: int) -> None:
    async with plain(high, user) as wire:
        await wire.send(fragments(padded(MIB), size))
        await wire.expect("pong")
        await _expect_alive(wire)


@pytest.mark.parametrize("size", [64, 128, 256, 512, 1024, 2048])
async def test_a_large_message_may_come_in_chops(high: Herald, user: str, size: int) -> None:
    sent = frame(TEXT, padded(MIB))
    async with plain(high, user) as wire:
        await wire.send(*(sent[at : at + size] for at in range(0, len(sent), size)))
        await wire.expect("pong")
        await _expect_alive(wire)


@pytest.mark.parametrize("size", [15, 64, 256, 1024, 4096, 16384])
async def test_messages_go_to_and_fro(herald: Herald, user: str, size: int) -> None:
    sent = frame(TEXT, padded(size))
    async with plain(herald, user) as wire:
        for _ in range(100):
            await wire.send(sent)
            await wire.expect("pong")
        await _expect_alive(wire)


@pytest.mark.parametrize("size", [16, 1300, LIMIT])
async def test_a_message_may_be_fragmented_by_a_client_that_does_so_by_itself(
    herald: Herald, user: str, size: int
) -> None:
    """Group 10, where 65536 bytes go out in fragments of 1300."""
    async with plain(herald, user) as wire:
        await wire.send(fragments(padded(LIMIT), size))
        await wire.expect("pong")
        await _expect_alive(wire)
