"""`python -m tests.chaos.skewed serve`: Herald, whose wall clock can be put wrong.

SIGUSR1 puts it five minutes ahead of the right time, SIGUSR2 five minutes behind, SIGWINCH right.
"""

from __future__ import annotations

import datetime
import signal
import time
from types import FrameType

import jwt.api_jwt

from service.cli import main

AHEAD, BEHIND, RIGHT = signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH
_SKEWS = {AHEAD: 300.0, BEHIND: -300.0, RIGHT: 0.0}
_right_time = time.time
_skew = 0.0


class _SkewedDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> _SkewedDatetime:
        return cls.fromtimestamp(_skewed_time(), tz)


def _skewed_time() -> float:
    return _right_time() + _skew


def _put(signal_number: int, frame: FrameType | None) -> None:
    global _skew
    _skew = _SKEWS[signal.Signals(signal_number)]


if __name__ == "__main__":
    time.time = _skewed_time
    jwt.api_jwt.datetime = _SkewedDatetime  # type: ignore[attr-defined]  # tokens' clock
    for number in _SKEWS:
        signal.signal(number, _put)
    main()
