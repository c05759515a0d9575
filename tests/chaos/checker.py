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
* a gap that leads back is to another log, of an engine with a slow clock or of a second primary:
  what that one has comes again, and what the client had of later epochs is announced as missing
  until another gap leads to them;
* from one epoch to the next leads nothing but a gap between the two, save for who asked for what is
  retained (`0-0`): that one is told of no end of an epoch that came before;
* the same event twice is a double, unless a gap lies between: an engine that lost the first one has
  lost its idempotency key too, and its publisher repeated it.

Witnesses come when everything is over and ask for what is retained. Nothing is lost any more, so:

* they are told of no gap;
* what one of them is given was there for everybody: for the other witnesses, and for whoever was
  told a gap instead;
* an engine that keeps what it accepted (`keeps`) has all of it for them, whatever epochs ended.

Nothing may expire. Where logs are trimmed to so many events (`history`), the log's beginning may be
missing for who asks for all of it, and witnesses get exactly so many, the last ones. Otherwise
every gap is held to be the engine's loss.
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
_FOR_EVER = 1 << 64
"""Later than any epoch."""


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


def check(
    publishers: Iterable[PublisherBook],
    subscribers: Iterable[SubscriberBook],
    *,
    keeps: bool = False,
    history: int | None = None,
) -> Verdict:
    """The verdict, once everything has had time to arrive.

    Args:
        keeps: the engine loses nothing that was accepted.
        history: to how many events a log is trimmed, where it is.
    """
    verdict = Verdict()
    rules = _Rules(keeps, history)
    subscribers = list(subscribers)
    logs: defaultdict[str, _Log] = defaultdict(_Log)
    for publisher in publishers:
        for channel, events in publisher.accepted.items():
            for event in events:
                _accept(channel, logs[channel], event, verdict)
    verdict.accepted = sum(len(log.accepted) for log in logs.values())
    for subscriber in subscribers:
        for channel, records in subscriber.records.items():
            _witness(logs[channel], records, subscriber.late)
    for subscriber in subscribers:
        for complaint in subscriber.complaints:
            verdict.broken += 1
            verdict.tell(f"{subscriber.name}: {complaint}")
        for channel, records in subscriber.records.items():
            walk = _Walk(subscriber, channel, logs[channel], rules, verdict)
            walk.along(records)
    return verdict


@dataclass(frozen=True)
class _Rules:
    """What holds of the engine; see `check`."""

    keeps: bool
    history: int | None


@dataclass
class _Log:
    """What is known of one channel's log.

    Attributes:
        accepted: the numbers of the events that were answered with 202.
        seen: the positions of all events that somebody was given.
        kept: events that survived their epoch, and the latest epoch in which they were there.
        epoch: the highest that somebody saw.
    """

    accepted: dict[Position, int] = field(default_factory=dict)
    seen: set[Position] = field(default_factory=set)
    kept: dict[Position, int] = field(default_factory=dict)
    epoch: int = 0


def _accept(channel: str, log: _Log, event: Accepted, verdict: Verdict) -> None:
    position, number = event
    if log.accepted.setdefault(position, number) != number:
        verdict.forged += 1
        verdict.tell(f"{channel}: {position} was given to {log.accepted[position]} and {number}")
    log.epoch = max(log.epoch, position[0])


