"""What the two publishers share: their options, and each call as steps (`exchange`)."""

from __future__ import annotations

import atexit
import json
import os
import ssl as _ssl
import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from herald_client import exchange
from herald_client.background import BackgroundQueue, QueueOptions, close_all_at_exit
from herald_client.backlog import publish_all
from herald_client.errors import Closed, RequestFailed, SomeNotPublished
from herald_client.events import (
    Dumps,
    EventFields,
    HistoryPage,
    Loads,
    Outgoing,
    Published,
    Ticket,
    dump_json,
    encode_event,
    encode_fields,
)
from herald_client.exchange import Steps
from herald_client.retrying import RetryPolicy, Surroundings
from herald_client.target import Target, find_target
from herald_client.tls import tls_context
from herald_client.transport import SyncTransport


class PublisherBase:
    """Options, and calls as steps.

    Args:
        url: the publish API, as `http://127.0.0.1:8000`; unset: the environment's `HERALD_URL`.
        key: an API key, or a service's JWT; unset: the environment's `HERALD_API_KEY`.
        timeout: seconds that one attempt may take.
        deadline: seconds that a call may take with all its repetitions; at most 240, because the
            server knows an id for 300.
        queue: how `enqueue` collects events.
        dumps: writes `data` as JSON, as `json.dumps` does.
        loads: reads the JSON that `history` gives back, as `json.loads` does.
        ssl: the TLS context for `https`; unset: the system's trusted certificates.

    Raises:
        ConfigurationError: the URL or the key is missing, or an option makes no sense.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 10.0,
        deadline: float = 30.0,
        queue: QueueOptions | None = None,
        dumps: Dumps = dump_json,
        loads: Loads = json.loads,
        ssl: _ssl.SSLContext | None = None,
    ) -> None:
        self._target: Target = find_target(url, key)
        self._policy = RetryPolicy(attempt=timeout, deadline=deadline)
        self._queue_options = queue or QueueOptions()
        self._dumps = dumps
        self._loads = loads
        self._tls = tls_context(self._target.url, ssl)
        self._around = Surroundings()
        self._closed = False
        self._queue: BackgroundQueue | None = None
        self._queue_transport: SyncTransport | None = None
        self._lock = threading.Lock()
        self._open()
        _live.add(self)

    def _open(self) -> None:
        """Make the transport of the calls."""
        raise NotImplementedError

    def forget_parent(self) -> None:
        """Drop what belongs to the parent; called in a forked child, before it does anything."""
        self._lock = threading.Lock()
        if self._queue is not None:
            self._queue.forget()
        if self._queue_transport is not None:
            self._queue_transport.forget()

    def rest(self) -> None:
        """Close connections that may be closed from here; called when the program ends."""
        if self._queue_transport is not None:
            self._queue_transport.rest()

    def _encode(
        self, to: str | Sequence[str], type: str, data: Any, id: str | None, ttl: float | None
    ) -> Outgoing:
        return encode_event(to, type, data, id, ttl, self._dumps)

    def _publish(self, event: Outgoing, deadline: float | None) -> Steps[Published]:
        return exchange.publish_one(event, self._patience(deadline), self._around)

    def _publish_many(
        self, events: Iterable[EventFields], deadline: float | None
    ) -> Steps[list[Published | RequestFailed]]:
        encoded = [encode_fields(fields, self._dumps) for fields in events]
        return publish_all(encoded, self._patience(deadline), self._around)

    def _history(self, channel: str, after: str | None, limit: int) -> Steps[HistoryPage]:
        return exchange.read_history(
            channel, after, limit, self._loads, self._patience(None), self._around
        )

    def _create_ticket(
        self, user: str, topics: Sequence[str], expires_in: float | None
    ) -> Steps[Ticket]:
        return exchange.create_ticket(user, topics, expires_in, self._patience(None), self._around)

    def _patience(self, deadline: float | None) -> RetryPolicy:
        if self._closed:
            raise Closed("This publisher was closed.")
        return self._policy if deadline is None else replace(self._policy, deadline=deadline)

    def _background(self) -> BackgroundQueue:
        with self._lock:
            if self._closed:
                raise Closed("This publisher was closed.")
            if self._queue is None:
                # Connections of its own: what waits for an answer there delays no call.
                self._queue_transport = SyncTransport(self._target, self._tls)
                self._queue = BackgroundQueue(
                    self._queue_transport.send, self._policy, self._queue_options, self._around
                )
            return self._queue

    def _close_queue(self, timeout: float | None) -> None:
        with self._lock:
            self._closed = True
            queue, transport = self._queue, self._queue_transport
        if queue is not None and transport is not None:
            queue.close(timeout)
            transport.close()


def check_results(results: list[Published | RequestFailed]) -> list[Published]:
    """The results where all were published.

    Raises:
        SomeNotPublished: where some were not.
    """
    published = [result for result in results if isinstance(result, Published)]
    if len(published) < len(results):
        raise SomeNotPublished(results)
    return published


_live: weakref.WeakSet[PublisherBase] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for publisher in list(_live):
        publisher.forget_parent()


@atexit.register
def _at_exit() -> None:
    """What waits is sent; and a publisher that nobody closed leaves no socket open."""
    close_all_at_exit()
    for publisher in list(_live):
        publisher.rest()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
