"""What fails here is not blamed on the client."""

from __future__ import annotations

import pytest

from service.core.errors import EngineError, EngineUnavailable, HeraldError
from service.edge.answers import mishap_of, problem_of


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (MemoryError(), 503, ((b"retry-after", b"1"),)),
        (ZeroDivisionError(), 500, ()),
        (KeyError("token"), 500, ()),
    ],
)
def test_a_failure_of_ours(
    error: Exception, status: int, retry: tuple[tuple[bytes, bytes], ...]
) -> None:
    problem = mishap_of(error)
    assert (problem.status, problem.headers) == (status, retry)
    assert str(error) not in problem.detail or not str(error)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EngineUnavailable("The engine's connection was lost."), "The engine is away"),
        (EngineError("OOM command not allowed"), "The engine refuses this at the moment"),
    ],
)
def test_only_events_are_to_be_repeated_with_their_id(error: HeraldError, reason: str) -> None:
    assert problem_of(error).detail == reason + "."
    assert problem_of(error, of_event=True).detail == reason + "; repeat with the same id."
    lack = MemoryError()
    assert mishap_of(lack).detail == "Out of memory here."
    assert mishap_of(lack, of_event=True).detail == "Out of memory here; repeat with the same id."


def test_an_error_that_nobody_knows_is_ours() -> None:
    assert problem_of(HeraldError("unheard of")).status == 500
