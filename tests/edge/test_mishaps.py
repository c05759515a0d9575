"""What fails here is not blamed on the client."""

from __future__ import annotations

import pytest

from service.core.errors import HeraldError
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


def test_an_error_that_nobody_knows_is_ours() -> None:
    assert problem_of(HeraldError("unheard of")).status == 500
