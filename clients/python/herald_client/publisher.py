"""Publishing from synchronous programs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from herald_client.errors import RequestFailed
from herald_client.events import EventFields, HistoryPage, Published, Ticket
from herald_client.exchange import Outcome, Send, Steps
from herald_client.publishing import PublisherBase, check_results
from herald_client.transport import SyncTransport

_T = TypeVar("_T")


class Publisher(PublisherBase):
    """Publishes events to Herald. Make one and share it: it is safe in threads and after a fork.

    Every event has an id, so that repeating it after a lost answer doubles nothing. What may pass
    by itself (no connection, no answer, 408, 429, 5xx) is repeated with the same id until
    `deadline`, after random growing waits and not before the server's `Retry-After`.
    """

    def _open(self) -> None:
        self._transport = SyncTransport(self._target, self._tls)

    def publish(
        self,
        *,
        to: str | Sequence[str],
        type: str,
        data: Any = None,
        id: str | None = None,
        ttl: float | None = None,
        deadline: float | None = None,
    ) -> Published:
        """Publish one event; it is stored when this returns.

        Args:
            to: `user:<id>`, `topic:<name>`, `all`, or a list of up to 1,000 of them.
            type: as `order.shipped`.
            data: anything that `dumps` can write.
            id: makes it idempotent beyond this call, for 5 minutes; unset: a random one.
            ttl: seconds after which it is no longer delivered.
            deadline: seconds for this call, instead of the publisher's.

        Raises:
            InvalidEvent: `data` is no JSON; nothing was sent.
            Rejected: Herald refused it, and would again.
            Unavailable: it could not be done in time; `stored` names the channels that have it.
            Closed
        """
        event = self._encode(to, type, data, id, ttl)
        return self._run(self._publish(event, deadline))

    @overload
    def publish_many(
        self,
        events: Iterable[EventFields],
        *,
        return_errors: Literal[False] = False,
        deadline: float | None = None,
    ) -> list[Published]: ...
    @overload
    def publish_many(
        self,
        events: Iterable[EventFields],
        *,
        return_errors: bool,
        deadline: float | None = None,
    ) -> list[Published | RequestFailed]: ...
    def publish_many(
        self,
        events: Iterable[EventFields],
        *,
        return_errors: bool = False,
        deadline: float | None = None,
    ) -> list[Published] | list[Published | RequestFailed]:
        """Publish many events, each `{"to": …, "type": …, "data": …, "id": …, "ttl": …}`.

        They go in as few requests as the limits allow (10,000 events, 16 MiB). Each channel keeps
        its order.

        Args:
            events: any number of them; all are read before the first is sent.
            return_errors: give the errors back in the list, instead of raising.
            deadline: seconds for all of them, instead of the publisher's.

        Returns:
            One result per event, in order.

        Raises:
            SomeNotPublished: some were not; its `results` have what became of each.
            InvalidEvent: one is no JSON; none was sent.
            Closed
        """
        results = self._run(self._publish_many(events, deadline))
        return results if return_errors else check_results(results)

    def enqueue(
        self,
        *,
        to: str | Sequence[str],
        type: str,
        data: Any = None,
        id: str | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> str:
        """Put an event into the background queue and return at once; gives back its id.

        Events are published in batches, each channel's in order. One that cannot be published is
        told to `QueueOptions.on_failed`. What waits when the program ends is sent then, or told.

        The arguments are those of `publish`, and `timeout`: seconds to wait for room where the
        queue is full; unset: as long as it takes.

        Raises:
            QueueFull: there is no room.
            InvalidEvent: `data` is no JSON.
            Closed
        """
        event = self._encode(to, type, data, id, ttl)
        self._background().put(event, timeout)
        return event.id

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything put into the queue so far is published, or told as failed.

        Gives back False where it was not within `timeout` seconds.
        """
        return self._queue is None or self._queue.flush(timeout)

    def history(self, channel: str, after: str | None = None, limit: int = 100) -> HistoryPage:
        """A page of what a channel retains, oldest first.

        Args:
            channel: `user:<id>`, `topic:<name>` or `all`.
            after: a position; unset: from the oldest.
            limit: 1 to 1,000 events.

        Raises:
            Rejected, Unavailable, Closed
        """
        return self._run(self._history(channel, after, limit))

    def create_ticket(
        self, user: str, topics: Sequence[str] = (), expires_in: float | None = None
    ) -> Ticket:
        """A ticket that opens one stream of server-sent events for a user (docs/sse.md).

        Args:
            user: whose events.
            topics: names to join, and patterns as `news.*` that may be joined.
            expires_in: seconds that the stream may last; unset: the server's default, an hour.

        Raises:
            Rejected, Unavailable, Closed
        """
        return self._run(self._create_ticket(user, topics, expires_in))

    def close(self, timeout: float | None = None) -> None:
        """Flush the background queue for at most `timeout` seconds, and close the connections.

        What is left in the queue then is told as failed. A closed publisher takes nothing more.
        """
        self._close_queue(timeout)
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def forget_parent(self) -> None:
        super().forget_parent()
        self._transport.forget()

    def rest(self) -> None:
        super().rest()
        self._transport.rest()

    def _run(self, steps: Steps[_T]) -> _T:
        outcome: Outcome | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as stop:
                result: _T = stop.value
                return result
            if isinstance(step, Send):
                outcome = self._transport.send(step)
            else:
                time.sleep(step.seconds)
                outcome = None
