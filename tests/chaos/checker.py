"""Holds the books against the guarantees, channel by channel and subscriber by subscriber.

What a subscriber saw is walked in the order in which it came, with the rule that the protocol gives
to clients: drop an event whose position was seen, keep the position of the last one, take a gap's
`to` as the new place. Then:

* an accepted event between two that follow each other was lost in silence (guarantee 2);
* so was one behind the last event, once everything has had time to arrive (guarantee 1);
* a number that skips shows a loss as well, also of an event whose publisher never had an answer;
* a gap begins exactly where the client is, and ends further on, or where another log begins that an
  engine with a slow clock has made;
* an accepted event between a gap's two places is missing, but announced before anything later; it
  was lost all the same if the engine is known to have had it still (see `_witness`);
* from one epoch to the next leads nothing but a gap between the two, save for who asked for what is
  retained (`0-0`): that one is told of no end of an epoch that came before;
* the same event twice is a double, unless a gap lies between: an engine that lost the first one has
  lost its idempotency key too, and its publisher repeated it.

Nothing may be trimmed and nothing may expire: every gap is held to be the engine's loss.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
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
    subscribers = list(subscribers)
    logs: defaultdict[str, _Log] = defaultdict(_Log)
    for publisher in publishers:
        for channel, events in publisher.accepted.items():
            for event in events:
                _accept(channel, logs[channel], event, verdict)
    verdict.accepted = sum(len(log.accepted) for log in logs.values())
    for subscriber in subscribers:
        for channel, records in subscriber.records.items():
            _witness(logs[channel], records)
    for subscriber in subscribers:
        for complaint in subscriber.complaints:
            verdict.broken += 1
            verdict.tell(f"{subscriber.name}: {complaint}")
        for channel, records in subscriber.records.items():
            _Walk(subscriber.name, channel, logs[channel], verdict).along(records)
    return verdict


@dataclass
class _Log:
    """What is known of one channel's log.

    Attributes:
        accepted: the numbers of the events that were answered with 202.
        kept: events that survived their epoch, and the latest epoch in which they were there.
        epoch: the highest that somebody saw.
    """

    accepted: dict[Position, int] = field(default_factory=dict)
    kept: dict[Position, int] = field(default_factory=dict)
    epoch: int = 0


def _accept(channel: str, log: _Log, event: Accepted, verdict: Verdict) -> None:
    position, number = event
    if log.accepted.setdefault(position, number) != number:
        verdict.forged += 1
        verdict.tell(f"{channel}: {position} was given to {log.accepted[position]} and {number}")
    log.epoch = max(log.epoch, position[0])


def _witness(log: _Log, records: Sequence[Record]) -> None:
    """Learn of a log from what one subscriber saw.

    Who asked for everything retained, and was given an event and then one of a later epoch without
    a gap between, shows that the first one was still there when the later epoch had begun.
    """
    replayed: list[Position] = []
    asked_for_all = False
    for record in records:
        match record:
            case Joined(position):
                asked_for_all = position == _BEGINNING  # others may be made up: nothing is learned
            case Event((epoch, _) as position):
                if asked_for_all and replayed and replayed[-1][0] < epoch:
                    for other in replayed:
                        log.kept[other] = max(epoch, log.kept.get(other, 0))
                replayed.append(position)
                log.epoch = max(log.epoch, epoch)
            case Gap(_, (epoch, _)):
                asked_for_all = False
                log.epoch = max(log.epoch, epoch)


class _Walk:
    """One subscriber's way through one channel."""

    def __init__(self, who: str, channel: str, log: _Log, verdict: Verdict) -> None:
        self._where = f"{who} on {channel}"
        self._log = log
        self._order = sorted(log.accepted)
        self._verdict = verdict
        self._at: Position | None = None
        self._moved = False  # where it is was said by the server
        self._asked_for_all = False  # and was told of no gap yet
        self._seen: set[Position] = set()
        self._numbers: dict[int, int] = {}  # a number, and how many gaps there were before it
        self._gaps = 0
        self._missed: set[Position] = set()

    def along(self, records: Sequence[Record]) -> None:
        for record in records:
            match record:
                case Joined(position):
                    self._at = position
                    self._asked_for_all = position == _BEGINNING
                case Event(position, number):
                    self._event(position, number)
                case Gap(since, to):
                    self._gap(since, to)
        if self._at is None:
            return
        behind = self._between(self._at, None)
        if self._asked_for_all:
            behind = [position for position in behind if position[0] == self._log.epoch]
        self._lose(behind, "never came")

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
        self._step(self._at, position)
        expected = self._log.accepted.get(position, number)
        if number != expected:
            verdict.forged += 1
            verdict.tell(f"{self._where}: {position} is {number}, not {expected}")
        before = self._numbers.get(number)
        if before == self._gaps:
            verdict.doubled += 1
            verdict.tell(f"{self._where}: event {number} twice, again at {position}")
        elif before is not None:
            verdict.again += 1
        self._numbers[number] = self._gaps
        self._seen.add(position)
        self._at = position
        self._moved = True
        verdict.delivered += 1

    def _step(self, at: Position, position: Position) -> None:
        """From one event, or place, to the next event."""
        skipped = [other for other in self._between(at, position) if other != position]
        crosses = position[0] != at[0]
        if crosses and self._asked_for_all:
            # What an engine lost with an epoch's end is not retained.
            at = (position[0], 0)
            skipped = [other for other in skipped if other > at]
        elif crosses:
            self._break(f"from {at} to {position} without a gap")
        if skipped:
            self._lose(skipped, f"skipped between {at} and {position}")
        elif position[0] == at[0] and position[1] != at[1] + 1:
            self._verdict.lost += 1
            self._verdict.tell(f"{self._where}: a hole between {at} and {position}")

    def _gap(self, since: Position, to: Position) -> None:
        if since != self._at and not self._is_brought_on(since):
            self._break(f"a gap from {since}, but the client was at {self._at}")
        back = to < since
        if to == since or (back and to[0] == since[0] and self._moved):
            self._break(f"a gap from {since} to {to}")
        within = self._between(since, None if back else to)
        if not back:
            kept = [position for position in within if self._log.kept.get(position, 0) >= to[0]]
            self._lose(kept, f"retained, but left out by the gap from {since} to {to}")
        self._cover(within)
        self._verdict.gaps += 1
        self._gaps += 1
        self._asked_for_all = False
        self._at = to
        self._moved = True

    def _is_brought_on(self, since: Position) -> bool:
        """Whether all that was retained ended with an epoch, and the next has no event yet."""
        return self._asked_for_all and self._at is not None and self._at < since and since[1] == 0

    def _cover(self, positions: Sequence[Position]) -> None:
        missing = [p for p in positions if p not in self._seen and p not in self._missed]
        self._missed.update(missing)
        self._verdict.covered += len(missing)

    def _between(self, since: Position, to: Position | None) -> list[Position]:
        """Accepted positions behind the first, up to and with the second."""
        first = bisect_right(self._order, since)
        last = len(self._order) if to is None else bisect_right(self._order, to)
        return self._order[first:last]

    def _lose(self, positions: Sequence[Position], how: str) -> None:
        lost = [p for p in positions if p not in self._missed and p not in self._seen]
        self._missed.update(lost)
        self._verdict.lost += len(lost)
        if lost:
            self._verdict.tell(f"{self._where}: {len(lost)} {how}, the first {lost[0]}")

    def _break(self, what: str) -> None:
        self._verdict.broken += 1
        self._verdict.tell(f"{self._where}: {what}")
