"""Whether a peer is alive: when to ping it, and what to do when its timer fires.

Peers that came in one storm, or that all answered one event, would all be pinged in one wave, and
their pongs would keep them in step from then on. So each peer has moments of its own, two an
interval, and is pinged at the last of them that is not too late. A silent peer is pinged once an
interval, as it would be without; how evenly the moments lie, its number decides.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

_GOLDEN = 0.6180339887498949
"""The golden ratio's fraction: the multiples of it, modulo 1, of any run of numbers lie as evenly
as can be (Knuth, The Art of Computer Programming 3, 6.4)."""


class Beat(Enum):
    """What to do with a connection now."""

    WAIT = "wait"
    PING = "ping"
    REAP = "reap"


class Pulse(NamedTuple):
    """`beat` now, and look again at time `at`."""

    beat: Beat
    at: float


def ping_due(seen: float, serial: int, interval: float) -> float:
    """When to ping peer number `serial`, whose last sign of life was at `seen`.

    Later than half an interval after that, which spares those who have just spoken, and never
    later than the whole of it.
    """
    step = interval / 2
    latest = seen + interval
    return latest - (latest - serial * _GOLDEN % 1.0 * step) % step


def check_pulse(
    now: float, seen: float, serial: int, pinged: bool, interval: float, timeout: float
) -> Pulse:
    """Decide for peer number `serial`, whose last sign of life was at `seen`.

    It is pinged when that is due (`ping_due`), and reaped when it was silent for
    `interval + timeout`. `pinged`: a ping went out since `seen`.
    """
    if now >= seen + interval + timeout:
        return Pulse(Beat.REAP, now)
    due = ping_due(seen, serial, interval)
    if now < due:
        return Pulse(Beat.WAIT, due)
    return Pulse(Beat.WAIT if pinged else Beat.PING, seen + interval + timeout)
