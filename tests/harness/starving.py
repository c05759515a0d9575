"""Allocations that fail, one at a time or from one on: CPython's own hook for such tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest

ALL = 0
_PLENTY = 100_000
_LARGE = 600
"""Bytes: more than the allocator of small objects gives, which has some in store."""

needs_starving = pytest.mark.skipif(
    importlib.util.find_spec("_testcapi") is None,
    reason="no module _testcapi, with which memory is taken away: it is not part of every Python",
)


def starve(first: int, count: int, work: Callable[[], object]) -> bool:
    """Do `work` while the allocation with the number `first` fails, and `count` - 1 behind it.

    Returns whether that was one of its own; with `ALL` nobody knows, and it is False.

    Raises:
        What `work` raises.
    """
    import _testcapi

    _testcapi.set_nomemory(first, 0 if count == ALL else first + count)
    try:
        work()
        try:
            for _ in range(_PLENTY):
                bytes(_LARGE)
        except MemoryError:
            return False
        return True
    finally:
        _testcapi.remove_mem_hooks()
