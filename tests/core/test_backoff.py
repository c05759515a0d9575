"""Waiting before another attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.backoff import full_jitter


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_the_wait_is_a_share_of_a_bounded_time(attempt: int, chance: float) -> None:
    wait = full_jitter(attempt, chance, base=0.05, cap=2.0)
    assert 0 <= wait <= 2.0 * chance
    assert wait <= full_jitter(attempt + 1, chance, base=0.05, cap=2.0)


@pytest.mark.parametrize(
    ("attempt", "wait"), [(0, 0.05), (1, 0.1), (2, 0.2), (5, 1.6), (6, 2.0), (99, 2.0)]
)
def test_the_time_doubles_up_to_its_cap(attempt: int, wait: float) -> None:
    assert full_jitter(attempt, 1.0, base=0.05, cap=2.0) == pytest.approx(wait)
