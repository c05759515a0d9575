"""Events that wait to be published in batches: which go next, and what becomes of them.

No I/O and no lock: its owner sends the batches, one at a time, and tells what came of each. The
order of each channel is kept through every failure: while an event waits to be repeated, the later
ones of its channels wait behind it, and those of other channels pass.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

from herald_client.errors import NoAnswer, Rejected, RequestFailed, TooLarge, Unavailable
from herald_client.events import Outgoing, Published
from herald_client.exchange import (
    Answer,
    Outcome,
    Send,
    Steps,
    Wait,
    asked_pause,
    error_of,
    error_of_problem,
    read_published,
    strange,
)
from herald_client.retrying import RetryPolicy, Surroundings

MAX_BATCH_EVENTS = 10_000
MAX_BATCH_BYTES = 16 << 20
BATCH_PATH = "/v1/events/batch"
_LONGEST_ASKED = 60.0
"""Seconds that one answer may silence all: a proxy's page of maintenance may ask for hours, and be
gone in a minute."""
_HEAD, _TAIL = b'{"events":[', b"]}"


@dataclass(slots=True, eq=False)
class Entry:
    """An event that waits.

    Attributes:
        number: its owner's, to know it again.
        added: when it came (monotonic seconds, as all times here).
        expires: when it is given up.
        attempts: how often it was sent.
        not_before: when it may be sent again.
    """

    event: Outgoing
    number: int
    added: float
    expires: float
    attempts: int = 0
    not_before: float = 0.0


class Batch(NamedTuple):
    """Send these in one request within `timeout` seconds, then `settle` it."""

    entries: list[Entry]
    body: bytes
    timeout: float


class Settled(NamedTuple):
    """What became of an event."""

    entry: Entry
    result: Published | RequestFailed


class Backlog:
    """The waiting events.

    Args:
        policy: how long to wait after failures; its `deadline` is not used here.
        max_batch: events of one request.
        linger: seconds that an event may wait for others to go with it.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        around: Surroundings,
        *,
        max_batch: int = MAX_BATCH_EVENTS,
        linger: float = 0.0,
    ) -> None:
        self._policy = policy
        self._around = around
        self._max_batch = max_batch
        self._max_bytes = MAX_BATCH_BYTES
        self._linger = linger
        self._queue: deque[Entry] = deque()
        self._flight: list[Entry] = []
        self._next_expiry = float("inf")  # nothing expires before
        # After a request that failed as a whole.
        self._not_before = 0.0
        self._failures = 0
        self._last_error: RequestFailed | None = None
        # Fewer than max_batch while an event is searched that spoils its batch.
        self._narrow = max_batch
        self.size = 0
        """Events that wait or are on their way."""
        self.bytes = 0
        """Of those."""

    def add(self, event: Outgoing, expires: float, number: int = 0) -> None:
        """Take an event, to be given up at `expires`."""
        entry = Entry(event, number, self._around.monotonic(), expires)
        self._queue.append(entry)
        self._next_expiry = min(self._next_expiry, expires)
        self.size += 1
        self.bytes += len(event.body)

    @property
    def has_full_batch(self) -> bool:
        """Whether lingering would gain nothing."""
        return len(self._queue) >= self._max_batch

    def next(self, *, hurry: bool = False) -> Batch | float | None:
        """What to do now: send a batch; come back at a time; or nothing, as nothing waits.

        `hurry`: do not linger.
        """
        now = self._around.monotonic()
        if not self._queue:
            return None
        if now < self._not_before:
            return min(self._not_before, self._next_expiry)
        taken, kept, due = self._choose(now)
        if not taken:
            return min(due, self._next_expiry)
        if not (hurry or self.has_full_batch or taken[0].attempts):
            ready = taken[0].added + self._linger
            if now < ready:
                return min(ready, due)
        for _ in range(len(taken) + len(kept)):
            self._queue.popleft()
        self._queue.extendleft(reversed(kept))
        self._flight = taken
        for entry in taken:
            entry.attempts += 1
        left = max(entry.expires for entry in taken) - now
        body = _HEAD + b",".join([entry.event.body for entry in taken]) + _TAIL
        return Batch(taken, body, min(self._policy.attempt, max(left, 0.001)))

    def _choose(self, now: float) -> tuple[list[Entry], list[Entry], float]:
        """From the front: those that go, those that stay before the last of them, and when more."""
        taken: list[Entry] = []
        kept: list[Entry] = []
        blocked: set[str] = set()
        due = float("inf")
        size = len(_HEAD) + len(_TAIL)
        for entry in self._queue:
            channels = entry.event.channels
            if now < entry.not_before:
                due = min(due, entry.not_before)
            elif blocked.isdisjoint(channels):
                size += len(entry.event.body) + 1
                if taken and (len(taken) >= self._narrow or size > self._max_bytes):
                    break
                taken.append(entry)
                continue
            blocked.update(channels)
            kept.append(entry)
        return taken, kept, due

    def settle(self, outcome: Outcome) -> list[Settled]:
        """Tell what came of the last batch; gives back the events that are done with.

        The others wait to be repeated. Nothing is given back of what was abandoned meanwhile.
        """
        flight, self._flight = self._flight, []
        if not flight:
            return []
        if isinstance(outcome, Answer) and outcome.status == 200:
            results = _read_results(outcome, len(flight))
            if results is not None:
                self._failures = 0
                self._last_error = None
                self._narrow = min(self._max_batch, self._narrow * 2)
                return self._settle_each(flight, results)
            return self._done([Settled(entry, _of(strange(outcome), entry)) for entry in flight])
        error = error_of(outcome)
        if isinstance(error, Rejected):
            if len(flight) > 1 and error.status in (400, 413):
                self._split(flight, error)
                return []
            return self._done([Settled(entry, _of(error, entry)) for entry in flight])
        self._failures += 1
        self._last_error = error
        asked = min(asked_pause(outcome, self._around), _LONGEST_ASKED)
        pause = self._policy.pause(self._failures, asked, self._around.chance())
        self._not_before = self._around.monotonic() + pause
        return self._repeat(flight, {id(entry): _of(error, entry) for entry in flight})

    def _settle_each(self, flight: list[Entry], results: list[Any]) -> list[Settled]:
        now = self._around.monotonic()
        settled: list[Settled] = []
        errors: dict[int, RequestFailed] = {}
        repeated: list[Entry] = []
        for entry, result in zip(flight, results, strict=True):
            if isinstance(result, Published):
                settled.append(Settled(entry, result))
                continue
            error = error_of_problem(
                result, _status(result), id=entry.event.id, attempts=entry.attempts
            )
            if isinstance(error, Unavailable):
                pause = self._policy.pause(entry.attempts, 0.0, self._around.chance())
                entry.not_before = now + pause
                errors[id(entry)] = self._last_error = error
                repeated.append(entry)
            else:
                settled.append(Settled(entry, error))
        self._done(settled)
        return settled + self._repeat(repeated, errors)

    def _repeat(self, entries: list[Entry], errors: dict[int, RequestFailed]) -> list[Settled]:
        """Put them back in front; those whose time would be over by then are given up."""
        given_up = [
            Settled(entry, errors[id(entry)])
            for entry in entries
            if max(self._not_before, entry.not_before) >= entry.expires
        ]
        gone = {id(settled.entry) for settled in given_up}
        self._put_back([entry for entry in entries if id(entry) not in gone])
        return self._done(given_up)

    def _split(self, flight: list[Entry], error: Rejected) -> None:
        """The request as a whole was refused: find out whether fewer events are not."""
        if isinstance(error, TooLarge):
            # A proxy, or a server with another limit: it will not change its mind.
            self._max_bytes = sum(len(entry.event.body) for entry in flight) // 2
        else:
            self._narrow = len(flight) // 2
        for entry in flight:
            entry.attempts -= 1
        self._put_back(flight)

    def _put_back(self, entries: list[Entry]) -> None:
        """In front: they came before all that are still there."""
        self._queue.extendleft(reversed(entries))
        self._next_expiry = min([self._next_expiry, *(entry.expires for entry in entries)])

    def expire(self) -> list[Settled]:
        """The waiting events whose time is over."""
        now = self._around.monotonic()
        if now < self._next_expiry:
            return []
        late = [entry for entry in self._queue if entry.expires <= now]
        self._queue = deque(entry for entry in self._queue if entry.expires > now)
        self._next_expiry = min((entry.expires for entry in self._queue), default=float("inf"))
        return self._done([Settled(entry, self._too_late(entry)) for entry in late])

    def oldest(self) -> float:
        """The least number of those that wait or are on their way; infinity where none are."""
        numbers = (entry.number for entry in (*self._flight, *self._queue))
        return min(numbers, default=float("inf"))

    def abandon(self) -> list[Settled]:
        """Give up everything, also what is on its way; what comes of that is not told any more."""
        everything = [*self._flight, *self._queue]
        self._flight = []
        self._queue.clear()
        return self._done([Settled(entry, self._too_late(entry)) for entry in everything])

    def _too_late(self, entry: Entry) -> RequestFailed:
        if self._last_error is not None:
            return _of(self._last_error, entry)
        reason = "There was no time to wait for an answer." if entry.attempts else "Never sent."
        return NoAnswer(reason, id=entry.event.id, attempts=entry.attempts)

    def _done(self, settled: list[Settled]) -> list[Settled]:
        self.size -= len(settled)
        self.bytes -= sum(len(one.entry.event.body) for one in settled)
        return settled