def _witness(log: _Log, records: Sequence[Record], late: bool) -> None:
    """Learn of a log from what one subscriber saw.

    Who asked for everything retained, and was given an event and then one of a later epoch without
    a gap between, shows that the first one was still there when the later epoch had begun. Who did
    so when everything was over shows that it was there all the time.
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
                if asked_for_all and late:
                    log.kept[position] = _FOR_EVER
                log.seen.add(position)
                replayed.append(position)
                log.epoch = max(log.epoch, epoch)
            case Gap(_, (epoch, _)):
                asked_for_all = False
                log.epoch = max(log.epoch, epoch)


class _Walk:
    """One subscriber's way through one channel."""

    def __init__(
        self,
        subscriber: SubscriberBook,
        channel: str,
        log: _Log,
        rules: _Rules,
        verdict: Verdict,
    ) -> None:
        self._where = f"{subscriber.name} on {channel}"
        self._late = subscriber.late
        self._log = log
        self._rules = rules
        self._order = sorted(log.accepted)
        self._verdict = verdict
        self._at: Position | None = None
        self._moved = False  # where it is was said by the server
        self._asked_for_all = False  # and was told of no gap yet
        self._seen: set[Position] = set()
        self._numbers: dict[int, int] = {}  # a number, and how many gaps there were before it
        self._gaps = 0
        self._covered: set[Position] = set()  # by gaps, and not promised again since
        self._lost: set[Position] = set()

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
            epoch = self._log.epoch
            behind = [p for p in behind if p[0] == epoch or self._is_retained(p, epoch)]
        self._lose(behind, "never came")
        if self._late and self._rules.history is not None:
            known = sorted(self._log.seen | self._log.accepted.keys())
            self._lose(known[-self._rules.history :], "of what is retained never came")
        self._verdict.covered += len(self._covered - self._seen - self._lost)

    def _event(self, position: Position, number: int) -> None:
        verdict = self._verdict
        if self._at is None:
            self._break("an event before the welcome")
            return
        again = position in self._seen
        if again:
            verdict.repeated += 1
        if position <= self._at:
            if not again:
                verdict.misordered += 1
                verdict.tell(f"{self._where}: {position} came after {self._at}")
            return
        self._step(self._at, position)
        self._at = position
        self._moved = True
        if again:
            return  # a gap led back to where it is
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
        verdict.delivered += 1

    def _step(self, at: Position, position: Position) -> None:
        """From one event, or place, to the next event."""
        skipped = [other for other in self._between(at, position) if other != position]
        crosses = position[0] != at[0]
        if crosses and self._asked_for_all:
            # What an engine lost with an epoch's end is not retained, nor what was trimmed.
            trimmed = self._rules.history is not None and at == _BEGINNING
            at = (position[0], position[1] - 1 if trimmed else 0)
            epoch = position[0]
            skipped = [o for o in skipped if o > at or self._is_retained(o, epoch)]
        elif crosses:
            self._break(f"from {at} to {position} without a gap")
        if skipped:
            self._lose(skipped, f"skipped between {at} and {position}")
        elif position[0] == at[0] and position[1] != at[1] + 1:
            self._verdict.lost += 1
            self._verdict.tell(f"{self._where}: a hole between {at} and {position}")

    def _gap(self, since: Position, to: Position) -> None:
        if self._late:
            self._break(f"a gap from {since} to {to}, when everything was over")
        if since != self._at and not self._is_brought_on(since):
            self._break(f"a gap from {since}, but the client was at {self._at}")
        back = to < since
        if to == since or (back and to[0] == since[0] and self._moved):
            self._break(f"a gap from {since} to {to}")
        # What follows is promised, also to who was told before that it misses it.
        self._covered = {position for position in self._covered if position <= to}
        if back:
            self._covered.update(self._between((to[0], _FOR_EVER), None))
        else:
            within = self._between(since, to)
            kept = [position for position in within if self._is_retained(position, to[0])]
            self._lose(kept, f"retained, but left out by the gap from {since} to {to}")
            self._covered.update(within)
        self._verdict.gaps += 1
        self._gaps += 1
        self._asked_for_all = False
        self._at = to
        self._moved = True

    def _is_brought_on(self, since: Position) -> bool:
        """Whether all that was retained ended with an epoch, and the next has no event yet."""
        return self._asked_for_all and self._at is not None and self._at < since and since[1] == 0

    def _is_retained(self, position: Position, epoch: int) -> bool:
        """Whether an accepted event is known to be there once that epoch has begun."""
        return self._rules.keeps or self._log.kept.get(position, 0) >= epoch

    def _between(self, since: Position, to: Position | None) -> list[Position]:
        """Accepted positions behind the first, up to and with the second."""
        first = bisect_right(self._order, since)
        last = len(self._order) if to is None else bisect_right(self._order, to)
        return self._order[first:last]

    def _lose(self, positions: Sequence[Position], how: str) -> None:
        settled = (self._covered, self._seen, self._lost)
        lost = [position for position in positions if not any(position in s for s in settled)]
        self._lost.update(lost)
        self._verdict.lost += len(lost)
        if lost:
            self._verdict.tell(f"{self._where}: {len(lost)} {how}, the first {lost[0]}")

    def _break(self, what: str) -> None:
        self._verdict.broken += 1
        self._verdict.tell(f"{self._where}: {what}")
