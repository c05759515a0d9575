"""Publishing from asynchronous programs (asyncio)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from herald_client.errors import QueueFull, RequestFailed
from herald_client.events import EventFields, HistoryPage, Published, Ticket
from herald_client.exchange import Outcome, Send, Steps
from herald_client.publishing import PublisherBase, check_results
from herald_client.transport import AsyncTransport

_T = TypeVar("_T")


class AsyncPublisher(PublisherBase):
    """`Publisher` for asyncio: the same arguments, methods and guarantees, with `await`.

    Make one and share it. It may be made before there is an event loop, and each loop has
    connections of its own, which are closed with the publisher or, by `asyncio.run`, with the loop.
    The background queue is a thread here too, so it outlives the loop, and what waits is sent when
    the program ends.
    """

    def _open(self) -> None:
        self._transport = AsyncTransport(self._target, self._tls)

    async def publish(
        self,
        *,
        to: str | Sequence[str],
        type: str,
        data: Any = None,
        id: str | None = None,
        ttl: float | None = None,
        deadline: float | None = None,
    ) -> Published:
        """See `Publisher.publish`."""
        event = self._encode(to, type, data, id, ttl)
        return await self._run(self._publish(event, deadline))

    @overload
    async def publish_many(
        self,
        events: Iterable[EventFields],
        *,
        return_errors: Literal[False] = False,
        deadline: float | None = None,
    ) -> list[Published]: ...
    @overload
    async def publish_many(
        self,
        events: Iterable[EventFields],
        *,
        return_errors: bool,
        deadline: float | None = None,
    ) -> list[Published | RequestFailed]: ...
    async def publish_many(
        self,
        events: Iterable[EventFields],
        *,
        return_errors: bool = False,
        deadline: float | None = None,
    ) -> list[Published] | list[Published | RequestFailed]:
        """See `Publisher.publish_many`."""
        results = await self._run(self._publish_many(events, deadline))
        return results if return_errors else check_results(results)

    async def enqueue(
        self,
        *,
        to: str | Sequence[str],
        type: str,
        data: Any = None,
        id: str | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> str:
        """See `Publisher.enqueue`; waiting for room blocks nobody else in this loop."""
        event = self._encode(to, type, data, id, ttl)
        queue = self._background()
        if self._queue_options.when_full == "raise":
            queue.put(event)
            return event.id
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                while True:
                    room = asyncio.Event()
                    listener = partial(_set, loop, room)
                    if queue.put_or_listen(event, listener):
                        return event.id
                    try:
                        await room.wait()
                    finally:
                        queue.unlisten(listener)
        except TimeoutError:
            raise QueueFull("There was no room in the queue in time.") from None

    async def flush(self, timeout: float | None = None) -> bool:
        """See `Publisher.flush`."""
        return self._queue is None or await asyncio.to_thread(self._queue.flush, timeout)

    async def history(
        self, channel: str, after: str | None = None, limit: int = 100
    ) -> HistoryPage:
        """See `Publisher.history`."""
        return await self._run(self._history(channel, after, limit))

    async def create_ticket(
        self, user: str, topics: Sequence[str] = (), expires_in: float | None = None
    ) -> Ticket:
        """See `Publisher.create_ticket`."""
        return await self._run(self._create_ticket(user, topics, expires_in))

    async def close(self, timeout: float | None = None) -> None:
        """See `Publisher.close`; of the connections, this loop's are closed."""
        try:
            if self._queue is None:
                self._close_queue(timeout)
            else:
                await asyncio.to_thread(self._close_queue, timeout)
        finally:
            await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def forget_parent(self) -> None:
        super().forget_parent()
        self._transport.forget()

    async def _run(self, steps: Steps[_T]) -> _T:
        outcome: Outcome | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as stop:
                result: _T = stop.value
                return result
            if isinstance(step, Send):
                outcome = await self._transport.send(step)
            else:
                await asyncio.sleep(step.seconds)
                outcome = None


def _set(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """From the queue's thread, when the loop may be closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(event.set)
