"""One timer wheel for all connections (Varghese & Lauck, SOSP 1987, scheme 6).

An item has at most one timer. Setting, moving and cancelling one is O(1), and a turn costs what is
due, not what is waiting. A time beyond the wheel's horizon is kept in the farthest slot and moved
on when that comes round, so the horizon limits nothing. Items remember their slot themselves
(`Timed`), so a timer costs one set entry.
"""

from __future__ import annotations

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

    def advance(self, now: float) -> list[T]:
        """Turn the wheel up to `now` and give back what is due; each such timer is gone."""
        target = int((now - self._origin) // self._tick)
        due: list[T] = []
        size = len(self._slots)
        last = min(target, self._turned + size)  # after a long stall, one whole turn is enough
        for ticks in range(self._turned + 1, last + 1):
            index = ticks % size
            # Replaced even where it is empty: a set keeps the table of its largest time.
            slot, self._slots[index] = self._slots[index], set()
            for item in slot:
                item.slot = -1
            due.extend(slot)
        self._turned = max(self._turned, target)
        late: list[T] = []
        for item in due:
            if item.due <= now:
                late.append(item)
            else:
                self.schedule(item, item.due)  # was beyond the horizon
        return late
