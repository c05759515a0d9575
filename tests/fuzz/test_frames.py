"""Bytes on a socket after the upgrade, held against what RFC 6455 makes of them.

A connection is sent inputs until one of them must end it. Each input is followed by a numbered
ping, and by as many good messages as it had, so that bad ones do not add up to a close. All pongs
must come, in order, and the close must have the code that the reference says, or none.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

import pytest

from service.broker.embedded import EmbeddedEngine
from tests.contract.facts import server_types
from tests.fuzz.amount import IS_LONG, SEED, how_to_repeat, inputs
from tests.fuzz.mutation import LIMIT, FrameMutator, load
from tests.fuzz.reference import Reference
from tests.fuzz.replay import Play, play, server_frames
from tests.fuzz.watch import QUIET, Watch, save
from tests.harness.process import Herald, mint, running
from tests.hub.wire import CLOSE, CONT, PING, PONG, TEXT, close, frame, handshake, text

AT_ONCE = 16
"""Connections."""
_PER_CONNECTION = 24
_BYTES = 48 * 1024
"""Of a connection: what the server answers fits into the kernel's buffers, so nobody waits."""
_STRIKES = 10
GOOD = text(type="ping")
SAVED = load("frames")
MUTATOR = FrameMutator(list(SAVED.values()))
TYPES = server_types()


class Mode(Enum):
    """How the connection was opened."""

    PLAIN = "plain"
    CONNECTED = "connected"
    """`herald.v1`, with its `connect` sent."""
    WAITING = "waiting"
    """`herald.v1`, before `connect`."""


@dataclass
class Attempt:
    """One connection: what it sends, and what must come of that."""

    mode: Mode
    sent: bytes
    expected: Reference
    inputs: int
    most_texts: int
    """In one input: ten bad ones are answered with 1008."""


def opening(mode: Mode, token: str) -> bytes:
    if mode is Mode.PLAIN:
        return handshake(token)
    if mode is Mode.WAITING:
        return handshake(herald=True)
    return handshake(herald=True) + text(type="connect", token=token)


def make(chance: random.Random, most: int) -> Attempt:
    """Inputs up to the one that ends the connection."""
    expected = Reference(LIMIT)
    sent = bytearray()
    most_texts = count = 0
    while count < most and len(sent) < _BYTES:
        before = len(expected.messages)
        one = MUTATOR.input(chance)
        sent += one
        expected.feed(one)
        count += 1
        texts = len(expected.messages) - before
        most_texts = max(most_texts, texts)
        if expected.over or expected.within_frame:
            break
        after = b"" if expected.at_rest or chance.random() < 0.1 else frame(CONT)
        after += GOOD * (texts + bool(after)) + frame(PING, b"#%d" % count)
        sent += after
        expected.feed(after)
        if expected.over:
            break
    if not expected.over and chance.random() < 0.2:
        last = close(chance.choice((1000, 1001, 3000, 4999)))
        sent += last
        expected.feed(last)
    return Attempt(chance.choice(list(Mode)), bytes(sent), expected, count, most_texts)


def judge(attempt: Attempt, said: bytes, was_reset: bool) -> None:
    """Raises AssertionError for what the server must not have said."""
    head, _, rest = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101"), said[:200]
    expected = attempt.expected
    frames = server_frames(rest)
    pongs = [payload for opcode, payload in frames if opcode == PONG]
    codes = [got.code for got in frames if got.opcode == CLOSE]
    for got in frames:
        assert got.opcode in (TEXT, PONG, PING, CLOSE), got
        if got.opcode == TEXT:
            message = json.loads(got.payload)
            assert message["type"] in TYPES, message
    if codes:
        assert frames[-1].opcode == CLOSE, "something came after the close"
        assert len(codes) == 1, codes
    if was_reset and expected.closed:
        # What we sent after our close can cost the last words.
        assert pongs == expected.pongs[: len(pongs)]
        return
    struck_out = codes == [1008] and attempt.most_texts >= _STRIKES
    # A `connect` without a good token is no violation of frames either.
    if struck_out or (codes == [3000] and attempt.mode is Mode.WAITING):
        assert pongs == expected.pongs[: len(pongs)]
        return
    assert pongs == expected.pongs, _difference(pongs, expected.pongs)
    if codes:
        assert codes[0] in expected.codes, f"closed with {codes[0]}, not one of {expected.codes}"
    else:
        assert expected.may_wait, f"not closed with one of {expected.codes}"


