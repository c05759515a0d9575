"""Whether a peer is alive: what to do when its timer fires."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Beat(Enum):
    """What to do with a connection now."""

    WAIT = "wait"
    PING = "ping"
    REAP = "reap"


class Pulse(NamedTuple):
    """`beat` now, and look again at time `at`."""

    beat: Beat
    at: float


def check_pulse(now: float, seen: float, pinged: bool, interval: float, timeout: float) -> Pulse:
    """Decide for a peer whose last sign of life was at `seen`.

    It is pinged when it was silent for `interval`, and reaped when it was silent for
    `interval + timeout`. `pinged`: a ping went out since `seen`.
    """
    if now >= seen + interval + timeout:
        return Pulse(Beat.REAP, now)
    if now < seen + interval:
        return Pulse(Beat.WAIT, seen + interval)
    return Pulse(Beat.WAIT if pinged else Beat.PING, seen + interval + timeout)
