"""What a position is worth against a log."""

from __future__ import annotations

import pytest

from service.core.log import Entry, Page, Resumption, assess, resume
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


def test_a_crossing_is_told_once() -> None:
    first, tip = at("4-2"), at("5-3")
    assert assess(at("4-7"), tip, first, crossed=5) == Resumption(True, at("4-7"))
    assert assess(at("4-7"), tip, first, crossed=4) == Resumption(False, at("4-7"))
    # What is trimmed on the way is told all the same.
    assert assess(at("4-0"), tip, first, crossed=5) == Resumption(False, at("4-1"))


def test_beginning_is_before_every_log() -> None:
    assert assess(BEGINNING, at("5-0"), None) == Resumption(True, at("5-0"))


@pytest.mark.parametrize(
    ("entries", "complete", "start"),
    [
        ([], True, "5-0"),
        (["4-8"], True, "4-7"),
        (["4-6", "4-7"], True, "5-0"),  # read before it
        ([], False, "4-7"),
    ],
    ids=["nothing follows", "something follows", "all was seen", "not all is known"],
)
def test_a_loss_behind_which_nothing_follows_ends_at_the_tip(
    entries: list[str], complete: bool, start: str
) -> None:
    kept = [Entry(at(text), b"") for text in entries]
    page = Page(at("5-0"), at("4-2"), kept, at("5-0"), complete)
    assert resume(at("4-7"), page) == Resumption(False, at(start))
    assert resume(at(start), page).exact == (start == "5-0")
