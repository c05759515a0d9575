"""Positions: their text, and their order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import InvalidPosition
from service.core.position import BEGINNING, Position, parse_position

numbers = st.integers(0, 2**64 - 1)
positions = st.builds(Position, numbers, numbers)


@given(positions)
def test_text_reads_back_as_the_same_position(position: Position) -> None:
    assert parse_position(str(position)) == position


@given(positions, positions)
def test_order_is_epoch_first_then_number(one: Position, other: Position) -> None:
    assert (one < other) == ((one.epoch, one.seq) < (other.epoch, other.seq))
    assert one >= BEGINNING


@given(numbers, st.integers(0, 2**64 - 2))
def test_only_the_next_number_of_an_epoch_follows(epoch: int, seq: int) -> None:
    position = Position(epoch, seq)
    following = Position(epoch, seq + 1)
    assert position.is_followed_by(following)
    assert following.before() == position
    assert following.epoch_start() == (epoch, 0)
    assert not position.is_followed_by(position)
    assert not following.is_followed_by(position)
    assert not position.is_followed_by(Position(epoch, seq + 2))
    assert not position.is_followed_by(Position(epoch + 1, seq + 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "1",
        "1-",
        "-1",
        "1-2-3",
        "01-2",
        "1-02",
        "+1-2",
        "1--2",
        " 1-2",
        "1-2\n",
        "1_0-2",
        "1.0-2",
        "a-b",
        "١-٢",
        f"{2**64}-0",
        f"0-{2**64}",
        "9" * 10_000 + "-1",
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidPosition) as refusal:
        parse_position(text)
    assert len(str(refusal.value)) < 500  # the answer does not repeat a flood