def publish_all(
    events: list[Outgoing], policy: RetryPolicy, around: Surroundings
) -> Steps[list[Published | RequestFailed]]:
    """Publish many events; gives back one result per event, in order."""
    backlog = Backlog(policy, around)
    deadline = around.monotonic() + policy.deadline
    for number, event in enumerate(events):
        backlog.add(event, deadline, number)
    results: dict[int, Published | RequestFailed] = {}
    while (step := backlog.next(hurry=True)) is not None:
        if isinstance(step, Batch):
            outcome = yield Send("POST", BATCH_PATH, step.body, step.timeout)
            assert outcome is not None
            settled = backlog.settle(outcome)
        else:
            yield Wait(max(0.0, step - around.monotonic()))
            settled = []
        for entry, result in settled + backlog.expire():
            results[entry.number] = result
    return [results[number] for number in range(len(events))]


def _of(error: RequestFailed, entry: Entry) -> RequestFailed:
    """The same failure, of this event."""
    return type(error)(
        error.detail,
        status=error.status,
        problem=error.problem,
        id=entry.event.id,
        attempts=entry.attempts,
    )


def _read_results(answer: Answer, count: int) -> list[Any] | None:
    """`Published` or a problem per event; None where the answer is none of Herald's."""
    try:
        results = json.loads(answer.body)["results"]
        if len(results) != count:
            return None
        return [
            dict(result["problem"]) if "problem" in result else read_published(result)
            for result in results
        ]
    except (KeyError, TypeError, ValueError):
        return None


def _status(problem: dict[str, Any]) -> int:
    status = problem.get("status")
    return status if isinstance(status, int) else 500
