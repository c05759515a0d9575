"""How the connections of a stopping node are spread over time."""

from __future__ import annotations

import math
from typing import NamedTuple

_BATCH_SECONDS = 0.1
_LEAST_RATE = 100.0  # connections a second: no need to spread a few over the whole time
_SHARE = 0.8  # of the time; the rest is for the last ones to answer and for requests in flight


class Batch(NamedTuple):
    """Close `size` connections, `delay` seconds after the batch before."""

    delay: float
    size: int


def plan_drain(connections: int, seconds: float, chances: list[float]) -> list[Batch]:
    """Spread `connections` closes over at most 0.8 × `seconds`, at least 100 a second.

    `chances` are random numbers in [0, 1), used in turn to move each batch within its slot, so
    that nodes that stop together do not beat together.
    """
    if connections <= 0:
        return []
    spread = min(seconds * _SHARE, connections / _LEAST_RATE)
    count = max(1, min(connections, math.ceil(spread / _BATCH_SECONDS)))
    slot = spread / count
    batches: list[Batch] = []
    previous = 0.0
    for index in range(count):
        size = connections * (index + 1) // count - connections * index // count
        chance = chances[index % len(chances)] if chances else 0.5
        at = (index + chance) * slot
        batches.append(Batch(at - previous, size))
        previous = at
    return batches
