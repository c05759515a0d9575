"""The background queue: a thread that publishes what was put there, in batches.

The thread comes with the first event and goes when nothing was put for a while, so a publisher
that nobody closes leaves none behind. What waits when the program ends is still sent then, for a
bounded time (`close_all_at_exit`); what cannot be is reported. A forked child begins with an empty
queue: what the parent put there, the parent sends.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from herald_client.backlog import BATCH_PATH, MAX_BATCH_EVENTS, Backlog, Batch, Settled
from herald_client.callbacks import check_plain
from herald_client.errors import Closed, ConfigurationError, QueueFull, RequestFailed
from herald_client.events import FailedEvent, Outgoing
from herald_client.exchange import Mishap, Outcome, Send
from herald_client.retrying import RetryPolicy, Surroundings, check_deadline

logger = logging.getLogger("herald_client")

_IDLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """How events are collected.

    Attributes:
        size: events that may wait; also the bound on those on their way.
        bytes: of the JSON of those.
        when_full: what `enqueue` does then: wait for room, or raise `QueueFull`.
        max_batch: events of one request.
        linger: seconds that an event may wait for others to go with it.
        keep_trying: seconds after which an event that could not be published is given up.
        exit_timeout: seconds that the end of the program may wait for what is left.
        on_failed: told of each event that was not published, in the queue's thread: a plain
            function, that may call `enqueue` (which waits for no room then), and not `flush` or
            `close`. Without one, the failure is logged as an error.
    """

    size: int = 10_000
    bytes: int = 64 << 20
    when_full: Literal["block", "raise"] = "block"
    max_batch: int = 500
    linger: float = 0.02
    keep_trying: float = 60.0
    exit_timeout: float = 10.0
    on_failed: Callable[[FailedEvent], None] | None = None

    def __post_init__(self) -> None:
        check_deadline("keep_trying", self.keep_trying)
        if self.size < 1 or self.bytes < 1:
            raise ConfigurationError("The queue has room for at least 1 event and 1 byte.")
        if not 1 <= self.max_batch <= MAX_BATCH_EVENTS:
            raise ConfigurationError(f"`max_batch` is 1 to {MAX_BATCH_EVENTS}.")
        if self.when_full not in ("block", "raise"):
            raise ConfigurationError('`when_full` is "block" or "raise".')
        if not (0 <= self.linger < math.inf and 0 <= self.exit_timeout < math.inf):
            raise ConfigurationError("`linger` and `exit_timeout` are 0 seconds or more.")
        check_plain("on_failed", self.on_failed)


class BackgroundQueue:
    """See the module's text. `send` is called in its thread only."""

    def __init__(
        self,
        send: Callable[[Send], Outcome],
        policy: RetryPolicy,
        options: QueueOptions,
        around: Surroundings,
    ) -> None:
        self._send = send
        self._policy = policy
        self._options = options
        self._around = around
        self.forget()
        _live.add(self)

    def forget(self) -> None:
        """Begin anew, empty and without a thread; for a forked child."""
        self._backlog = Backlog(
            self._policy,
            self._around,
            max_batch=self._options.max_batch,
            linger=self._options.linger,
        )
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # the thread waits for events or a time
        self._progress = threading.Condition(self._lock)  # others wait for room, or for emptiness
        self._thread: threading.Thread | None = None
        self._hurried = 0
        self._count = 0
        self._reporting: list[Settled] = []
        self._closed = False
        self._room_listeners: list[Callable[[], None]] = []

    def put(self, event: Outgoing, timeout: float | None = None) -> None:
        """Take an event, waiting for room where the options say so, for at most `timeout` seconds.

        `on_failed` may call it, and waits for nothing: only its own thread makes room.

        Raises:
            QueueFull: there is no room.
            Closed
        """
        with self._lock:
            if self._options.when_full == "block" and not self._is_own_thread():
                self._progress.wait_for(lambda: self._has_room(event) or self._closed, timeout)
            self._take(event)
        self._start()

    def put_or_listen(self, event: Outgoing, listener: Callable[[], None]) -> bool:
        """Take an event, or call `listener` once, from the queue's thread, when there may be room.

        Gives back whether it was taken.

        Raises:
            Closed
        """
        with self._lock:
            if not self._closed and not self._has_room(event):
                self._room_listeners.append(listener)
                return False
            self._take(event)
        self._start()
        return True

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Nobody waits there any more."""
        with self._lock, contextlib.suppress(ValueError):
            self._room_listeners.remove(listener)

    def flush(self, timeout: float | None) -> bool:
        """Wait until all that was put so far is published or failed; False: not in time."""
        with self._hurrying():
            last = self._count
            return self._progress.wait_for(lambda: self._oldest() > last, timeout)

    def close(self, timeout: float | None) -> bool:
        """Take nothing more, flush, and give up what is left; False: something was."""
        with self._hurrying():
            self._closed = True
            self._progress.notify_all()
            done = self._progress.wait_for(lambda: self._oldest() > self._count, timeout)
            left = self._backlog.abandon()
            self._work.notify_all()
            listeners = self._take_listeners()
        _call(listeners)
        self._report(left)
        return done

    def close_at_exit(self, since: float) -> None:
        """Close within the time that the options give for it, which began at `since`."""
        self.close(max(0.0, since + self._options.exit_timeout - time.monotonic()))

    def hurry(self) -> None:
        """From now on nothing lingers."""
        with self._lock:
            self._hurried += 1
            self._work.notify_all()

    @contextlib.contextmanager
    def _hurrying(self) -> Iterator[None]:
        """Holds the lock; while somebody waits, nothing lingers."""
        if self._is_own_thread():
            raise RuntimeError("`on_failed` would wait for itself: flush or close elsewhere.")
        with self._lock:
            self._hurried += 1
            self._work.notify_all()
            try:
                yield
            finally:
                self._hurried -= 1

    def _has_room(self, event: Outgoing) -> bool:
        backlog = self._backlog
        fits = backlog.bytes + len(event.body) <= self._options.bytes
        return backlog.size < self._options.size and (fits or not backlog.size)

    def _take(self, event: Outgoing) -> None:
        if self._closed:
            raise Closed("This publisher was closed.")
        if not self._has_room(event):
            raise QueueFull(
                f"{self._backlog.size} events ({self._backlog.bytes} bytes) wait to be published."
            )
        expires = self._around.monotonic() + self._options.keep_trying
        self._count += 1
        self._backlog.add(event, expires, self._count)
        if self._backlog.size == 1 or self._backlog.has_full_batch:
            self._work.notify_all()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="herald-publisher", daemon=True)
            self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is ending and starts no more threads: send it here and now.
            with self._lock:
                self._thread = threading.current_thread()
            self._run(stay=False)

    def _run(self, *, stay: bool = True) -> None:
        while (batch := self._next_batch(stay)) is not None:
            request = Send("POST", BATCH_PATH, batch.body, batch.timeout)
            try:
                outcome = self._send(request)
            except Exception as error:  # whatever it is, those who wait must not wait for ever
                outcome = Mishap(f"Nothing could be sent: {type(error).__name__}: {error}.")
            with self._lock:
                settled = self._backlog.settle(outcome)
                self._reporting = settled
            self._conclude(settled)

    def _next_batch(self, stay: bool) -> Batch | None:
        """Wait for it; None: the thread is not needed any more. `stay`: not as soon as it idles."""
        patience = _IDLE_SECONDS if stay else 0.0
        idle_since = time.monotonic()
        while True:
            with self._lock:
                late = self._backlog.expire()
                self._reporting = late
                if not late:
                    step = self._backlog.next(hurry=self._hurried > 0 or not stay)
                    if isinstance(step, Batch):
                        return step
                    if step is not None:
                        self._work.wait(max(0.0, step - self._around.monotonic()))
                        idle_since = time.monotonic()
                        continue
                    idle = time.monotonic() - idle_since
                    if self._closed or idle >= patience:
                        self._thread = None
                        return None
                    self._work.wait(patience - idle)
            if late:
                self._conclude(late)

    def _conclude(self, settled: list[Settled]) -> None:
        """Wake who waits for room, report, wake who flushes, which waits for the reports too."""
        self._wake()
        self._report(settled)
        with self._lock:
            self._reporting = []
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            self._progress.notify_all()
            listeners = self._take_listeners()
        _call(listeners)

    def _oldest(self) -> float:
        """The number of the oldest event that is not done with and told."""
        told = (settled.entry.number for settled in self._reporting)
        return min(self._backlog.oldest(), min(told, default=math.inf))

    def _is_own_thread(self) -> bool:
        return self._thread is threading.current_thread()

    def _take_listeners(self) -> list[Callable[[], None]]:
        listeners, self._room_listeners = self._room_listeners, []
        return listeners

    def _report(self, settled: list[Settled]) -> None:
        for entry, result in settled:
            if not isinstance(result, RequestFailed):
                continue
            try:
                self._tell(FailedEvent(entry.event.fields(), result))
            except KeyboardInterrupt:
                raise
            except BaseException:  # SystemExit too would only end the thread, and the queue hang
                logger.exception("on_failed failed for the event with id=%s", entry.event.id)

    def _tell(self, failed: FailedEvent) -> None:
        if self._options.on_failed is not None:
            self._options.on_failed(failed)
            return
        to = failed.fields["to"]
        logger.error(
            "an event was not published: to=%s type=%r id=%s: %s",
            to if isinstance(to, str) else ",".join(to[:3]),
            failed.fields["type"],
            failed.fields["id"],
            failed.error,
        )


def _call(listeners: list[Callable[[], None]]) -> None:
    for listener in listeners:
        listener()


_live: weakref.WeakSet[BackgroundQueue] = weakref.WeakSet()


def close_all_at_exit() -> None:
    """The program ends: send what waits. All share the time, however many they are."""
    since = time.monotonic()
    queues = list(_live)
    for queue in queues:
        queue.hurry()
    for queue in queues:
        queue.close_at_exit(since)
