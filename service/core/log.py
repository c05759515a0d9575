"""What is read from a channel's log, and what a position is worth against it."""

from __future__ import annotations

from collections.abc import Iterable
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


class Resumption(NamedTuple):
    """What a client's position is worth.

    Attributes:
        exact: nothing between the position and `start` can be missing.
        start: the place after which events follow; safe to store.
    """

    exact: bool
    start: Position


def assess(
    since: Position, tip: Position, first: Position | None, crossed: int | None = None
) -> Resumption:
    """Hold a position against a log that reaches from `first` to `tip`.

    Exact while the event after `since` is retained, or `since` is the tip; also for `0-0`, which
    asks for what is retained and thus misses nothing. A position of another epoch is not exact:
    an epoch ends when the engine lost data or was promoted, and what it lost at the end of the old
    epoch cannot be known. Everything retained after the position follows all the same; a position
    beyond the tip, which this log never gave out, gets everything.

    `crossed`: an epoch into which the reader was already told to have crossed with a gap, so that
    reading on from the old epoch's entries is not told again.
    """
    floor = tip if first is None else first.before()
    if since == BEGINNING:
        return Resumption(True, floor)
    if since > tip:
        return Resumption(False, floor)
    same_line = since.epoch == tip.epoch or crossed == tip.epoch
    if since == tip or (same_line and floor <= since):
        return Resumption(True, since)
    return Resumption(False, max(since, floor))


def resume(since: Position, page: Page, crossed: int | None = None) -> Resumption:
    """As `assess`, for a page that was read at or before `since`.

    Where a loss is to be told and nothing that is retained follows, the place is the log's end: a
    client that keeps it resumes from there exactly, and is not told of the same loss again.
    """
    found = assess(since, page.tip, page.first, crossed)
    if found.exact or not page.complete:
        return found
    if page.entries and page.entries[-1].position > found.start:
        return found
    return Resumption(False, page.tip)
