"""Errors that carry something beside their text."""

from __future__ import annotations

from service.core.errors import EventTooLarge, IdempotencyConflict, InvalidMessage, Overloaded


def test_what_errors_carry() -> None:
    assert EventTooLarge(100).limit == 100
    assert "100 bytes" in str(EventTooLarge(100))
    assert InvalidMessage("word", "text").code == "word"
    assert Overloaded("text", retry_after=7).retry_after == 7


def test_a_conflict_on_many_channels_has_a_short_text() -> None:
    channels = [f"topic:{number}" for number in range(1_000)]
    conflict = IdempotencyConflict(channels)
    assert conflict.channels == channels
    assert "topic:9" in str(conflict)
    assert "topic:10" not in str(conflict)
