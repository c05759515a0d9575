"""Bytes on a new connection: heads, bodies and handshakes that are almost HTTP."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Iterator

import pytest

from service.broker.embedded import EmbeddedEngine
from tests.fuzz.amount import IS_LONG, SEED, how_to_repeat, inputs
from tests.fuzz.mutation import JSON_WORDS, Mutator, load
from tests.fuzz.replay import Play, play
from tests.fuzz.watch import QUIET, Watch, save
from tests.harness.process import Herald, running

AT_ONCE = 16
_WAIT = 0.1
"""Seconds. How many answers are seen depends on it, never whether one is right."""
SAVED = load("requests")
_WORDS = (
    b"\r\n", b"\n", b"\r", b": ", b" ", b"\t", b"\0", b"\xff", b"%00", b"%ff", b"%", b"?", b"#",
    b"/", b"//", b"/../", b"@", b"[::1", b":99999", b"http://", b"*", b";", b",", b'"', b"\\",
    b"Content-Length: 0\r\n", b"Content-Length: 18446744073709551616\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: close\r\n", b"Connection: upgrade\r\n", b"Upgrade: websocket\r\n",
    b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Host: \r\n", b"Cookie: herald_token=",
    b"Authorization: Bearer ", b"Idempotency-Key: \"", b"Origin: http://[", b" HTTP/1.0\r\n",
    b" HTTP/1.1\r\n\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"?since=", b"&since=all@",
    b"?after=", b"&limit=", b"?token=", b"&topics=", b"GET ", b"POST ", b"CONNECT ", b"HEAD ",
    b"/v1/ws", b"/v1/events", b"/v1/events/batch", b"/v1/channels/", b"/events", b"/metrics",
)  # fmt: skip
MUTATOR = Mutator(list(SAVED.values()), (*_WORDS, *_WORDS, *JSON_WORDS))
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")
KNOWN = {100, 101, 200, 202, 400, 401, 403, 404, 405, 413, 415, 422, 426, 429, 431}
"""The engine is there all the time, so not even 503 is an answer."""


def run(herald: Herald, tries: list[bytes], chance: random.Random) -> set[int]:
    """Play each on a connection of its own; gives back the statuses of all answers."""
    plays = [Play(_cut(chance, one), reset=chance.random() < 0.02, wait=_WAIT) for one in tries]
    statuses: set[int] = set()
    try:
        play(herald.port, plays)
    except OSError as error:
        paths = [str(save("request", one)) for one in tries]
        raise AssertionError(f"{error!r} with one of {paths}") from None
    for one, played in zip(tries, plays, strict=True):
        answered = {int(status) for status in _STATUS.findall(played.said)}
        statuses |= answered
        if answered - KNOWN or (played.said and not _STATUS.match(played.said)):
            path = save("request", one)
            raise AssertionError(f"answered {played.said[:300]!r}, saved as {path}")
    return statuses


def _cut(chance: random.Random, data: bytes) -> list[bytes]:
    if chance.random() < 0.7 or len(data) < 2:
        return [data]
    at = chance.randint(1, len(data) - 1)
    return [data[:at], data[at:]]


@pytest.fixture(scope="module")
def fuzzed(engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herald]:
    with running(engine.url, tmp_path_factory.mktemp("requests"), **QUIET) as herald:
        yield herald


@pytest.mark.parametrize("name", SAVED)
def test_saved_input(fuzzed: Herald, name: str, new_name: Callable[[], str]) -> None:
    with contextlib.closing(Watch(fuzzed, new_name())) as watch:
        run(fuzzed, [SAVED[name]], random.Random(0))
        watch.check()


@pytest.mark.parametrize("name", ["events-pipelined", "health", "history", "batch-lines-chunked"])
def test_who_leaves_while_answers_are_due_makes_no_error(
    fuzzed: Herald, name: str, new_name: Callable[[], str]
) -> None:
    """The moment is chance, so many leave."""
    with contextlib.closing(Watch(fuzzed, new_name())) as watch:
        for number in range(12):
            play(fuzzed.port, [Play([SAVED[name] * 2], wait=number % 4 / 2000) for _ in range(8)])
        watch.check()


def test_mutated_requests(fuzzed: Herald, new_name: Callable[[], str]) -> None:
    total = inputs(2000)
    chance = random.Random(SEED)
    statuses: set[int] = set()
    done = next_check = 0
    print("to repeat:", how_to_repeat("tests/fuzz/test_requests.py", total))
    with contextlib.closing(Watch(fuzzed, new_name())) as watch:
        while done < total:
            tries = [_one(chance) for _ in range(AT_ONCE)]
            statuses |= run(fuzzed, tries, chance)
            watch.after("request", tries)
            done += AT_ONCE
            if done >= next_check:
                watch.check()
                if IS_LONG:
                    print(f"{done} of {total}", flush=True)
                next_check = done + max(500, total // 200)
            if done >= total // 4:
                watch.warm_once()
        watch.settle()
    assert {101, 200, 202, 400, 401, 404} <= statuses, "the inputs no longer reach all doors"
    print(f"{done} inputs; memory: {watch.memory_report}; statuses: {sorted(statuses)}")


def _one(chance: random.Random) -> bytes:
    """A request that was changed, now and then after or before others of one connection."""
    sent = MUTATOR.mutate(chance, MUTATOR.pick(chance))
    if chance.random() < 0.3:
        sent = MUTATOR.pick(chance) + sent
    if chance.random() < 0.2:
        sent += MUTATOR.pick(chance)
    return sent
