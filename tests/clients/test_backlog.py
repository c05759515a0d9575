"""The background queue's core: what is sent next, and what becomes of each event. No I/O."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from herald_client import NoAnswer, Overloaded, Published, Rejected, RequestFailed, Unavailable
from herald_client.backlog import Backlog, Batch, Settled, publish_all
from herald_client.events import Outgoing, dump_json, encode_event
from herald_client.exchange import Answer, Mishap, Outcome
from herald_client.retrying import RetryPolicy, Surroundings
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.test_exchange import Script

POLICY = RetryPolicy()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.around = Surroundings(lambda: self.now, lambda: self.now, lambda: 0.5)


def _event(to: str | list[str], number: int) -> Outgoing:
    return encode_event(to, "t", number, f"id{number}", None, dump_json)


def _stored(id: str) -> dict[str, Any]:
    return {"id": id, "positions": {"all": "5-1"}, "duplicate": False}


def _failed(status: int) -> dict[str, Any]:
    return {"problem": {"status": status, "detail": f"It is {status}."}}


def _answer(*results: dict[str, Any]) -> Answer:
    return Answer(200, None, json.dumps({"results": results}).encode())


def _numbers(batch: Batch | float | None) -> list[int]:
    assert isinstance(batch, Batch), batch
    numbers = [event["data"] for event in json.loads(batch.body)["events"]]
    assert numbers == [entry.number for entry in batch.entries]
    return numbers


def _backlog(clock: Clock, **options: Any) -> Backlog:
    return Backlog(POLICY, clock.around, **options)


def _fill(backlog: Backlog, *channels: str | list[str], expires: float = 100.0) -> None:
    for number, channel in enumerate(channels):
        backlog.add(_event(channel, number), expires, number)


def _results(settled: list[Settled]) -> dict[int, type[Published | RequestFailed]]:
    return {one.entry.number: type(one.result) for one in settled}


def test_nothing_waits() -> None:
    assert _backlog(Clock()).next() is None


def test_events_linger_for_company_until_the_batch_is_full() -> None:
    clock = Clock()
    backlog = _backlog(clock, max_batch=3, linger=0.5)
    _fill(backlog, "a", "a")
    assert backlog.next() == 0.5
    assert _numbers(_again(backlog, hurry=True)) == [0, 1]
    clock.now = 10.0
    backlog.settle(_answer(_stored("id0"), _stored("id1")))
    _fill(backlog, "a", "a", "a", "a")
    assert backlog.has_full_batch
    assert _numbers(backlog.next()) == [0, 1, 2]
    backlog.settle(_answer(*[_stored("x")] * 3))
    assert backlog.next() == 10.5
    clock.now = 10.5
    assert _numbers(backlog.next()) == [3]


def _again(backlog: Backlog, *, hurry: bool = False) -> Batch | float | None:
    return backlog.next(hurry=hurry)


def test_a_failed_request_is_repeated_whole_after_a_wait() -> None:
    clock = Clock()
    backlog = _backlog(clock)
    _fill(backlog, "a", "b")
    first = backlog.next()
    assert isinstance(first, Batch)
    assert backlog.settle(Mishap("Lost.")) == []
    assert backlog.next() == 0.05
    clock.now = 0.05
    second = backlog.next()
    assert isinstance(second, Batch)
    assert second.body == first.body
    assert backlog.settle(Answer(429, "3", b"{}")) == []
    assert backlog.next() == pytest.approx(0.05 + 3.1)
    clock.now = 4.0
    backlog.next()
    settled = backlog.settle(_answer(_stored("id0"), _stored("id1")))
    assert _results(settled) == {0: Published, 1: Published}
    assert (backlog.size, backlog.bytes) == (0, 0)


def test_later_events_of_a_channel_wait_behind_a_failed_one_and_others_pass() -> None:
    clock = Clock()
    backlog = _backlog(clock)
    _fill(backlog, "a", "b", ["a", "c"], "c", "d")
    assert _numbers(backlog.next()) == [0, 1, 2, 3, 4]
    ok = _stored("x")
    settled = backlog.settle(_answer(_failed(503), ok, _failed(503), _failed(503), ok))
    assert _results(settled) == {1: Published, 4: Published}
    backlog.add(_event("c", 5), 100.0, 5)
    backlog.add(_event("e", 6), 100.0, 6)
    assert _numbers(backlog.next()) == [6], "c waits behind 3"
    backlog.settle(_answer(ok))
    assert backlog.next() == 0.05
    clock.now = 0.05
    assert _numbers(backlog.next()) == [0, 2, 3, 5]


def test_what_is_refused_for_good_does_not_stop_the_others() -> None:
    backlog = _backlog(Clock())
    _fill(backlog, "a", "a", "a")
    backlog.next()
    settled = backlog.settle(_answer(_stored("id0"), _failed(400), _stored("id2")))
    assert _results(settled) == {0: Published, 1: Rejected, 2: Published}
    error = settled[1].result
    assert isinstance(error, RequestFailed)
    assert (error.id, error.status, error.detail) == ("id1", 400, "It is 400.")


def test_an_event_is_given_up_when_its_time_is_over() -> None:
    clock = Clock()
    backlog = _backlog(clock)
    _fill(backlog, "a", "a", expires=10.0)
    backlog.next()
    assert backlog.settle(Answer(503, "5", b'{"detail":"Away."}')) == []
    clock.now = 6.0
    backlog.next()
    settled = backlog.settle(Answer(503, "5", b'{"detail":"Away."}'))
    assert _results(settled) == {0: Unavailable, 1: Unavailable}
    error = settled[0].result
    assert isinstance(error, RequestFailed)
    assert (error.detail, error.attempts, error.id) == ("Away.", 2, "id0")
    assert backlog.next() is None


def test_no_answer_silences_a_queue_for_hours() -> None:
    """A page of maintenance asks for an hour, and is gone in a minute."""
    clock = Clock()
    backlog = _backlog(clock)
    _fill(backlog, "a", expires=60.0)
    backlog.next()
    assert _results(backlog.settle(Answer(503, "9" * 400, b"<html>"))) == {0: Unavailable}
    clock.now = 10.0
    backlog.add(_event("a", 1), 70.0, 1)
    assert isinstance(backlog.next(), float), "what it asked for is heeded"
    clock.now = 61.0
    assert backlog.expire() == []
    assert _numbers(backlog.next()) == [1]


def test_an_event_that_was_never_sent_is_told_why() -> None:
    clock = Clock()
    backlog = _backlog(clock, max_batch=1)
    _fill(backlog, "a", "a", expires=10.0)
    backlog.next()
    backlog.settle(Mishap("No connection."))
    clock.now = 11.0
    settled = backlog.expire()
    assert _results(settled) == {0: NoAnswer, 1: NoAnswer}
    assert [one.result.detail for one in settled if isinstance(one.result, RequestFailed)] == [
        "No connection.",
        "No connection.",
    ]


@pytest.mark.parametrize("status", [400, 413])
def test_a_request_that_is_refused_whole_is_split_until_one_is_found(status: int) -> None:
    backlog = _backlog(Clock())
    _fill(backlog, *["a"] * 9)
    settled: list[Settled] = []
    sent: list[list[int]] = []
    while (batch := backlog.next()) is not None:
        numbers = _numbers(batch)
        sent.append(numbers)
        spoilt = 5 in numbers
        ok = _answer(*[_stored("x")] * len(numbers))
        settled += backlog.settle(Answer(status, None, b"{}") if spoilt else ok)
    results = _results(settled)
    assert {number for number, kind in results.items() if kind is not Published} == {5}
    assert len(results) == 9
    assert [one.entry.number for one in settled] == list(range(9)), "and they keep their order"
    assert len(sent) < 12


def test_a_refused_key_fails_what_was_sent_and_only_that() -> None:
    backlog = _backlog(Clock(), max_batch=2)
    _fill(backlog, "a", "b", "c")
    backlog.next()
    settled = backlog.settle(Answer(401, None, b'{"detail":"No."}'))
    assert sorted(_results(settled)) == [0, 1]
    assert _numbers(backlog.next()) == [2]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"results":[]}', b'{"results":[{}]}', b"[1]"])
def test_an_answer_that_is_not_heralds_fails_the_events(body: bytes) -> None:
    backlog = _backlog(Clock())
    _fill(backlog, "a")
    backlog.next()
    (settled,) = backlog.settle(Answer(200, None, body))
    assert isinstance(settled.result, Rejected)
    assert (settled.result.id, settled.result.attempts) == ("id0", 1)


def test_what_is_abandoned_is_told_once() -> None:
    backlog = _backlog(Clock(), max_batch=1)
    _fill(backlog, "a", "a")
    backlog.next()
    abandoned = backlog.abandon()
    assert [one.entry.number for one in abandoned] == [0, 1]
    assert backlog.settle(_answer(_stored("id0"))) == []
    assert (backlog.size, backlog.bytes) == (0, 0)


def test_requests_keep_to_the_limits() -> None:
    backlog = _backlog(Clock())
    big = "x" * 1_000_000
    for number in range(40):
        backlog.add(encode_event("a", "t", big, f"{number}", None, dump_json), 100.0, number)
    counts = []
    while isinstance(batch := backlog.next(), Batch):
        assert len(batch.body) <= 16 << 20
        counts.append(len(batch.entries))
        backlog.settle(_answer(*[_stored("x")] * len(batch.entries)))
    assert counts == [16, 16, 8]
    _fill(backlog, *["a"] * 10_001)
    assert len(_numbers(backlog.next())) == 10_000


def test_publish_all_gives_one_result_per_event_in_order() -> None:
    events = [_event("a", 0), _event("b", 1), _event("a", 2)]
    script = Script(
        _answer(_failed(503), _failed(400), _failed(503)),
        _answer(_stored("id0"), _stored("id2")),
    )
    results = script.run(publish_all(events, POLICY, script.around))
    assert [type(result) for result in results] == [Published, Rejected, Published]
    assert [
        json.loads(request.body or b"")["events"][0]["data"] for request in script.requests
    ] == [
        0,
        0,
    ]
    assert script.run(publish_all([], POLICY, script.around)) == []


def test_publish_all_keeps_to_its_deadline() -> None:
    script = Script(*[Answer(429, "1", b'{"detail":"Too much."}')] * 100)
    results = script.run(publish_all([_event("a", 0), _event("b", 1)], POLICY, script.around))
    assert [type(result) for result in results] == [Overloaded, Overloaded]
    assert script.now <= 1000.0 + 30.0 + 1.0


class Server:
    """Stores as Herald does, and fails in every way: before, in the middle, after."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.logs: dict[str, list[int]] = {}
        self.known: set[tuple[str, str]] = set()
        self.healthy = False

    def answer(self, body: bytes) -> Outcome:
        fate = "ok" if self.healthy else self.chance.choice(["ok", "none", "lost", "429", "partly"])
        if fate == "none":
            return Mishap("No connection.")
        if fate == "429":
            return Answer(429, "1", b"{}")
        results = []
        broken: set[str] = set()
        for event in json.loads(body)["events"]:
            to = [event["to"]] if isinstance(event["to"], str) else event["to"]
            behind = not broken.isdisjoint(to)
            if behind or (fate == "partly" and self.chance.random() < 0.3):
                broken.update(to)
                results.append(_failed(503))
                if not behind and len(to) > 1:
                    self._store(to[0], event)  # stored on some of its channels only
                continue
            if event["data"] % 7 == 3:
                results.append(_failed(400))
                continue
            for channel in to:
                self._store(channel, event)
            results.append(_stored(event["id"]))
        return Mishap("The answer was lost.") if fate == "lost" else _answer(*results)

    def _store(self, channel: str, event: dict[str, Any]) -> None:
        if (channel, event["id"]) not in self.known:
            self.known.add((channel, event["id"]))
            self.logs.setdefault(channel, []).append(event["data"])


