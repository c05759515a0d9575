"""How long to wait before the next attempt."""

from __future__ import annotations


def full_jitter(attempt: int, chance: float, *, base: float = 0.05, cap: float = 2.0) -> float:
    """Seconds to wait before attempt number `attempt` (from 0), with full jitter.

    `chance` is a random number in [0, 1). Many clients that lost the same server come back spread
    out (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    return chance * min(cap, base * 2.0 ** min(attempt, 30))
