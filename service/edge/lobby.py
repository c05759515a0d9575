"""Who makes room where no more connections can be held.

A connection costs its client nothing but one of ours: a crowd that opens many and says nothing, or
asks for something and stays, would keep everybody else out, and take the files that the links to
the engine need. So the last places go to whoever came last: those make room who have not asked for
anything yet, the oldest first, and then those who are idle, the longest first. Who is being served
stays, and so does a WebSocket.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Set
from typing import Protocol

_SHARE = 16
"""Of those who are idle, one in so many makes room at once: looking for them takes a while."""


class Guest(Protocol):
    """A connection that speaks HTTP, or has not spoken."""

    @property
    def idle_since(self) -> float:
        """When its last answer was complete; infinite while it is not idle."""

    def make_room(self) -> None:
        """Go, at once; it is no guest any more when this returns."""


class Lobby:
    """Of one port."""

    def __init__(self, places: int = 0, taken: Callable[[], int] = lambda: 0) -> None:
        """`places`: of all connections; 0: no limit. `taken`: those that are not for guests."""
        self._places = places
        self._taken = taken
        self._silent: OrderedDict[Guest, None] = OrderedDict()

    def enter(self, guest: Guest, guests: Set[Guest]) -> None:
        """One more has come; `guests`: all of them, with this one."""
        if not self._places:
            return
        self._silent[guest] = None
        if len(guests) + self._taken() <= self._places:
            return
        if len(self._silent) == 1 and self._send_away_idle(guests):
            return
        oldest, _ = self._silent.popitem(last=False)
        oldest.make_room()

    def leave(self, guest: Guest) -> None:
        """It has asked for something, or has gone."""
        self._silent.pop(guest, None)

    def _send_away_idle(self, guests: Set[Guest]) -> bool:
        idle = [guest for guest in guests if guest.idle_since != float("inf")]
        longest = heapq.nsmallest(len(idle) // _SHARE + 1, idle, key=lambda g: g.idle_since)
        for guest in longest:
            guest.make_room()
        return bool(longest)
