"""When a request is repeated, how long after, and what its answers mean: no I/O."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from herald_client import (
    ConfigurationError,
    Forbidden,
    IdConflict,
    InvalidEvent,
    NoAnswer,
    Overloaded,
    Published,
    Rejected,
    RequestFailed,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from herald_client.events import dump_json, encode_event, encode_fields
from herald_client.exchange import (
    Answer,
    Mishap,
    Outcome,
    Send,
    Steps,
    Wait,
    create_ticket,
    publish_one,
    read_history,
)
from herald_client.retrying import RetryPolicy, Surroundings

STORED = Answer(202, None, b'{"id":"i","positions":{"all":"5-1"},"duplicate":false}')
POLICY = RetryPolicy(attempt=10.0, deadline=30.0)
EVENT = encode_event("all", "t", {"a": 1}, "i", None, dump_json)


class Script:
    """Runs steps on a clock of its own, with answers from a list; each takes a second."""

    def __init__(self, *outcomes: Outcome, chance: float = 0.5) -> None:
        self.now = 1000.0
        self.around = Surroundings(lambda: self.now, lambda: self.now, lambda: chance)
        self.requests: list[Send] = []
        self.waits: list[float] = []
        self._outcomes = list(outcomes)

    def run(self, steps: Steps[Any]) -> Any:
        outcome: Outcome | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as stop:
                return stop.value
            outcome = None
            if isinstance(step, Wait):
                assert step.seconds >= 0
                self.waits.append(step.seconds)
                self.now += step.seconds
            else:
                assert step.timeout > 0
                self.requests.append(step)
                self.now += 1.0
                outcome = self._outcomes.pop(0)

    def publish(self) -> Any:
        return self.run(publish_one(EVENT, POLICY, self.around))


def _problem(status: int, retry_after: str | None = None, **members: Any) -> Answer:
    body = {"type": "about:blank", "status": status, "detail": f"It is {status}.", **members}
    return Answer(status, retry_after, json.dumps(body).encode())


def test_first_answer_is_enough() -> None:
    script = Script(STORED)
    assert script.publish() == Published("i", {"all": "5-1"}, False)
    assert script.waits == []
    assert json.loads(script.requests[0].body or b"") == {
        "to": "all",
        "type": "t",
        "id": "i",
        "data": {"a": 1},
    }


@pytest.mark.parametrize(
    "mishap",
    [
        Mishap("No connection."),
        _problem(503),
        _problem(429),
        _problem(408),
        _problem(500),
        Answer(502, None, b"<html>Bad Gateway</html>"),
        Answer(504, None, b""),
    ],
    ids=lambda outcome: str(outcome[0]),
)
def test_what_may_pass_is_repeated_with_the_same_body(mishap: Outcome) -> None:
    script = Script(mishap, mishap, STORED)
    assert script.publish().positions == {"all": "5-1"}
    assert len(script.requests) == 3
    assert len(set(script.requests)) == 1, "the same id, the same bytes"
    assert script.waits == [0.05, 0.1]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Rejected),
        (401, Unauthorized),
        (403, Forbidden),
        (404, Rejected),
        (413, TooLarge),
        (415, Rejected),
        (422, IdConflict),
        (301, Rejected),
    ],
)
def test_what_will_not_pass_is_raised_at_once(status: int, kind: type[RequestFailed]) -> None:
    script = Script(_problem(status))
    with pytest.raises(kind) as raised:
        script.publish()
    assert type(raised.value) is kind
    assert raised.value.status == status
    assert raised.value.detail == f"It is {status}."
    assert raised.value.id == "i"
    assert raised.value.attempts == 1
    hint = " Is the URL right?" if status == 404 else ""
    assert str(raised.value) == f"{status}: It is {status}.{hint}"


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [(_problem(503), Unavailable), (_problem(429), Overloaded), (Mishap("Lost."), NoAnswer)],
)
def test_the_deadline_ends_it_without_a_wait_in_vain(
    outcome: Outcome, kind: type[RequestFailed]
) -> None:
    script = Script(*[outcome] * 100)
    with pytest.raises(kind) as raised:
        script.publish()
    assert type(raised.value) is kind
    assert raised.value.attempts == len(script.requests) > 5
    assert script.now <= 1000.0 + 30.0 + 1.0
    assert script.requests[-1].timeout < 10.0, "an attempt may not outlast the deadline"


def test_the_channels_that_have_it_are_named() -> None:
    script = Script(*[_problem(503, stored={"all": "5-1"}, uncopied={"user:a": "5-2"})] * 100)
    with pytest.raises(Unavailable) as raised:
        script.publish()
    assert raised.value.stored == {"all": "5-1"}
    assert raised.value.uncopied == {"user:a": "5-2"}
    conflict = Script(_problem(422, channels=["user:a"]))
    with pytest.raises(IdConflict) as conflicting:
        conflict.publish()
    assert conflicting.value.channels == ["user:a"]


def test_a_wait_that_takes_too_long_ends_it() -> None:
    """A computer sleeps, or is busy: no time is left, and none is asked of a socket."""

    class Sleepy(Script):
        def run(self, steps: Steps[Any]) -> Any:
            def oversleeping() -> Steps[Any]:
                outcome: Outcome | None = None
                while True:
                    step = steps.send(outcome)
                    outcome = yield step
                    if isinstance(step, Wait):
                        self.now += 60.0

            return super().run(oversleeping())

    script = Sleepy(_problem(503), STORED)
    with pytest.raises(Unavailable, match="503"):
        script.publish()
    assert len(script.requests) == 1


def test_a_redirect_is_named() -> None:
    with pytest.raises(Rejected, match="redirects are not followed"):
        Script(Answer(308, None, b"")).publish()


@pytest.mark.parametrize("chance", [0.0, 0.999])
def test_retry_after_is_the_least_wait(chance: float) -> None:
    date = format_datetime(datetime.fromtimestamp(1000 + 1 + 4 + 1, UTC), usegmt=True)
    script = Script(_problem(429, "4"), _problem(503, date), STORED, chance=chance)
    script.publish()
    first, second = script.waits
    assert 4.0 <= first <= 4.1
    assert (0.0 if chance else -0.1) <= second - max(0.0, 1006 - (1002 + first)) <= 0.2


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", "Fri, 99 Foo"])
def test_a_retry_after_that_says_nothing_is_passed_over(text: str) -> None:
    script = Script(_problem(503, text), STORED)
    script.publish()
    assert script.waits == [0.05]


def test_a_retry_after_beyond_the_deadline_fails_at_once() -> None:
    script = Script(_problem(503, "3600"))
    with pytest.raises(Unavailable):
        script.publish()
    assert script.waits == []


def test_waits_grow_up_to_the_longest() -> None:
    policy = RetryPolicy(deadline=240.0)
    script = Script(*[_problem(503)] * 100, chance=0.999)
    with pytest.raises(Unavailable):
        script.run(publish_one(EVENT, policy, script.around))
    assert [round(wait, 1) for wait in script.waits[:7]] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert max(script.waits) <= 5.0


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"id":"i"}', b'{"id":1,"positions":3}'])
def test_an_answer_that_is_not_heralds_is_an_error(body: bytes) -> None:
    with pytest.raises(Rejected, match="no answer of Herald") as raised:
        Script(Answer(200, None, body)).publish()
    assert raised.value.id == "i", "it may be stored"


def test_history_is_read_from_a_quoted_channel() -> None:
    body = {
        "events": [
            {"id": "5-1", "event": "t", "data": [1], "time": "2026-11-23T06:28:00.123Z"},
        ],
        "next": "5-1",
        "gap": True,
    }
    script = Script(Answer(200, None, json.dumps(body).encode()))
    page = script.run(read_history("user:a/b c", "4-0", 1, json.loads, POLICY, script.around))
    assert script.requests[0].path == "/v1/channels/user%3Aa%2Fb%20c/events?after=4-0&limit=1"
    assert (page.next, page.gap) == ("5-1", True)
    event = page.events[0]
    assert (event.channel, event.position, event.type, event.data) == (
        "user:a/b c",
        "5-1",
        "t",
        [1],
    )
    assert event.time == datetime(2026, 11, 23, 6, 28, 0, 123000, UTC)


def test_ticket() -> None:
    script = Script(Answer(201, None, b'{"ticket":"T","expires":1763790030}'))
    ticket = script.run(create_ticket("alice", ["a", "b.*"], 60, POLICY, script.around))
    assert (ticket.ticket, ticket.expires) == ("T", 1763790030)
    assert json.loads(script.requests[0].body or b"") == {
        "user": "alice",
        "topics": ["a", "b.*"],
        "expires_in": 60,
    }
    with pytest.raises(ConfigurationError, match="list"):
        script.run(create_ticket("alice", "news", 60, POLICY, script.around))


def test_an_event_is_written_once_and_gets_an_id() -> None:
    one = encode_event(["all", "user:ü"], "t", "é", None, 1.5, dump_json)
    other = encode_event("all", "t", None, None, None, dump_json)
    assert json.loads(one.body) == {
        "to": ["all", "user:ü"],
        "type": "t",
        "id": one.id,
        "data": "é",
        "ttl": 1.5,
    }
    assert one.channels == ("all", "user:ü")
    assert len(one.id) == 32
    assert one.id != other.id


@pytest.mark.parametrize("data", [float("nan"), object(), {1, 2}, "\ud800", b"bytes"])
def test_data_that_is_no_json_is_refused_here(data: Any) -> None:
    with pytest.raises(InvalidEvent):
        encode_event("all", "t", data, None, None, dump_json)


@pytest.mark.parametrize(
    "fields", [{"to": "all"}, {"type": "t"}, {"to": "all", "type": "t", 1: 1}, {}]
)
def test_fields_that_are_no_event_are_refused(fields: Any) -> None:
    with pytest.raises(InvalidEvent, match="An event has the keys"):
        encode_fields(fields, dump_json)


@pytest.mark.parametrize("to", [None, 1, [1], [["all"]], b"all", {"all": None, 1: None}])
def test_channels_of_another_type_are_refused_here(to: Any) -> None:
    """The queue compares them, so it must be able to."""
    with pytest.raises(InvalidEvent, match="`to` is"):
        encode_event(to, "t", None, None, None, dump_json)


def test_one_event_in_place_of_many_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="mapping"):
        encode_fields("to", dump_json)  # type: ignore[arg-type]


def test_other_json_writers_may_be_used() -> None:
    event = encode_event("all", "t", {1}, None, None, lambda value: json.dumps(sorted(value)))
    assert json.loads(event.body)["data"] == [1]
