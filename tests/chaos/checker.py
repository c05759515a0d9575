"""Holds the books against the guarantees, channel by channel and subscriber by subscriber.

What a subscriber saw is walked in the order in which it came, with the rule that the protocol gives
to clients: drop an event whose position was seen, keep the position of the last one, take a gap's
`to` as the new place. Then:

* an accepted event between two that follow each other was lost in silence (guarantee 2);
* so was one behind the last event, once everything has had time to arrive (guarantee 1);
* one between a gap's two places is missing, but announced before anything later; so is one that
  the epoch of the gap's `to` lost with its end, where the next event is of a later epoch;
* a gap that tells of an epoch's end may come before the last events of that epoch that are left;
* a number that skips shows a loss as well, also of an event whose publisher never had an answer;
* the same event twice is a double, unless a gap lies between: an engine that lost the first one has
  lost its idempotency key too, and its publisher repeated it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.books import (
    Accepted,
    Event,
    Gap,
    Joined,
    Position,
    PublisherBook,
    Record,
    SubscriberBook,
)

_EXAMPLES = 10
_BEGINNING = (0, 0)


@dataclass
class Verdict:
    """Counts over all subscribers; the first five must be zero.

    Attributes:
        lost: accepted, never seen and covered by no gap, or skipped.
        doubled: seen twice by a client that drops the positions it has seen.
        misordered: after a later one.
        forged: another payload than was accepted at that position, or one position for two events.
        broken: what contradicts the protocol, as a gap from where the client was not.
        accepted, delivered: events, and events times subscribers.
        repeated: seen again on the wire, and dropped by position.
        gaps, covered: gaps announced, and accepted events in them that never came.
        again: repeated by a publisher over a gap.
    """

    lost: int = 0
    doubled: int = 0
    misordered: int = 0
    forged: int = 0
    broken: int = 0
    accepted: int = 0
    delivered: int = 0
    repeated: int = 0
    gaps: int = 0
    covered: int = 0
    again: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not (self.lost or self.doubled or self.misordered or self.forged or self.broken)

    def tell(self, text: str) -> None:
        if len(self.examples) < _EXAMPLES:
            self.examples.append(text)


def check(publishers: Iterable[PublisherBook], subscribers: Iterable[SubscriberBook]) -> Verdict:
    """The verdict, once everything has had time to arrive."""
    verdict = Verdict()
    accepted = _accepted(publishers, verdict)
    for subscriber in subscribers:
        for complaint in subscriber.complaints:
            verdict.broken += 1
            verdict.tell(f"{subscriber.name}: {complaint}")
        for channel, records in subscriber.records.items():
            _Walk(subscriber.name, channel, accepted.get(channel, {}), verdict).along(records)
    return verdict


def _accepted(
    publishers: Iterable[PublisherBook], verdict: Verdict
) -> Mapping[str, Mapping[Position, int]]:
    found: dict[str, dict[Position, int]] = {}
    for book in publishers:
        for channel, events in book.accepted.items():
            at = found.setdefault(channel, {})
            for event in events:
                _add(channel, at, event, verdict)
    verdict.accepted = sum(map(len, found.values()))
    return found


def _add(channel: str, at: dict[Position, int], event: Accepted, verdict: Verdict) -> None:
    if at.setdefault(event.position, event.number) != event.number:
        verdict.forged += 1
        verdict.tell(
            f"{channel}: {event.position} was given to {at[event.position]} and {event.number}"
        )


class _Walk:
    """One subscriber's way through one channel."""

    def __init__(
        self, who: str, channel: str, accepted: Mapping[Position, int], verdict: Verdict
    ) -> None:
        self._where = f"{who} on {channel}"
        self._accepted = accepted
        self._order = sorted(accepted)
        self._verdict = verdict
        self._at: Position | None = None
        self._start: Position | None = None
        self._seen: set[Position] = set()
        self._numbers: dict[int, int] = {}  # a number, and how many gaps there were before it
        self._gaps = 0
        self._told = False  # a gap, and since then no event of another epoch
        self._missed: set[Position] = set()

    def along(self, records: Sequence[Record]) -> None:
        for record in records:
            match record:
                case Joined(position):
                    self._at = self._start = position
                case Event(position, number):
                    self._event(position, number)
                case Gap(since, to):
                    self._gap(since, to)
        if self._at is None:
            return
        behind = self._between(self._at, None)
        self._lose(self._announced(behind), "never came")

    def _event(self, position: Position, number: int) -> None:
        verdict = self._verdict
        if self._at is None:
            self._break("an event before the welcome")
            return
        if position in self._seen:
            verdict.repeated += 1
            return
        if position <= self._at:
            verdict.misordered += 1
            verdict.tell(f"{self._where}: {position} came after {self._at}")
            return
        skipped = self._between(self._at, position)
        skipped = [other for other in skipped if other != position]
        if position[0] != self._at[0]:
            skipped = self._announced(skipped)
        if skipped:
            self._lose(skipped, f"skipped between {self._at} and {position}")
        elif self._at == _BEGINNING:
            pass  # who asks for everything retained is told of no gap
        elif position[0] != self._at[0]:
            if not self._told:
                self._break(f"from {self._at} to {position} without a gap")
            elif position[1] != 1:
                self._hole(position)
        elif position[1] != self._at[1] + 1:
            self._hole(position)
        if self._accepted.get(position, number) != number:
            verdict.forged += 1
            verdict.tell(f"{self._where}: {position} is {number}, not {self._accepted[position]}")
        before = self._numbers.get(number)
        if before == self._gaps:
            verdict.doubled += 1
            verdict.tell(f"{self._where}: event {number} twice, again at {position}")
        elif before is not None:
            verdict.again += 1
        self._numbers[number] = self._gaps
        self._told = self._told and position[0] == self._at[0]
        self._seen.add(position)
        self._at = position
        verdict.delivered += 1

    def _gap(self, since: Position, to: Position) -> None:
        if self._at is None or (since != self._at and not self._moved_on(since)):
            self._break(f"a gap from {since}, but the client was at {self._at}")
        within = self._between(since, to) if to >= since else self._between(since, None)
        self._cover(within)
        self._verdict.gaps += 1
        self._gaps += 1
        self._told = True
        self._at = to

    def _moved_on(self, since: Position) -> bool:
        """Whether a place is ahead of the client's only by the end of an epoch that was told."""
        assert self._at is not None
        return self._told and since[0] > self._at[0] and not self._between((since[0], 0), since)

    def _announced(self, skipped: list[Position]) -> list[Position]:
        """Those of which no gap has told; the epoch of the last place has ended."""
        if not self._told or self._at is None:
            return skipped
        self._cover([p for p in skipped if p[0] == self._at[0]])
        return [p for p in skipped if p[0] != self._at[0]]

    def _cover(self, positions: Sequence[Position]) -> None:
        missing = [p for p in positions if p not in self._seen and p not in self._missed]
        self._missed.update(missing)
        self._verdict.covered += len(missing)

    def _hole(self, position: Position) -> None:
        self._verdict.lost += 1
        self._verdict.tell(f"{self._where}: a hole between {self._at} and {position}")

    def _between(self, since: Position, to: Position | None) -> list[Position]:
        """Accepted positions behind the first, up to and with the second."""
        first = bisect_right(self._order, since)
        last = len(self._order) if to is None else bisect_right(self._order, to)
        return self._order[first:last]

    def _lose(self, positions: Sequence[Position], how: str) -> None:
        lost = [p for p in positions if p not in self._missed]
        self._missed.update(lost)
        self._verdict.lost += len(lost)
        if lost:
            self._verdict.tell(f"{self._where}: {len(lost)} {how}, the first {lost[0]}")

    def _break(self, what: str) -> None:
        self._verdict.broken += 1
        self._verdict.tell(f"{self._where}: {what}")
