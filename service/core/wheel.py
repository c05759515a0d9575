"""One timer wheel for all connections (Varghese & Lauck, SOSP 1987, scheme 6).

An item has at most one timer. Setting, moving and cancelling one is O(1), and a turn costs what is
due, not what is waiting. A time beyond the wheel's horizon is kept in the farthest slot and moved
on when that comes round, so the horizon limits nothing. Items remember their slot themselves
(`Timed`), so a timer costs one set entry.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """An item with a timer. Owned by the wheel: `slot` is -1 where no timer is set."""

    slot: int
    due: float


T = TypeVar("T", bound=Timed)


class Wheel(Generic[T]):
    """Timers with a resolution of `tick` seconds. Time is whatever clock `now` is read from."""

    def __init__(self, now: float, tick: float, slots: int = 512) -> None:
        self._tick = tick
        self._slots: list[set[T]] = [set() for _ in range(slots)]
        self._origin = now
        self._turned = 0  # ticks done since the origin
        # Out of their slots, and not dealt with yet.
        self._late: deque[T] = deque()
        self._early: list[T] = []

    def __len__(self) -> int:
        return sum(len(slot) for slot in self._slots)

    def schedule(self, item: T, due: float) -> None:
        """Set or move the timer of `item` to `due`; a past time fires at the next turn."""
        size = len(self._slots)
        # Rounded up: a timer never fires early.
        ticks = -int(-(due - self._origin) // self._tick)
        ticks = min(max(ticks, self._turned + 1), self._turned + size - 1)
        slot = ticks % size
        if item.slot != slot:
            if item.slot >= 0:
                self._slots[item.slot].discard(item)
            self._slots[slot].add(item)
            item.slot = slot
        item.due = due

    def cancel(self, item: T) -> None:
        """Take the timer of `item` away, if it has one."""
        if item.slot >= 0:
            self._slots[item.slot].discard(item)
            item.slot = -1

    def advance(self, now: float) -> deque[T]:
        """Turn the wheel up to `now` and give back what is due; each such timer is gone.

        The queue is the wheel's own, so that nothing is forgotten where it cannot be dealt with at
        once: take from its left, what is left there is due still. An item in it may have been
        cancelled or have a new timer meanwhile. And where a turn fails for want of memory, the next
        one does what that one left; an item may then be in the queue twice.
        """
        target = int((now - self._origin) // self._tick)
        size = len(self._slots)
        last = min(target, self._turned + size)  # after a long stall, one whole turn is enough
        late, early = self._late, self._early
        for ticks in range(self._turned + 1, last + 1):
            index = ticks % size
            for item in self._slots[index]:
                item.slot = -1
                (late if item.due <= now else early).append(item)
            # A new one even where it is empty: a set keeps the table of its largest time.
            self._slots[index] = set()
            self._turned = ticks
        self._turned = max(self._turned, target)
        while early:  # they were beyond the horizon
            if early[-1].slot < 0:
                self.schedule(early[-1], early[-1].due)
            early.pop()
        return late
