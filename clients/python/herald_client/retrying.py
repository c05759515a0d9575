"""When a request is repeated, and how long to wait before.

Only requests that may be repeated without harm go through here: events carry an id, and the rest
reads, or makes something that nobody misses.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from herald_client.errors import ConfigurationError

ID_SECONDS = 300.0
"""So long the server knows an id (the contract)."""
MAX_DEADLINE = 240.0
"""A repetition must arrive while the server still knows the id, or it would double the event."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient a publisher is.

    Attributes:
        attempt: seconds that one attempt may take.
        deadline: seconds that everything may take, waits included.
        first: bound in seconds of the first wait; it doubles with each failure,
        longest: up to this.
    """

    attempt: float = 10.0
    deadline: float = 30.0
    first: float = 0.1
    longest: float = 5.0

    def __post_init__(self) -> None:
        check_deadline("deadline", self.deadline)
        if not self.attempt > 0:
            raise ConfigurationError(f"`timeout` is more than 0 seconds, not {self.attempt}.")

    def pause(self, failures: int, retry_after: float, chance: float) -> float:
        """Seconds to wait after so many failures; `chance` is in [0, 1).

        Full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015),
        on top of what the server asked for: those that it sent away at one moment come back
        spread out.
        """
        bound = min(self.longest, self.first * 2.0 ** min(failures - 1, 30))
        return retry_after + chance * bound


def check_deadline(name: str, seconds: float) -> None:
    """Raises ConfigurationError unless events may be repeated for so long."""
    if not 0 < seconds <= MAX_DEADLINE:
        raise ConfigurationError(
            f"`{name}` is more than 0 and at most {MAX_DEADLINE:g} seconds, not {seconds}: "
            f"the server knows an event's id for {ID_SECONDS:g} seconds."
        )


@dataclass(slots=True)
class Surroundings:
    """The clock and the chance that the pure parts are given."""

    monotonic: Callable[[], float] = field(default=time.monotonic)
    wall: Callable[[], float] = field(default=time.time)
    chance: Callable[[], float] = field(default=random.random)


def read_retry_after(text: str | None, now: float) -> float:
    """Seconds that the header Retry-After asks for (RFC 9110, 10.2.3); 0 where it says nothing.

    `now` is Unix time: a proxy may have written a date.
    """
    if text is None:
        return 0.0
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, date.timestamp() - now)
