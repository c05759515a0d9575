"""The timer wheel against a plain list of due times, in virtual time."""

from __future__ import annotations

import contextlib
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.wheel import Wheel
from tests.harness.starving import needs_starving, starve

START = 1_000.0
SLOTS = 8


class Item:
    def __init__(self) -> None:
        self.slot = -1
        self.due = 0.0


def _take(wheel: Wheel[Item], now: float) -> list[Item]:
    queue = wheel.advance(now)
    fired = list(queue)
    queue.clear()
    return fired


delays = st.floats(-5, 60, allow_nan=False)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 5), delays),
        st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0.0)),
        st.tuples(st.just("pass"), st.just(0), st.floats(0, 1.5)),
        st.tuples(st.just("stall"), st.just(0), st.floats(0, 200)),
    ),
    min_size=5,
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(steps, st.sampled_from([0.25, 0.1, 1.0, 0.3]))
def test_timers_fire_once_and_never_early_and_at_most_a_tick_late(
    steps: list[tuple[str, int, float]], tick: float
) -> None:
    wheel: Wheel[Item] = Wheel(START, tick, SLOTS)
    items = [Item() for _ in range(6)]
    model: dict[Item, float] = {}
    now = START
    for step, index, seconds in [*steps, ("stall", 0, 70.0), ("stall", 0, 70.0)]:
        item = items[index]
        if step == "set":
            wheel.schedule(item, now + seconds)
            model[item] = now + seconds
        elif step == "cancel":
            wheel.cancel(item)
            model.pop(item, None)
        else:
            before, now = now, now + seconds
            fired = _take(wheel, now)
            assert len(fired) == len(set(fired))
            for item in fired:
                assert model.pop(item) <= now
            # One that is past when it is set waits for the next tick, whenever that is.
            missed = [due for due in model.values() if max(due, before) + tick * 1.001 <= now]
            assert missed == []
        assert len(wheel) == len(model)
        assert all((item.slot >= 0) == (item in model) for item in items)
    assert model == {}


@pytest.mark.parametrize("due", [1.0, 7.0, 8.0, 9.0, 64.0, 1_000.0])
def test_a_timer_beyond_the_horizon_fires_at_its_time(due: float) -> None:
    wheel: Wheel[Item] = Wheel(0.0, 1.0, SLOTS)
    item = Item()
    wheel.schedule(item, due)
    now = 0.0
    while not (fired := _take(wheel, now)):
        assert now < due
        now += 1.0
    assert (now, fired) == (due, [item])


def test_a_moved_timer_fires_at_its_new_time_only() -> None:
    wheel: Wheel[Item] = Wheel(0.0, 1.0, SLOTS)
    item = Item()
    wheel.schedule(item, 2.0)
    wheel.schedule(item, 5.0)
    assert _take(wheel, 4.0) == []
    assert _take(wheel, 5.0) == [item]
    assert _take(wheel, 50.0) == []


def test_a_fired_timer_can_be_set_again() -> None:
    wheel: Wheel[Item] = Wheel(0.0, 1.0, SLOTS)
    item = Item()
    for now in (3.0, 6.0, 400.0):
        wheel.schedule(item, now)
        assert _take(wheel, now) == [item]


def test_cancelling_what_has_no_timer_does_nothing() -> None:
    wheel: Wheel[Item] = Wheel(0.0, 1.0, SLOTS)
    item = Item()
    wheel.cancel(item)
    wheel.schedule(item, 1.0)
    _take(wheel, 1.0)
    wheel.cancel(item)
    assert len(wheel) == 0


def test_a_clock_that_stands_still_loses_nothing() -> None:
    wheel: Wheel[Item] = Wheel(0.0, 1.0, SLOTS)
    item = Item()
    _take(wheel, 3.0)
    wheel.schedule(item, 2.0)
    assert _take(wheel, 3.0) == []
    assert _take(wheel, 4.0) == [item]


@needs_starving
def test_no_timer_is_lost_where_a_turn_has_no_memory() -> None:
    for number in range(1_000):
        wheel: Wheel[Item] = Wheel(0.0, 1.0, SLOTS)
        items = [Item() for _ in range(8)]
        for item, due in zip(items, (1.0, 1.0, 2.0, 2.0, 3.0, 9.0, 40.0, 41.0), strict=True):
            wheel.schedule(item, due)
        starved = True
        with contextlib.suppress(MemoryError):
            starved = starve(number, 1, partial(wheel.advance, 3.0))
        fired = [set(_take(wheel, now)) for now in (3.0, 4.0, 9.0, 40.0, 41.0)]
        assert fired == [set(items[:5]), set(), {items[5]}, {items[6]}, {items[7]}]
        if not starved:
            break
    assert number > 5
