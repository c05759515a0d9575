"""A feed's single decisions; what they add up to is in test_feed_and_log.py."""

from __future__ import annotations

from service.core.feed import CaughtUp, Feed, Push
from service.core.log import Entry, Gap, Page
from service.core.position import Position

EPOCH = 5


def at(seq: int, epoch: int = EPOCH) -> Position:
    return Position(epoch, seq)


def entry(seq: int, epoch: int = EPOCH, size: int = 1) -> Entry:
    return Entry(at(seq, epoch), b"x" * size)


def page(*seqs: int, tip: int, first: int = 1) -> Page:
    entries = [entry(seq) for seq in seqs]
    return Page(at(tip), at(first), entries, at(tip), True)


def test_pushes_are_next_seen_or_a_hole() -> None:
    feed = Feed(at(3))
    assert feed.pushed(entry(4)) is Push.NEXT
    assert feed.position == at(4)
    assert feed.pushed(entry(4)) is Push.SEEN
    assert feed.pushed(entry(1)) is Push.SEEN
    assert feed.pushed(entry(6)) is Push.HOLE
    assert feed.pushed(entry(1, EPOCH + 1)) is Push.HOLE
    assert feed.pushed(entry(9, EPOCH - 1)) is Push.HOLE
    assert feed.position == at(4)


def test_a_hole_is_filled_from_the_log_and_what_was_kept() -> None:
    feed = Feed(at(3))
    feed.watch()
    feed.pushed(entry(5))
    feed.pushed(entry(6))
    caught = feed.caught_up(at(3), page(4, 5, tip=5))
    assert caught == CaughtUp([entry(4), entry(5), entry(6)], again=False)
    assert feed.position == at(6)


def test_a_late_page_brings_nothing_twice() -> None:
    feed = Feed(at(3))
    feed.watch()
    feed.pushed(entry(4))
    feed.pushed(entry(5))
    assert feed.caught_up(at(3), page(4, tip=4)) == CaughtUp([], again=False)
    assert feed.position == at(5)


def test_a_trimmed_hole_is_a_gap() -> None:
    feed = Feed(at(3))
    caught = feed.caught_up(at(3), page(8, 9, tip=9, first=8))
    assert caught == CaughtUp([Gap(at(3), at(7)), entry(8), entry(9)], again=False)


def test_a_log_that_went_back_is_begun_anew() -> None:
    feed = Feed(at(3))
    old = Page(at(2, 4), at(1, 4), [], at(2, 4), True)
    assert feed.caught_up(at(3), old) == CaughtUp([Gap(at(3), at(0, 4))], again=True)
    assert feed.position == at(0, 4)


def test_an_epoch_ends_behind_what_is_left_of_it() -> None:
    feed = Feed(at(3))
    part = Page(at(1, 6), at(1), [entry(4)], at(4), complete=False)
    assert feed.caught_up(at(3), part) == CaughtUp([entry(4)], again=True)
    assert feed.position == at(4)
    rest = Page(at(1, 6), at(1), [entry(5), entry(1, 6)], at(1, 6), complete=True)
    told = [entry(5), Gap(at(5), at(0, 6)), entry(1, 6)]
    assert feed.caught_up(at(4), rest) == CaughtUp(told, again=False)
    assert feed.position == at(1, 6)


def test_a_new_epoch_is_told_before_it_has_events_and_not_again_with_its_first() -> None:
    feed = Feed(at(3))
    empty = Page(at(0, 6), at(1), [], at(0, 6), complete=True)
    assert feed.caught_up(at(3), empty) == CaughtUp([Gap(at(3), at(0, 6))], again=False)
    assert feed.caught_up(at(0, 6), empty) == CaughtUp([], again=False)
    assert feed.pushed(entry(1, 6)) is Push.NEXT


def test_a_push_of_a_new_epoch_waits_for_what_the_old_one_has_left() -> None:
    feed = Feed(at(3))
    feed.watch()
    assert feed.pushed(entry(1, 6)) is Push.HOLE
    read_before = page(4, tip=4)
    assert feed.caught_up(at(3), read_before) == CaughtUp([entry(4)], again=True)
    feed.forget_ahead()
    both = Page(at(1, 6), at(1), [entry(1, 6)], at(1, 6), complete=True)
    told = [Gap(at(4), at(0, 6)), entry(1, 6)]
    assert feed.caught_up(at(4), both) == CaughtUp(told, again=False)


def test_a_page_that_was_read_for_a_joiner_does_not_change() -> None:
    feed = Feed(at(3))
    feed.watch()
    feed.pushed(entry(5))
    read = page(4, tip=4)
    assert feed.caught_up(at(3), read).pieces == [entry(4), entry(5)]
    assert read.entries == [entry(4)]


def test_what_lies_ahead_is_forgotten_before_the_log_is_read_again() -> None:
    feed = Feed(at(3))
    feed.watch()
    feed.pushed(entry(4))
    feed.pushed(entry(9))
    assert feed.caught_up(at(4), page(tip=4)).again
    feed.forget_ahead()
    assert not feed.caught_up(at(4), page(tip=4)).again
    assert feed.tail(at(3)) == [entry(4)]


def test_a_tail_is_complete_or_none() -> None:
    feed = Feed(at(3))
    feed.pushed(entry(4))
    feed.watch()
    feed.pushed(entry(5))
    feed.pushed(entry(6))
    assert feed.tail(at(6)) == []
    assert feed.tail(at(4)) == [entry(5), entry(6)]
    assert feed.tail(at(3)) is None


def test_nothing_is_kept_without_watchers() -> None:
    feed = Feed(at(3))
    feed.watch()
    feed.watch()
    feed.pushed(entry(4))
    feed.unwatch()
    assert feed.tail(at(3)) == [entry(4)]
    feed.unwatch()
    assert not feed._recent
    feed.pushed(entry(5))
    assert not feed._recent


def test_what_is_kept_is_bounded() -> None:
    feed = Feed(at(0))
    feed.watch()
    for seq in range(1, 50):
        feed.pushed(entry(seq, size=100_000))
    assert sum(len(kept.fragment) for kept in feed._recent) <= 1 << 20
    assert feed.tail(at(48)) == [entry(49, size=100_000)]
    assert feed.tail(at(1)) is None
