"""The checker sees each kind of failure, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.chaos.books import Event, Gap, Joined, PublisherBook, Record, SubscriberBook
from tests.chaos.checker import Verdict, check

CHANNEL = "user:alice"


def _verdict(
    *walks: list[Record],
    accepted: list[str] | None = None,
    witnesses: Sequence[list[Record]] = (),
    **rules: Any,
) -> Verdict:
    publisher = PublisherBook()
    given = ["1-1", "1-2", "1-3", "1-4"] if accepted is None else accepted
    for number, position in enumerate(given, 1):
        publisher.accept(CHANNEL, position, number)
    books = [SubscriberBook("s", {CHANNEL: walk}) for walk in walks]
    books += [SubscriberBook("w", {CHANNEL: walk}, late=True) for walk in witnesses]
    return check([publisher], books, **rules)


def _e(seq: int, number: int | None = None, epoch: int = 1) -> Event:
    return Event((epoch, seq), seq if number is None else number)


START = Joined((1, 0))
FOR_ALL = Joined((0, 0))
NEXT = Event((2, 1), 9)
ALL: list[Record] = [START, _e(1), _e(2), _e(3), _e(4)]


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (ALL, {"delivered": 4}),
        ([Joined((1, 2)), _e(3), _e(4)], {"delivered": 2}),
        ([Joined((1, 4))], {}),
        ([*ALL, _e(3), _e(4)], {"delivered": 4, "repeated": 2}),
        # an event whose publisher had no answer
        ([*ALL, _e(5)], {"delivered": 5}),
        ([FOR_ALL, *ALL[1:]], {"delivered": 4}),
        ([START, _e(1), Gap((1, 1), (1, 3)), _e(4)], {"delivered": 2, "gaps": 1, "covered": 2}),
        ([*ALL[:3], Gap((1, 2), (2, 0)), NEXT], {"delivered": 3, "gaps": 1, "covered": 2}),
        ([*ALL, Gap((1, 4), (2, 0)), NEXT], {"delivered": 5, "gaps": 1, "covered": 0}),
        # nothing came after it
        ([*ALL[:3], Gap((1, 2), (2, 0))], {"gaps": 1, "covered": 2}),
        ([*ALL, Gap((1, 4), (2, 0)), Gap((2, 0), (3, 0))], {"delivered": 4, "gaps": 2}),
        # a slow clock began the log anew
        ([*ALL[:3], Gap((1, 2), (0, 5)), Event((0, 6), 9)], {"gaps": 1, "covered": 2}),
        # who asked for what is retained is told of no end of an epoch, and of no event lost with it
        ([FOR_ALL, *ALL[1:], NEXT], {"delivered": 5, "gaps": 0}),
        ([FOR_ALL, *ALL[1:3], NEXT], {"delivered": 3, "gaps": 0}),
        ([FOR_ALL, *ALL[1:], Gap((2, 0), (3, 0)), Event((3, 1), 9)], {"delivered": 5, "gaps": 1}),
        # lost by the engine and repeated by its publisher
        (
            [*ALL, _e(5), Gap((1, 5), (2, 0)), Event((2, 1), 5)],
            {"delivered": 6, "gaps": 1, "again": 1},
        ),
    ],
    ids=["all", "from later on", "from the end on", "seen again", "unanswered", "all retained",
         "gap", "epoch", "epoch after all that it had", "no event in the new epoch", "two epochs",
         "clock gone back", "retained epochs", "what is left of them", "the latest one is empty",
         "repeated over a gap"],
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
        ([*ALL, Gap((1, 4), (2, 0)), Event((2, 2), 9)], {"lost": 1}),
        # announced only after something later
        ([START, _e(1), _e(4), Gap((1, 4), (2, 0))], {"lost": 2}),
        # an epoch's end is told where it is: not before the last events of the epoch, …
        ([*ALL[:3], Gap((1, 2), (1, 2)), _e(3), _e(4), NEXT], {"broken": 2}),
        ([*ALL[:3], Gap((1, 2), (2, 0)), _e(3), _e(4), NEXT], {"misordered": 2}),
        ([*ALL[:3], Gap((1, 2), (1, 2)), NEXT], {"lost": 2, "broken": 2}),
        ([*ALL[:3], Gap((1, 2), (1, 2))], {"lost": 2, "broken": 1}),
        # … not for the end of an earlier one, …
        ([START, Gap((1, 0), (1, 2)), _e(3), NEXT], {"lost": 1, "broken": 1}),
        # … and from where the client is
        ([*ALL, Gap((1, 4), (2, 0)), Gap((3, 0), (4, 0))], {"broken": 1}),
        ([*ALL, Gap((1, 4), (1, 2))], {"broken": 1}),
        # all that is retained has no holes within an epoch
        ([FOR_ALL, _e(2), _e(3), _e(4)], {"lost": 1}),
        ([FOR_ALL, *ALL[1:], Event((2, 2), 9)], {"lost": 1}),
        ([FOR_ALL, *ALL[1:3]], {"lost": 2}),
        # and who asked for it is told of later losses like everybody
        ([FOR_ALL, *ALL[1:], Gap((1, 4), (2, 0)), NEXT, Event((3, 1), 10)], {"broken": 1}),
        ([_e(1), *ALL], {"broken": 1}),
    ],
    ids=["the last", "everything", "in the middle", "a hole", "order", "double", "payload",
         "another epoch", "gap from elsewhere", "hole behind a gap",
         "hole in the new epoch", "too late", "before the epoch's last events",
         "over the epoch's last events", "before what the epoch lost", "of nothing",
         "of an earlier loss", "from further on", "back within an epoch", "not from the beginning",
         "hole in a retained epoch", "not to the end", "unannounced behind a gap",
         "before the welcome"],
)  # fmt: skip
def test_what_breaks_them_is_seen(records: list[Record], found: dict[str, Any]) -> None:
    _is_seen(_verdict(records), found)


def _is_seen(verdict: Verdict, found: dict[str, int]) -> None:
    assert not verdict.holds
    wrong = ("lost", "doubled", "misordered", "forged", "broken")
    assert {name: count for name in wrong if (count := getattr(verdict, name))} == found
    assert verdict.examples


def test_what_a_gap_covers_though_the_engine_has_it_is_lost() -> None:
    late: list[Record] = [FOR_ALL, *ALL[1:4], NEXT]
    # 1-2 and 1-3 were still there when the second epoch had begun; 1-4 was lost with the first.
    over: list[Record] = [START, _e(1), Gap((1, 1), (2, 0)), NEXT]
    verdict = _verdict(over, late)
    assert (verdict.lost, verdict.covered, verdict.broken) == (2, 1, 0), verdict
    # One that reached into a third epoch may have been told after a second loss.
    over = [START, _e(1), Gap((1, 1), (3, 0))]
    verdict = _verdict(over, late)
    assert verdict.holds, verdict
    assert verdict.covered == 3


def test_one_position_for_two_events_is_seen() -> None:
    assert _verdict(ALL, accepted=["1-1", "1-2", "1-3", "1-4", "1-4"]).forged == 1


ALL_OF_IT = [FOR_ALL, *ALL[1:]]
OVER_ALL = [START, _e(1), Gap((1, 1), (2, 0)), NEXT]
NO_MORE_THAN_ONE = [START, _e(1), Gap((1, 1), (2, 0))]


@pytest.mark.parametrize(
    ("records", "witnesses", "rules"),
    [
        (ALL, [ALL_OF_IT, ALL_OF_IT], {"keeps": True}),
        ([*ALL, Gap((1, 4), (2, 0)), NEXT], [[*ALL_OF_IT, NEXT]], {"keeps": True}),
        # seen on the wire twice
        (ALL, [[*ALL_OF_IT, _e(3), _e(4)]], {"keeps": True}),
        # an engine that lost the end of an epoch, or all of it
        ([*ALL[:3], Gap((1, 2), (2, 0)), NEXT], [[FOR_ALL, _e(1), _e(2), NEXT]], {}),
        ([*ALL, Gap((1, 4), (2, 0)), NEXT], [[FOR_ALL, NEXT], [FOR_ALL, NEXT]], {}),
        # trimmed to two events
        ([START, _e(1), Gap((1, 1), (1, 2)), _e(3), _e(4)], [[FOR_ALL, _e(3), _e(4)]],
         {"history": 2}),
        ([START, *ALL[1:]], [[FOR_ALL, *ALL[1:]]], {"history": 9}),
    ],
    ids=["all", "over epochs", "seen again", "an epoch's end lost", "an epoch lost", "trimmed",
         "not yet trimmed"],
)  # fmt: skip
def test_witnesses_who_have_what_is_retained_hold(
    records: list[Record], witnesses: list[list[Record]], rules: dict[str, Any]
) -> None:
    verdict = _verdict(records, witnesses=witnesses, **rules)
    assert verdict.holds, verdict


@pytest.mark.parametrize(
    ("records", "witnesses", "rules", "found"),
    [
        (ALL, [ALL_OF_IT[:-1]], {}, {"lost": 1}),
        (ALL, [[FOR_ALL]], {}, {"lost": 4}),
        (ALL, [[FOR_ALL, _e(2), _e(3), _e(4)]], {}, {"lost": 1}),
        (ALL, [[FOR_ALL, _e(1), _e(4)]], {}, {"lost": 2}),
        (ALL, [[FOR_ALL, _e(1), _e(3), _e(2), _e(4)]], {}, {"lost": 1, "misordered": 1}),
        (ALL, [[*ALL_OF_IT, _e(5, 4)]], {}, {"doubled": 1}),
        (ALL, [[FOR_ALL, _e(1), _e(2, 7), _e(3), _e(4)]], {}, {"forged": 1}),
        # what one has, the other must have
        ([*ALL, Gap((1, 4), (2, 0)), NEXT], [[*ALL_OF_IT, NEXT], [FOR_ALL, _e(1), NEXT]], {},
         {"lost": 3}),
        ([*ALL, Gap((1, 4), (2, 0))], [ALL_OF_IT, [FOR_ALL]], {}, {"lost": 4}),
        # and nobody is told a gap instead
        (OVER_ALL, [[*ALL_OF_IT, NEXT]], {}, {"lost": 3}),
        (NO_MORE_THAN_ONE, [ALL_OF_IT], {}, {"lost": 3}),
        ([*NO_MORE_THAN_ONE, Gap((2, 0), (3, 0))], [ALL_OF_IT], {}, {"lost": 3}),
        # an engine that keeps everything has it for everybody
        (ALL, [[FOR_ALL, _e(1), _e(2), NEXT]], {"keeps": True}, {"lost": 2}),
        (OVER_ALL, [[FOR_ALL, _e(1), NEXT]], {"keeps": True}, {"lost": 6}),
        # nothing is lost any more
        (ALL, [[*ALL_OF_IT, Gap((1, 4), (2, 0))]], {}, {"broken": 1}),
        # trimmed to more than it had
        (ALL, [[FOR_ALL, _e(4)]], {"history": 2}, {"lost": 1}),
        (ALL, [[FOR_ALL, _e(2), _e(4)]], {"history": 3}, {"lost": 1}),
        (ALL, [[FOR_ALL, _e(3)]], {"history": 2}, {"lost": 1}),
        ([START, _e(1), Gap((1, 1), (1, 3)), _e(4)], [[FOR_ALL, _e(3), _e(4)]], {"history": 2},
         {"lost": 1}),
    ],
    ids=["the last", "everything", "the first", "in the middle", "order", "double", "payload",
         "of an ended epoch", "with no event behind it", "told as a gap", "told as the last gap",
         "told as a gap over two epochs", "not kept", "not kept, and a gap", "a gap",
         "trimmed too far", "a hole in what is retained", "the last, and trimmed",
         "a gap over what is retained"],
)  # fmt: skip
def test_what_witnesses_lack_is_seen(
    records: list[Record],
    witnesses: list[list[Record]],
    rules: dict[str, Any],
    found: dict[str, int],
) -> None:
    _is_seen(_verdict(records, witnesses=witnesses, **rules), found)


TWO_LOGS = ["1-1", "1-2", "2-1", "2-2"]
"""Of the old primary, and of the new one that began at 1-1."""
THERE = [START, _e(1), Gap((1, 1), (2, 0)), _e(1, 3, 2)]
AND_BACK = [*THERE, Gap((2, 1), (1, 0)), _e(1), _e(2)]


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([*AND_BACK, Gap((1, 2), (2, 0)), _e(1, 3, 2), _e(2, 4, 2)],
         {"delivered": 4, "repeated": 2, "covered": 0, "gaps": 3}),
        # where it stays, it was told
        (AND_BACK, {"delivered": 3, "repeated": 1, "covered": 1}),
        # stored there and not copied, and repeated by its publisher
        ([*AND_BACK, _e(3, 4), Gap((1, 3), (2, 0)), _e(1, 3, 2), _e(2, 4, 2)],
         {"delivered": 5, "again": 1}),
    ],
    ids=["there and back", "not back", "stored on both sides"],
)  # fmt: skip
def test_who_is_led_from_one_log_to_another_and_back_misses_nothing(
    records: list[Record], found: dict[str, int]
) -> None:
    verdict = _verdict(records, accepted=TWO_LOGS)
    assert verdict.holds, verdict
    assert {name: getattr(verdict, name) for name in found} == found


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([*THERE, Gap((2, 1), (1, 0)), _e(1), Gap((1, 1), (2, 0)), _e(1, 3, 2)], {"lost": 1}),
        ([*AND_BACK[:-1], _e(3, 9), Gap((1, 3), (2, 0)), _e(1, 3, 2), _e(2, 4, 2)], {"lost": 1}),
        ([*AND_BACK, Gap((1, 2), (2, 0)), _e(1, 3, 2), _e(3, 9, 2)], {"lost": 1}),
        ([*THERE, Gap((2, 1), (1, 0)), _e(1), _e(2), _e(2, 4, 2)], {"broken": 1}),
        ([*AND_BACK, Gap((1, 1), (2, 0)), _e(1, 3, 2), _e(2, 4, 2)], {"broken": 1}),
    ],
    ids=["the last", "skipped there", "skipped on the way back", "unannounced", "from elsewhere"],
)  # fmt: skip
def test_what_gets_lost_on_that_way_is_seen(records: list[Record], found: dict[str, int]) -> None:
    _is_seen(_verdict(records, accepted=TWO_LOGS), found)
