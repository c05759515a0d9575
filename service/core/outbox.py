"""How much may wait to be sent to one connection."""

from __future__ import annotations


def overflows(waiting: int, added: int, budget: int) -> bool:
    """Whether `added` more bytes are too many for a connection with `waiting` unsent ones.

    An empty outbox takes any single write, or an event larger than the budget could never be
    delivered.
    """
    return waiting > 0 and waiting + added > budget
