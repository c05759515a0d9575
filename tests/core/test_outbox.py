"""How much may wait for one connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.outbox import overflows

sizes = st.integers(0, 10_000_000)


@pytest.mark.parametrize(
    ("waiting", "added", "expected"),
    [(0, 100, False), (0, 101, False), (1, 99, False), (1, 100, True), (100, 1, True)],
)
def test_budget_of_100(waiting: int, added: int, expected: bool) -> None:
    assert overflows(waiting, added, 100) is expected


@given(sizes, sizes)
def test_an_empty_outbox_takes_anything(added: int, budget: int) -> None:
    assert not overflows(0, added, budget)


@given(st.lists(sizes, max_size=30), sizes)
def test_what_waits_is_bounded_by_the_budget_or_one_write(sizes: list[int], budget: int) -> None:
    waiting = 0
    for added in sizes:
        if not overflows(waiting, added, budget):
            waiting += added
    assert waiting <= max(budget, *sizes, 0)
