"""How a server under fuzz is started."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fuzz.amount import IS_LONG


@pytest.fixture(scope="module", autouse=True)
def _without_the_loops_debug_mode() -> Iterator[None]:
    """In a long run it would be most of what a server does; a usual one keeps it."""
    debug = os.environ.pop("PYTHONASYNCIODEBUG", None) if IS_LONG else None
    yield
    if debug is not None:
        os.environ["PYTHONASYNCIODEBUG"] = debug
