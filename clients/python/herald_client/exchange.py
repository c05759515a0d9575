"""HTTP requests without I/O: what to send, how long to wait, what the answers mean.

A call is a generator. It yields `Send` or `Wait`, is sent what came of it, and returns the result
or raises. `publisher` and `async_publisher` run the same generators, so sync and async cannot
differ:

    steps = publish_one(event, policy, around)
    outcome = None
    while True:
        step = steps.send(outcome)      # StopIteration carries the result
        outcome = send(step) if isinstance(step, Send) else sleep(step.seconds)
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from herald_client.errors import (
    ConfigurationError,
    Forbidden,
    IdConflict,
    NoAnswer,
    Overloaded,
    Rejected,
    RequestFailed,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from herald_client.events import HistoryPage, Loads, Outgoing, Published, Ticket, read_event
from herald_client.retrying import RetryPolicy, Surroundings, read_retry_after

_T = TypeVar("_T")


class Send(NamedTuple):
    """Send this request, and give back an `Answer`, or a `Mishap` after `timeout` seconds."""

    method: str
    path: str
    body: bytes | None
    timeout: float


class Wait(NamedTuple):
    """Do nothing for so many seconds."""

    seconds: float


class Answer(NamedTuple):
    """What came back; `retry_after` is the header's text."""

    status: int
    retry_after: str | None
    body: bytes


class Mishap(NamedTuple):
    """Nothing came back: no connection, or it was lost, or the time was up."""

    reason: str


Outcome = Answer | Mishap
Steps = Generator[Send | Wait, Outcome | None, _T]

_BY_STATUS: dict[int, type[RequestFailed]] = {
    401: Unauthorized,
    403: Forbidden,
    408: Unavailable,
    413: TooLarge,
    422: IdConflict,
    429: Overloaded,
}


def publish_one(event: Outgoing, policy: RetryPolicy, around: Surroundings) -> Steps[Published]:
    """Publish one event."""
    answer = yield from _exchange("POST", "/v1/events", event.body, policy, around, event.id)
    return _read(answer, read_published, id=event.id)


def read_history(
    channel: str,
    after: str | None,
    limit: int,
    loads: Loads,
    policy: RetryPolicy,
    around: Surroundings,
) -> Steps[HistoryPage]:
    """Read a page of what a channel retains."""
    query = {"limit": str(limit)} if after is None else {"after": after, "limit": str(limit)}
    path = f"/v1/channels/{quote(channel, safe='')}/events?{urlencode(query)}"
    answer = yield from _exchange("GET", path, None, policy, around)

    def page(document: Any) -> HistoryPage:
        events = [read_event(channel, message) for message in document["events"]]
        return HistoryPage(events, document["next"], document.get("gap", False))

    return _read(answer, page, loads)


def create_ticket(
    user: str,
    topics: Sequence[str],
    expires_in: float | None,
    policy: RetryPolicy,
    around: Surroundings,
) -> Steps[Ticket]:
    """Have a ticket made. Repeated after a lost answer, one is made that nobody uses."""
    if isinstance(topics, str):
        raise ConfigurationError("`topics` is a list of names.")
    wanted: dict[str, Any] = {"user": user}
    if topics:
        wanted["topics"] = list(topics)
    if expires_in is not None:
        wanted["expires_in"] = expires_in
    body = json.dumps(wanted).encode()
    answer = yield from _exchange("POST", "/v1/tickets", body, policy, around)
    return _read(answer, lambda document: Ticket(document["ticket"], document["expires"]))


def _exchange(
    method: str,
    path: str,
    body: bytes | None,
    policy: RetryPolicy,
    around: Surroundings,
    id: str | None = None,
) -> Steps[Answer]:
    """One request, repeated until it is answered for good or the deadline leaves no time."""
    deadline = around.monotonic() + policy.deadline
    attempts = 0
    before: RequestFailed | None = None
    while True:
        left = deadline - around.monotonic()
        if before is not None and left <= 0:  # we slept too long
            raise before
        outcome = yield Send(method, path, body, min(policy.attempt, left))
        assert outcome is not None
        attempts += 1
        if isinstance(outcome, Answer) and outcome.status < 300:
            return outcome
        error = error_of(outcome, id=id, attempts=attempts)
        if not isinstance(error, Unavailable):
            raise error
        pause = policy.pause(attempts, asked_pause(outcome, around), around.chance())
        if around.monotonic() + pause >= deadline:
            raise error from before  # the last one may only say that the time was up
        before = error
        yield Wait(pause)


def asked_pause(outcome: Outcome, around: Surroundings) -> float:
    """Seconds that the server asks to wait."""
    if isinstance(outcome, Mishap):
        return 0.0
    return read_retry_after(outcome.retry_after, around.wall())


def error_of(outcome: Outcome, *, id: str | None = None, attempts: int = 1) -> RequestFailed:
    """The error that a request's outcome stands for, which is no success."""
    if isinstance(outcome, Mishap):
        return NoAnswer(outcome.reason, id=id, attempts=attempts)
    problem: Any = None
    with contextlib.suppress(ValueError):  # an answer of a proxy's
        problem = json.loads(outcome.body)
    if not isinstance(problem, Mapping):
        problem = {}
    return error_of_problem(problem, outcome.status, id=id, attempts=attempts)


def error_of_problem(
    problem: Mapping[str, Any], status: int, *, id: str | None = None, attempts: int = 1
) -> RequestFailed:
    """The error that a problem document (RFC 9457) stands for; an empty one is a proxy's."""
    kind = _BY_STATUS.get(status) or (Unavailable if status >= 500 else Rejected)
    detail = problem.get("detail")
    if not isinstance(detail, str):
        detail = _phrase(status)
    return kind(detail, status=status, problem=problem, id=id, attempts=attempts)


def read_published(document: Any) -> Published:
    """Raises KeyError or TypeError where it is none."""
    return Published(document["id"], dict(document["positions"]), document["duplicate"])


def _read(
    answer: Answer, reader: Callable[[Any], _T], loads: Loads = json.loads, id: str | None = None
) -> _T:
    try:
        return reader(loads(answer.body))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise strange(answer, id=id) from None


def strange(answer: Answer, *, id: str | None = None) -> Rejected:
    """The error for an answer that is not Herald's."""
    detail = "This is no answer of Herald's; is the URL right?"
    return Rejected(detail, status=answer.status, id=id)


def _phrase(status: int) -> str:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        return "no reason given"
    if 300 <= status < 400:
        phrase += "; redirects are not followed, is the URL right?"
    return phrase