def _difference(pongs: list[bytes], expected: list[bytes]) -> str:
    same = 0
    while same < min(len(pongs), len(expected)) and pongs[same] == expected[same]:
        same += 1
    return (
        f"{len(pongs)} pongs, not {len(expected)}; after {same}: "
        f"{pongs[same : same + 2]}, not {expected[same : same + 2]}"
    )


def run(herald: Herald, attempts: list[Attempt], chance: random.Random, token: str) -> None:
    """Play and judge; what fails is saved."""
    plays = [
        Play(_cut(chance, opening(one.mode, token) + one.sent), reset=chance.random() < 0.02)
        for one in attempts
    ]
    try:
        play(herald.port, plays)
    except OSError as error:
        paths = [str(save(one.mode.value, one.sent)) for one in attempts]
        raise AssertionError(f"{error!r} with one of {paths}") from None
    for one, played in zip(attempts, plays, strict=True):
        if played.reset:
            continue
        try:
            judge(one, played.said, played.was_reset)
        except (AssertionError, ValueError, KeyError) as error:
            path = save(one.mode.value, one.sent)
            raise AssertionError(f"{error} ({one.mode.value}, saved as {path})") from error


def _cut(chance: random.Random, data: bytes) -> list[bytes]:
    if chance.random() < 0.7:
        return [data]
    edges = [0, *sorted(chance.randint(0, len(data)) for _ in range(2)), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@pytest.fixture(scope="module")
def fuzzed(engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herald]:
    with running(engine.url, tmp_path_factory.mktemp("frames"), **QUIET) as herald:
        yield herald


@pytest.mark.parametrize("name", SAVED)
def test_saved_input(fuzzed: Herald, user: str, name: str) -> None:
    chance = random.Random(0)
    token = mint(user, topics=["*"])
    for mode in Mode:
        expected = Reference(LIMIT)
        expected.feed(SAVED[name])
        attempt = Attempt(mode, SAVED[name], expected, 1, len(expected.messages))
        run(fuzzed, [attempt], chance, token)


def test_the_reference_knows_what_ends_a_connection() -> None:
    """Of what is made, a good part is read to its end, and every kind of violation is in it."""
    chance = random.Random(SEED)
    attempts = [make(chance, _PER_CONNECTION) for _ in range(1500)]
    codes = set().union(*(one.expected.codes for one in attempts if one.expected.over))
    assert {1000, 1001, 1002, 1003, 1007, 1009} <= codes
    whole = [one for one in attempts if not one.expected.over]
    assert len(attempts) * 0.1 < len(whole) < len(attempts) * 0.9


def test_mutated_frames(fuzzed: Herald, new_name: Callable[[], str]) -> None:
    total = inputs(3000)
    users = [mint(new_name(), topics=["*"], ttl=86400.0) for _ in range(8)]
    # Two of them: how it is sent depends on the token, and what is sent must not.
    chance, sending = random.Random(SEED), random.Random(SEED)
    done = rounds = 0
    next_check = 0
    print("to repeat:", how_to_repeat("tests/fuzz/test_frames.py", total))
    with contextlib.closing(Watch(fuzzed, new_name())) as watch:
        while done < total:
            attempts = [make(chance, _PER_CONNECTION) for _ in range(AT_ONCE)]
            run(fuzzed, attempts, sending, chance.choice(users))
            watch.after("frames", [one.sent for one in attempts])
            done += sum(one.inputs for one in attempts)
            rounds += 1
            if done >= next_check:
                watch.check()
                if IS_LONG:
                    print(f"{done} of {total}", flush=True)
                next_check = done + max(1000, total // 200)
            if done >= total // 4:
                watch.warm_once()
        watch.settle()
    print(f"{done} inputs on {rounds * AT_ONCE} connections; memory: {watch.memory_report}")
