"""The checker sees each kind of failure, and nothing where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.books import Event, Gap, Joined, PublisherBook, Record, SubscriberBook
from tests.chaos.checker import Verdict, check

CHANNEL = "user:alice"


def _verdict(records: list[Record], accepted: list[str] | None = None) -> Verdict:
    publisher = PublisherBook()
    given = ["1-1", "1-2", "1-3", "1-4"] if accepted is None else accepted
    for number, position in enumerate(given, 1):
        publisher.accept(CHANNEL, position, number)
    return check([publisher], [SubscriberBook("s", {CHANNEL: records})])


def _e(seq: int, number: int | None = None, epoch: int = 1) -> Event:
    return Event((epoch, seq), seq if number is None else number)


START = Joined((1, 0))
ALL = [START, _e(1), _e(2), _e(3), _e(4)]


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (ALL, {"delivered": 4}),
        ([Joined((1, 2)), _e(3), _e(4)], {"delivered": 2}),
        ([Joined((1, 4))], {}),
        ([*ALL, _e(3), _e(4)], {"delivered": 4, "repeated": 2}),
        # an event whose publisher had no answer
        ([*ALL, _e(5)], {"delivered": 5}),
        ([START, _e(1), Gap((1, 1), (1, 3)), _e(4)], {"delivered": 2, "gaps": 1, "covered": 2}),
        (
            [*ALL[:3], Gap((1, 2), (2, 0)), Event((2, 1), 9)],
            {"delivered": 3, "gaps": 1, "covered": 2},
        ),
        # the log keeps the old epoch's events: what follows the place is the new epoch's first
        ([*ALL[:3], Gap((1, 2), (1, 2)), Event((2, 1), 9)], {"gaps": 1, "covered": 2}),
        # the end of an epoch was lost, nothing came after it
        ([*ALL[:3], Gap((1, 2), (1, 2))], {"gaps": 1, "covered": 2}),
        # lost by the engine and repeated by its publisher
        (
            [*ALL, _e(5), Gap((1, 5), (2, 0)), Event((2, 1), 5)],
            {"delivered": 6, "gaps": 1, "again": 1},
        ),
    ],
    ids=["all", "from later on", "from the end on", "seen again", "unanswered", "gap", "epoch",
         "epoch after what is kept", "the end of an epoch", "repeated over a gap"],
)  # fmt: skip
def test_what_keeps_the_guarantees_holds(records: list[Record], found: dict[str, int]) -> None:
    verdict = _verdict(records)
    assert verdict.holds, verdict
    counts = {name: getattr(verdict, name) for name in found}
    assert counts == found


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (ALL[:-1], {"lost": 1}),
        ([START], {"lost": 4}),
        ([START, _e(1), _e(4)], {"lost": 2}),
        ([*ALL, _e(6)], {"lost": 1}),
        ([START, _e(1), _e(3), _e(2), _e(4)], {"lost": 1, "misordered": 1}),
        ([*ALL, _e(5, 4)], {"doubled": 1}),
        ([START, _e(1), _e(2, 7), _e(3), _e(4)], {"forged": 1}),
        ([*ALL, Event((2, 1), 5)], {"broken": 1}),
        ([*ALL, Gap((1, 2), (2, 0))], {"broken": 1}),
        # after a gap, too, an epoch has no holes
        ([START, Gap((1, 0), (1, 1)), _e(3), _e(4)], {"lost": 1}),
        ([*ALL, Gap((1, 4), (1, 4)), Event((2, 2), 9)], {"lost": 1}),
        # announced only after something later
        ([START, _e(1), _e(4), Gap((1, 4), (1, 4))], {"lost": 2}),
        ([_e(1), *ALL], {"broken": 1}),
    ],
    ids=["the last", "everything", "in the middle", "a hole", "order", "double", "payload",
         "another epoch", "gap from elsewhere", "hole behind a gap",
         "hole in the new epoch", "too late", "before the welcome"],
)  # fmt: skip
def test_what_breaks_them_is_seen(records: list[Record], found: dict[str, Any]) -> None:
    verdict = _verdict(records)
    assert not verdict.holds
    wrong = ("lost", "doubled", "misordered", "forged", "broken")
    assert {name: count for name in wrong if (count := getattr(verdict, name))} == found
    assert verdict.examples


def test_one_position_for_two_events_is_seen() -> None:
    assert _verdict(ALL, ["1-1", "1-2", "1-3", "1-4", "1-4"]).forged == 1
