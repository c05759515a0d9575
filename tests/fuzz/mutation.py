"""Makes inputs from those of the corpus: bytes anywhere, and frames that stay frames."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fuzz.reference import Reference
from tests.hub.wire import CONT, PING, PONG, TEXT, frame

CORPUS = Path(__file__).parent / "corpus"
LIMIT = 65536
"""The default of HERALD_MAX_MESSAGE_BYTES."""

_BYTES = (0x00, 0x01, 0x0A, 0x0D, 0x20, 0x22, 0x7E, 0x7F, 0x80, 0x81, 0x88, 0x89, 0x8A, 0xC0, 0xED,
          0xFE, 0xFF)  # fmt: skip

JSON_WORDS = (
    b"null", b"true", b"-0", b"1e999", b"1e-999", b"18446744073709551616", b"NaN", b'""', b"[]",
    b"{}", b'"\\ud800"', b'"\\u0000"', b'"\\udfff\\ud800"', b'\xed\xa0\x80', b"\xf4\x90\x80\x80",
    b'"type":"ping"', b'"type":"connect"', b'"type":"subscribe"', b'"type":"auth"', b'"topic":',
    b'"position":"0-0"', b'"positions":{"all":"0-0"}', b'"18446744073709551615-1"', b'"\\', b",",
    b":", b"[" * 2000, b'{"a":' * 1500, "😀".encode(), b"\\u12", b"\0", b'"token":"a.b.c"',
)  # fmt: skip


def load(kind: str) -> dict[str, bytes]:
    """The saved inputs, by their names."""
    return {path.stem: path.read_bytes() for path in sorted((CORPUS / kind).glob("*.bin"))}


class Mutator:
    """Changes bytes wherever they are. `words` are put in as well."""

    def __init__(self, corpus: Sequence[bytes], words: Sequence[bytes]) -> None:
        self._corpus = [one for one in corpus if one]
        self._words = words
        self._ways: list[Callable[[random.Random, bytearray], None]] = [
            _flip,
            _set,
            _remove,
            _repeat,
            _move,
            _swell,
            self._put_word,
            self._put_word,
            self._splice,
        ]

    def pick(self, chance: random.Random) -> bytes:
        return chance.choice(self._corpus)

    def mutate(self, chance: random.Random, data: bytes, times: int = 4) -> bytes:
        changed = bytearray(data)
        for _ in range(chance.randint(1, times)):
            chance.choice(self._ways)(chance, changed)
        return bytes(changed[: 2 * LIMIT])

    def _put_word(self, chance: random.Random, data: bytearray) -> None:
        at = chance.randint(0, len(data))
        word = chance.choice(self._words)
        instead = at + (len(word) if chance.random() < 0.5 else 0)
        data[at:instead] = word

    def _splice(self, chance: random.Random, data: bytearray) -> None:
        other = self.pick(chance)
        at, begin = chance.randint(0, len(data)), chance.randrange(len(other))
        data[at:] = other[begin:]


def _flip(chance: random.Random, data: bytearray) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _set(chance: random.Random, data: bytearray) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.choice(_BYTES)


def _slice(chance: random.Random, data: bytearray) -> slice:
    at = chance.randint(0, len(data))
    return slice(at, at + chance.choice((1, 2, 4, 8, 30, len(data))))


def _remove(chance: random.Random, data: bytearray) -> None:
    del data[_slice(chance, data)]


def _repeat(chance: random.Random, data: bytearray) -> None:
    piece = data[_slice(chance, data)][:200]
    at = chance.randint(0, len(data))
    data[at:at] = piece * chance.choice((1, 1, 2, 10))


def _move(chance: random.Random, data: bytearray) -> None:
    where = _slice(chance, data)
    piece = data[where]
    del data[where]
    at = chance.randint(0, len(data))
    data[at:at] = piece


def _swell(chance: random.Random, data: bytearray) -> None:
    """One byte many times, so that sizes pass their bounds."""
    at = chance.randint(0, len(data))
    size = chance.choice((50, 126, 300, 300, 5000))
    data[at:at] = bytes([chance.choice(_BYTES)]) * size


class FrameMutator(Mutator):
    """Makes what a client sends after the upgrade."""

    def __init__(self, corpus: Sequence[bytes]) -> None:
        super().__init__(corpus, JSON_WORDS)
        self._messages: list[bytes] = []
        for one in self._corpus:
            reader = Reference(LIMIT)
            reader.feed(one)
            self._messages += reader.messages

    def input(self, chance: random.Random) -> bytes:
        """One input: mostly frames that can be read, whatever they say; some that cannot."""
        kind = chance.random()
        if kind < 0.55:
            return self._speak(chance)
        if kind < 0.70:
            return frame(
                chance.choice((PING, PONG)),
                chance.randbytes(chance.choice((0, 1, 5, 124, 125))),
                mask=chance.randbytes(4),
            )
        if kind < 0.80:
            return self.pick(chance)
        return self.mutate(chance, self.pick(chance))

    def _speak(self, chance: random.Random) -> bytes:
        text = chance.choice(self._messages)
        if chance.random() < 0.9:
            text = self.mutate(chance, text)[:LIMIT]
            if chance.random() < 0.95:  # what is not UTF-8 ends the connection
                text = text.decode(errors="replace").encode()[:LIMIT]
                text = text.decode(errors="ignore").encode()
        return fragmented(chance, text)


def fragmented(chance: random.Random, text: bytes) -> bytes:
    """A text message, now and then in fragments, with control frames between them."""
    count = chance.choice((1, 1, 1, 2, 3, 8))
    edges = sorted(chance.randint(0, len(text)) for _ in range(count - 1))
    pieces = [text[a:b] for a, b in zip([0, *edges], [*edges, len(text)], strict=True)]
    sent = b""
    for number, piece in enumerate(pieces):
        if number and chance.random() < 0.3:
            sent += frame(PING, b"between %d" % number)
        sent += frame(
            CONT if number else TEXT,
            piece,
            fin=number == len(pieces) - 1,
            mask=chance.randbytes(4),
        )
    return sent
