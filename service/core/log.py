"""What is read from a channel's log, and what a position is worth against it.

How losses are found. Within an epoch the log is contiguous, so that what a page leaves out has
expired. Something may be missing in three places only, each of which a page shows by itself: behind
a position whose followers are trimmed, where one epoch ends and the next begins (an epoch ends when
the engine lost data or was promoted, and what it lost at the end cannot be known), and behind a
position that the log does not know. `read_on` puts the gap exactly there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from service.core.position import BEGINNING, Position


class Entry(NamedTuple):
    """One retained event. `fragment` is the JSON that follows its id (see `core.event`)."""

    position: Position
    fragment: bytes


def weigh(entries: Iterable[Entry]) -> int:
    """Bytes of JSON."""
    return sum(len(entry.fragment) for entry in entries)


class Page(NamedTuple):
    """A piece of a log, read in one atomic step.

    Attributes:
        tip: the last position given out; `<epoch>-0` in a log without events.
        first: the first retained event, or None where none is.
        entries: events after the asked place, oldest first; those whose time to live has passed
            are left out.
        end: the page covers everything from the asked place to here.
        complete: whether `end` is the tip.
    """

    tip: Position
    first: Position | None
    entries: list[Entry]
    end: Position
    complete: bool


class Gap(NamedTuple):
    """Something after `since` may be missing; events follow from `to` on."""

    since: Position
    to: Position


Piece = Entry | Gap
"""What a reader is told."""


def count_gaps(pieces: Iterable[Piece]) -> int:
    """How many of them are gaps; the others are events."""
    return sum(1 for piece in pieces if isinstance(piece, Gap))


class Reading(NamedTuple):
    """What a reader is given from a page.

    Attributes:
        pieces: events and, where something may be missing, gaps; in the order to be told.
        at: where the reader then stands.
    """

    pieces: Sequence[Piece]
    at: Position


class Resumption(NamedTuple):
    """What a client's position is worth.

    Attributes:
        exact: nothing between the position and the tip can be missing.
        start: the place after which events follow.
    """

    exact: bool
    start: Position


def assess(since: Position, tip: Position, first: Position | None) -> Resumption:
    """Hold a position against a log that reaches from `first` to `tip`.

    Exact while the event after `since` is retained, or `since` is the tip; also for `0-0`, which
    asks for what is retained and thus misses nothing. A position of another epoch is not exact,
    wherever the gap then is. Everything retained after the position follows all the same; a
    position beyond the tip, which this log never gave out, gets everything.
    """
    floor = _floor(tip, first)
    if since == BEGINNING:
        return Resumption(True, floor)
    if since > tip:
        return Resumption(False, floor)
    if since == tip or (since.epoch == tip.epoch and floor <= since):
        return Resumption(True, since)
    return Resumption(False, max(since, floor))


def read_on(at: Position, page: Page, until: Position = BEGINNING) -> Reading:
    """What follows for a reader who has everything up to `at`.

    The page was read at `at` or before it; from the beginning where `at` is beyond its tip, a place
    that this log never gave out. A gap begins at the last position that the reader was given, and
    ends before the next event, or where the page ends if none comes: who keeps that place is not
    told of the same loss again.

    `until`: an epoch that begins up to here is no gap. A reader that asked for what is retained
    misses nothing where an epoch of it ends: for that one it is the tip that the log had then.
    """
    tip, first, entries, end, _ = page
    floor = _floor(tip, first)
    if at.epoch == tip.epoch and floor <= at <= tip:
        if entries and entries[0].position <= at:
            entries = [entry for entry in entries if entry.position > at]
        return Reading(entries, max(at, end))
    pieces: list[Piece] = []
    here = at  # the log is dealt with up to here; `at` is what the reader was given
    lost = False
    if at > tip or at < floor:
        lost = at != BEGINNING
        here = floor
    for entry in entries:
        position = entry.position
        if position <= here:
            continue
        if position.epoch != here.epoch:
            here = position.epoch_start()
            lost = lost or here > until
        if lost:
            pieces.append(Gap(at, here))
            lost = False
        pieces.append(entry)
        at = here = position
    if end.epoch > here.epoch:
        lost = lost or end.epoch_start() > until
    here = max(here, end)
    if lost:
        pieces.append(Gap(at, here))
    return Reading(pieces, here)


def _floor(tip: Position, first: Position | None) -> Position:
    """The place before everything retained."""
    return tip if first is None else first.before()
