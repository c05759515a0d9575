"""A drain closes everyone, in time, neither all at once nor slower than need be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.drain import Batch, plan_drain

chances = st.lists(st.floats(0, 1, exclude_max=True), max_size=20)


@given(st.integers(1, 50_000), st.floats(0, 300), chances)
def test_everyone_is_closed_within_four_fifths_of_the_time(
    connections: int, seconds: float, chances: list[float]
) -> None:
    plan = plan_drain(connections, seconds, chances)
    assert sum(batch.size for batch in plan) == connections
    assert all(batch.size > 0 and batch.delay >= 0 for batch in plan)
    took = sum(batch.delay for batch in plan)
    assert took <= 0.8 * seconds * (1 + 1e-9)
    assert took <= connections / 100 * (1 + 1e-9)  # at least 100 a second


@given(st.integers(1_000, 50_000), st.floats(10, 300), chances)
def test_no_batch_is_much_larger_than_the_others(
    connections: int, seconds: float, chances: list[float]
) -> None:
    sizes = [batch.size for batch in plan_drain(connections, seconds, chances)]
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) >= 50


def test_chances_move_the_batches() -> None:
    early, late = plan_drain(5_000, 30, [0.0]), plan_drain(5_000, 30, [0.9])
    assert early[0].delay == 0.0
    assert late[0].delay > 0.05


@pytest.mark.parametrize("connections", [0, -1])
def test_nobody_needs_no_plan(connections: int) -> None:
    assert plan_drain(connections, 30, [0.5]) == []


def test_no_time_closes_all_at_once() -> None:
    assert plan_drain(500, 0, [0.5]) == [Batch(0.0, 500)]
