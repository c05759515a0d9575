"""Errors are told on: between processes, and to people who may not see secrets."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from herald_client import (
    Closed,
    ConfigurationError,
    ConnectionRefused,
    HeraldError,
    IdConflict,
    InvalidEvent,
    LoggedOut,
    Published,
    Publisher,
    Rejected,
    SomeNotPublished,
    TokenRefused,
    Unavailable,
    subscribe,
)

ERRORS: list[HeraldError] = [
    Closed("Closed."),
    ConfigurationError("Wrong."),
    InvalidEvent("No JSON."),
    Rejected("No.", status=400, problem={"detail": "No."}, id="i", attempts=2),
    IdConflict("Known.", status=422, problem={"channels": ["all"]}, id="i"),
    Unavailable("Away.", problem={"stored": {"all": "5-1"}}),
    SomeNotPublished([Published("a", {"all": "5-1"}, False), Rejected("No.", id="b")]),
    ConnectionRefused(4101, "too many connections"),
    TokenRefused("expired"),
    LoggedOut(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("how", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_survives_the_way_to_another_process(error: HeraldError, how: Any) -> None:
    """Celery and process pools pickle what is raised."""
    again = how(error)
    assert type(again) is type(error)
    assert (str(again), again.args) == (str(error), error.args)
    assert repr(vars(again)) == repr(vars(error))


@pytest.mark.parametrize("url", ["s3cret", "s3cret:x", "http://u:s3cret@h", "http://h:s3cret"])
def test_a_secret_in_the_wrong_place_is_in_no_text(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Publisher(url, "http://127.0.0.1:8000")
    assert "s3cret" not in str(raised.value)
    with pytest.raises(ConfigurationError) as raised:
        subscribe(url.replace("u:s3cret@h", "h:s3cret"), "http://h", on_gap=print)
    assert "s3cret" not in str(raised.value)
