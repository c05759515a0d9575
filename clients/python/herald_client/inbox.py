"""Between the connection and the application's loop: what was received and is not dealt with.

Positions move here only when the application comes back for more, which says that it has dealt
with what it was given. The connection's side is one event loop; the application may be in another
thread, so both sides touch only what is atomic (a deque's ends, a flag) or their own. Whoever waits
looks again after it was woken, so it may be woken once too often, but never too rarely.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from herald_client.events import Event, Gap

Item = Event | Gap


class Moved(NamedTuple):
    """Positions that are held or forgotten without an event."""

    joined: Mapping[str, str]
    left: Sequence[str]


class Turn:
    """One loop at a time: each of two would miss what the other gets.

    Raises:
        RuntimeError: on entering, where another one waits.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("Two loops wait for one subscription: make one for each.")

    def __exit__(self, *raised: object) -> None:
        self._lock.release()


class Inbox:
    """A queue with room for `limit` events and gaps.

    Attributes:
        wake_reader: called when something was put, or the end came.
        wake_writer: called when there is room again.
        positions: where the application stands, by channel.
        turn: entered by who wants the next item.
    """

    def __init__(self, limit: int, positions: Mapping[str, str]) -> None:
        self.wake_reader: Callable[[], None] = _nothing
        self.wake_writer: Callable[[], None] = _nothing
        self.positions = dict(positions)
        self.turn = Turn()
        self.ended = False
        self._limit = limit
        self._dropped = False
        self._items: deque[Item | Moved] = deque()
        self._given: Item | None = None
        self._error: BaseException | None = None

    # The connection's side

    @property
    def is_full(self) -> bool:
        """Wait for `wake_writer` before anything more is put."""
        return len(self._items) >= self._limit

    def put(self, item: Item | Moved) -> None:
        """Add something behind the rest."""
        self._items.append(item)
        self.wake_reader()

    def end(self, error: BaseException | None) -> None:
        """Nothing more will come. Where there is an error, it is raised after the rest."""
        if not self.ended:
            self._error = error
            self.ended = True
            self.wake_reader()

    # The application's side

    def came_back(self) -> None:
        """The application wants more, so it has dealt with what it was given."""
        given, self._given = self._given, None
        if given is not None:
            self.positions[given.channel] = given.position

    def first(self) -> Item | None:
        """What is next, or None: wait for `wake_reader`. It stays until it is taken."""
        while self._items and not self._dropped:
            item = self._items[0]
            if not isinstance(item, Moved):
                return item
            self.positions.update(item.joined)
            for channel in item.left:
                self.positions.pop(channel, None)
            self._pop()
        return None

    def take(self) -> None:
        """Give the first item to the application."""
        item = self._items[0]
        assert not isinstance(item, Moved)
        self._given = item
        self._pop()

    def is_over(self) -> bool:
        """Whether everything was given and nothing more will come.

        Raises:
            The error that ended it.
        """
        if self._dropped:
            return True
        if not self.ended or self._items:
            return False
        if self._error is not None:
            raise self._error
        return True

    def drop(self) -> None:
        """The application wants nothing more; from any thread."""
        self._dropped = True
        self.end(None)
        self.wake_reader()

    def _pop(self) -> None:
        self._items.popleft()
        if len(self._items) >= self._limit - 1:
            self.wake_writer()


def _nothing() -> None:
    pass