@given(
    st.integers(0, 2**32),
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=2, unique=True), max_size=60),
    st.integers(1, 8),
)
def test_whatever_fails_nothing_is_lost_doubled_or_out_of_order(
    seed: int, channels: list[list[str]], max_batch: int
) -> None:
    clock = Clock()
    server = Server(random.Random(seed))
    backlog = _backlog(clock, max_batch=max_batch, linger=0.01)
    settled: list[Settled] = []
    arriving = list(enumerate(channels))
    for _ in range(10_000):
        for _ in range(server.chance.randrange(4)):
            if arriving:
                number, to = arriving.pop(0)
                backlog.add(_event(to, number), clock.now + 60.0, number)
        server.healthy = clock.now > 20.0
        settled += backlog.expire()
        match backlog.next():
            case Batch(body=body):
                settled += backlog.settle(server.answer(body))
            case None:
                if not arriving:
                    break
                clock.now += 0.01
            case due:
                assert due > clock.now
                clock.now = due
    assert (backlog.size, backlog.bytes) == (0, 0)
    assert sorted(one.entry.number for one in settled) == list(range(len(channels)))
    results = _results(settled)
    for channel in "abc":
        expected = [n for n, to in enumerate(channels) if channel in to and n % 7 != 3]
        log = [number for number in server.logs.get(channel, []) if number % 7 != 3]
        assert log == expected
    assert all(kind is (Rejected if n % 7 == 3 else Published) for n, kind in results.items())
