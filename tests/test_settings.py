"""A setting that is wrong is told in words for the one who wrote it, and never with its value."""

from __future__ import annotations

import pytest

from service.settings import SettingsError, load_settings


def problem(name: str, value: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings({name: value})
    (text,) = caught.value.problems
    assert not value.strip() or value not in text.partition(" has a bad value: ")[2]
    return text


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HERALD_JWT_SECERT", "HERALD_JWT_SECRET"),
        ("HERALD_PROT", "HERALD_PORT"),
        ("HERALD_REDISURL", "HERALD_REDIS_URL"),
        ("HERALD_ALLOWED_ORIGIN", "HERALD_ALLOWED_ORIGINS"),
        ("HERALD_JWT_SECERT_FILE", "HERALD_JWT_SECRET_FILE"),
        ("HERALD_APIKEY", "HERALD_API_KEY"),
    ],
)
def test_a_mistyped_name_is_told_what_was_meant(name: str, meant: str) -> None:
    assert problem(name, "a value").endswith(f" Did you mean {meant}?")


@pytest.mark.parametrize("name", ["HERALD_FOO", "HERALD_COLOUR", "HERALD_SERVICE_HOST"])
def test_a_name_like_no_other_is_told_nothing_of_the_kind(name: str) -> None:
    assert "Did you mean" not in problem(name, "a value")


BYTES = "it is a number of bytes, as 65536 or 64KiB"
SECONDS = "it is a number of seconds, as 25 or 0.5"
WHOLE = "it is a whole number"
EMPTY = "it is empty; set it, or leave it unset"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HERALD_SEND_QUEUE_BYTES", "1XB", BYTES),
        ("HERALD_MAX_HEAD_BYTES", "1.5MB", BYTES),
        ("HERALD_MAX_EVENT_BYTES", "large", BYTES),
        ("HERALD_HEARTBEAT_INTERVAL", "25s", SECONDS),
        ("HERALD_HEAD_TIMEOUT", "a minute", SECONDS),
        ("HERALD_JWT_LEEWAY", "x", SECONDS),
        ("HERALD_DRAIN_SECONDS", "1m", SECONDS),
        ("HERALD_HISTORY_SIZE", "1k", WHOLE),
        ("HERALD_API_PORT", "http", WHOLE),
        ("HERALD_MAX_CONNECTIONS", "many", WHOLE),
        ("HERALD_PORT", "", EMPTY),
        ("HERALD_JWT_SECRET", "", EMPTY),
        ("HERALD_DRAIN_SECONDS", "", EMPTY),
    ],
)
def test_a_bad_value_is_told_what_it_must_be(name: str, value: str, said: str) -> None:
    assert problem(name, value) == f"{name} has a bad value: {said}."


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65536), ("64KiB", 65536), ("64 kib", 65536), ("1MB", 1_000_000), ("1k", 1000)],
)
def test_the_forms_that_are_told_are_taken(text: str, size: int) -> None:
    assert load_settings({"HERALD_SEND_QUEUE_BYTES": text}).send_queue_bytes == size
