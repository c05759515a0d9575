"""What one HTTP connection may hold, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_RATE = 500
"""Bytes a second. Whoever sends a body, or reads an answer, at this rate is no matter how slow: a
time limit alone would cut off honest clients on bad lines, or be no limit for a byte now and then.
"""


@dataclass(frozen=True, slots=True)
class HttpPolicy:
    """Seconds and bytes.

    Attributes:
        head_timeout: for a request's head; a new connection's begins when it is made.
        max_head_bytes: of a head, and of a trailer section. More than the pieces in which the guard
            takes what was read (4 KiB): it counts those whole.
        unread_timeout: how long answers wait for a client that reads less than `LEAST_RATE`.
    """

    head_timeout: float = 10.0
    max_head_bytes: int = 64 * 1024
    unread_timeout: float = 30.0
