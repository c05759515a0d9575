"""What a position is worth against a log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.log import Entry, Gap, Page, Piece, Resumption, assess, read_on
from service.core.position import BEGINNING, Position


def at(text: str) -> Position:
    epoch, seq = text.split("-")
    return Position(int(epoch), int(seq))


@pytest.mark.parametrize(
    ("since", "first", "tip", "exact", "start"),
    [
        ("5-4", "5-4", "5-9", True, "5-4"),
        ("5-3", "5-4", "5-9", True, "5-3"),  # the next one is retained
        ("5-2", "5-4", "5-9", False, "5-3"),  # the next one is trimmed
        ("5-9", "5-4", "5-9", True, "5-9"),
        ("5-9", None, "5-9", True, "5-9"),
        ("5-8", None, "5-9", False, "5-9"),  # all is trimmed
        ("5-10", "5-4", "5-9", False, "5-3"),  # never given out: everything
        ("6-1", "5-4", "5-9", False, "5-3"),
        ("5-0", None, "5-0", True, "5-0"),  # an empty log
        ("4-7", None, "5-0", False, "5-0"),  # a new epoch
        ("4-7", "4-2", "5-0", False, "4-7"),  # the old one's end may be lost
        ("4-7", "4-2", "5-3", False, "4-7"),
        ("4-7", "4-9", "5-3", False, "4-8"),
        ("0-0", "4-2", "5-3", True, "4-1"),
        ("0-0", "5-1", "5-3", True, "5-0"),
        ("0-0", None, "5-3", True, "5-3"),
    ],
)
def test_table(since: str, first: str | None, tip: str, exact: bool, start: str) -> None:
    resumption = assess(at(since), at(tip), at(first) if first else None)
    assert resumption == Resumption(exact, at(start))


def test_beginning_is_before_every_log() -> None:
    assert assess(BEGINNING, at("5-0"), None) == Resumption(True, at("5-0"))


def entry(text: str) -> Entry:
    return Entry(at(text), b"")


def gap(text: str) -> Gap:
    since, to = text.split(">")
    return Gap(at(since), at(to))


def page(entries: str, tip: str, *, first: str = "4-2", end: str | None = None) -> Page:
    """A complete page, unless it has an `end`."""
    found = [entry(text) for text in entries.split()]
    return Page(at(tip), at(first), found, at(end or tip), end is None)


@pytest.mark.parametrize(
    ("since", "read", "told"),
    [
        # one epoch
        ("5-3", page("5-4 5-5", "5-5", first="5-1"), "5-4 5-5"),
        ("5-3", page("5-2 5-3 5-4", "5-4", first="5-1"), "5-4"),  # read for another as well
        ("5-3", page("5-6", "5-7", first="5-1"), "5-6"),  # the others have expired
        ("5-3", page("5-9", "5-9", first="5-8"), "5-3>5-7 5-9"),  # trimmed
        ("5-3", page("", "5-9", first="5-8"), "5-3>5-9"),  # and nothing is left
        ("5-3", page("", "5-9", first="5-7", end="5-8"), "5-3>5-8"),  # as far as is known
        # where an epoch ends
        ("4-7", page("4-8 4-9 5-1 5-2", "5-2"), "4-8 4-9 4-9>5-0 5-1 5-2"),
        ("4-9", page("5-1", "5-1"), "4-9>5-0 5-1"),
        ("4-20", page("5-1", "5-1"), "4-20>5-0 5-1"),  # the old epoch's end is lost
        ("3-5", page("4-2 5-1", "5-1"), "3-5>4-1 4-2 4-2>5-0 5-1"),
        ("4-0", page("4-3 5-1", "5-1", first="4-3"), "4-0>4-2 4-3 4-3>5-0 5-1"),  # trimmed before
        ("4-3", page("5-2", "5-2", first="5-2"), "4-3>5-1 5-2"),  # trimmed wholly
        ("4-3", page("4-4 6-1 8-1", "8-1"), "4-4 4-4>6-0 6-1 6-1>8-0 8-1"),
        ("4-8", page("5-3", "5-3"), "4-8>5-0 5-3"),  # the first ones have expired
        # a new epoch without events
        ("4-7", page("4-8 4-9", "5-0"), "4-8 4-9 4-9>5-0"),
        ("4-9", page("", "5-0"), "4-9>5-0"),
        ("4-7", page("4-8", "5-3"), "4-8 4-8>5-3"),  # or whose events have expired
        ("4-7", page("4-8", "6-1", end="5-1"), "4-8 4-8>5-1"),
        # a page that ends where the epoch does
        ("4-7", page("4-8 4-9", "5-1", end="4-9"), "4-8 4-9"),
        ("4-7", page("", "5-1", end="4-9"), ""),  # expired
        # who stored where a gap ends
        ("5-0", page("5-1 5-2", "5-2"), "5-1 5-2"),
        ("5-0", page("", "5-0"), ""),
        # never given out: everything, read from the beginning
        ("9-9", page("4-2 4-3 5-1", "5-1"), "9-9>4-1 4-2 4-3 4-3>5-0 5-1"),
        ("5-9", page("5-1", "5-1", first="5-1"), "5-9>5-0 5-1"),
        ("9-9", Page(at("5-0"), None, [], at("5-0"), True), "9-9>5-0"),
    ],
)  # fmt: skip
def test_the_gap_stands_where_something_may_be_missing(since: str, read: Page, told: str) -> None:
    reading = read_on(at(since), read)
    assert list(reading.pieces) == _pieces(told)
    assert reading.at == read.end
    # None of it is told again to who stored the last place.
    assert not read_on(reading.at, read).pieces


def _pieces(text: str) -> list[Piece]:
    return [gap(piece) if ">" in piece else entry(piece) for piece in text.split()]


@pytest.mark.parametrize(
    ("since", "read", "told"),
    [
        ("0-0", page("4-2 4-3 5-1", "5-1"), "4-2 4-3 5-1"),
        ("0-0", page("5-4", "5-4", first="5-4"), "5-4"),
        ("0-0", page("4-2", "5-0"), "4-2"),
        ("0-0", Page(at("5-0"), None, [], at("5-0"), True), ""),
        # its later pages
        ("4-3", page("4-4 5-1", "5-1"), "4-4 5-1"),
        ("4-3", page("4-9 5-1", "5-1", first="4-9"), "4-3>4-8 4-9 5-1"),  # trimmed meanwhile
        ("4-3", page("5-2", "5-2", first="5-2"), "4-3>5-1 5-2"),
        ("4-3", page("4-4 5-1 6-1", "6-1"), "4-4 5-1 5-1>6-0 6-1"),  # promoted meanwhile
        ("4-3", page("4-4", "6-0"), "4-4 4-4>6-0"),
    ],
)
def test_who_asks_for_what_is_retained_misses_nothing_where_an_epoch_of_it_ended(
    since: str, read: Page, told: str
) -> None:
    assert list(read_on(at(since), read, until=at("5-7")).pieces) == _pieces(told)


runs = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.booleans(), max_size=5)), min_size=1, max_size=4
)
"""Epochs: how many events were trimmed or lost, and of each one that is left whether it lives."""


@given(runs, st.integers(0, 20), st.integers(1, 4), st.booleans())
def test_however_a_log_is_cut_into_pages_the_same_is_told(
    log: list[tuple[int, list[bool]]], place: int, size: int, lossy_start: bool
) -> None:
    """And what is told is the log, with gaps where its epochs begin and nowhere else."""
    stored: list[tuple[Entry, bool]] = []
    for epoch, (lost, alive) in enumerate(log, 4):
        # Only the first epoch's beginning can be trimmed: what lies before it is gone as well.
        start = 1 + (lost if not stored and lossy_start else 0)
        stored += [(entry(f"{epoch}-{start + n}"), lives) for n, lives in enumerate(alive)]
    epoch = 3 + len(log)
    last = stored[-1][0].position if stored else at(f"{epoch}-0")
    tip = last if last.epoch == epoch else at(f"{epoch}-0")
    first = stored[0][0].position if stored else None
    places = [at("3-3"), *(one.position for one, _ in stored), tip]
    since = here = places[place % len(places)]
    told: list[Piece] = []
    while here != tip:
        later = [(one, lives) for one, lives in stored if one.position > here]
        cut = later[:size]
        end = cut[-1][0].position if len(cut) < len(later) else tip
        read = Page(tip, first, [one for one, lives in cut if lives], end, end == tip)
        reading = read_on(here, read)
        told += reading.pieces
        here = reading.at
    whole = [one for one, lives in stored if lives and one.position > since]
    assert [piece for piece in told if isinstance(piece, Entry)] == whole
    own = since
    for piece in told:
        if isinstance(piece, Gap):
            assert own <= piece.since  # what lies between has expired
            assert not [one for one in whole if own < one.position <= piece.to]
            assert piece.since.epoch < piece.to.epoch
            own = piece.to
        else:
            assert own.epoch == piece.position.epoch
            own = piece.position
    assert own.epoch == tip.epoch
