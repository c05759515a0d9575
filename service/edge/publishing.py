"""`POST /v1/events` and `POST /v1/events/batch`.

This is the hot path of publishing. A request that came in one piece is served without ASGI
(`edge.http`); FastAPI's routes, which describe the endpoints (`edge.api`), serve the others with
the same code, so the two cannot differ.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, NamedTuple

import msgspec

from service.core.errors import (
    EngineUnavailable,
    HeraldError,
    InvalidEvent,
    NotCopied,
    Overloaded,
)
from service.core.event import Event, check_id, decode_batch, decode_event
from service.core.principal import Publisher
from service.edge.answers import JSON, Answer, ProblemError, mishap_of, problem_of
from service.edge.asgi import Headers, Receive, Scope, find_header, header
from service.edge.body import (
    body_chunks,
    check_content_length,
    check_content_type,
    read_body,
    too_large,
    whole,
)
from service.edge.doors import Respond
from service.ports import (
    EventLog,
    Instrumentation,
    PublisherVerifier,
    Receipt,
    Submission,
)

logger = logging.getLogger("herald.publish")

MAX_BATCH_EVENTS = 10_000
_WINDOW = 256
"""Events of one batch that are in flight at a time."""

_encode = msgspec.json.Encoder().encode


class PublishLimits(NamedTuple):
    """Of a request's body.

    Attributes:
        event_bytes: of one event, also of each in a batch.
        batch_bytes: of a whole batch.
        body_timeout: seconds; see `body_chunks`.
    """

    event_bytes: int
    batch_bytes: int
    body_timeout: float


class Publishing:
    """The two endpoints, each from a request to an `Answer`; errors are answers too."""

    def __init__(
        self,
        log: EventLog,
        publishers: PublisherVerifier,
        limits: PublishLimits,
        stats: Instrumentation,
    ) -> None:
        self.log = log
        self._publishers = publishers
        self.limits = limits
        self.stats = stats
        self._tasks: set[asyncio.Task[Answer]] = set()

    # Requests that came in one piece, served without ASGI (`edge.http`)

    def post_event(self, headers: Headers, body: bytes, respond: Respond) -> None:
        """One event: a `PostEndpoint`. It takes a task only where something must be waited for."""
        began = time.perf_counter()
        try:
            submission = self._submit_now(headers, body)
        except HeraldError as error:
            respond(self._refuse(error))
            return
        if submission is None:
            self._respond_later(self._publish(headers, body), respond)
            return

        def stored(receipt: Receipt) -> None:
            try:
                answer = Answer(202, JSON, _encode(self.count(receipt)))
                self.stats.answered(time.perf_counter() - began)
            except HeraldError as error:
                answer = self._refuse(error)
            respond(answer)

        submission.then(stored)

    def _submit_now(self, headers: Headers, body: bytes) -> Submission | None:
        publisher = self._publishers.verify_now(find_header(headers, b"authorization"))
        if publisher is None:
            return None
        return self.log.submit_now(self._read_event(headers, body), publisher)

    def post_batch(self, headers: Headers, body: bytes, respond: Respond) -> None:
        """Many events: a `PostEndpoint`."""
        self._respond_later(self._publish_batch(headers, whole(body)), respond)

    def _respond_later(self, work: Coroutine[Any, Any, Answer], respond: Respond) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

        def done(task: asyncio.Task[Answer]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                return
            if (error := task.exception()) is not None:
                logger.error("a request was not dealt with", exc_info=error)
                problem = mishap_of(error, of_event=True)
                self.stats.publish_refused(problem.status)
                respond(problem.answer())
            else:
                respond(task.result())

        task.add_done_callback(done)

    # The same through ASGI

    async def publish(self, scope: Scope, receive: Receive) -> Answer:
        """One event."""
        try:
            # Refused before its body is read.
            await self._publishers.verify(header(scope, b"authorization"))
            check_content_type(scope["headers"], "application/json")
            check_content_length(scope["headers"], self.limits.event_bytes)
            body = await read_body(self._chunks(receive), self.limits.event_bytes)
        except HeraldError as error:
            return self._refuse(error)
        return await self._publish(scope["headers"], body)

    async def publish_batch(self, scope: Scope, receive: Receive) -> Answer:
        """Many events, as one JSON document or as NDJSON, which is read as it arrives."""
        return await self._publish_batch(scope["headers"], self._chunks(receive))

    def _chunks(self, receive: Receive) -> AsyncIterator[bytes]:
        return body_chunks(receive, self.limits.body_timeout, self.stats)

    # Both

    async def _publish(self, headers: Headers, body: bytes) -> Answer:
        began = time.perf_counter()
        try:
            publisher = await self._publishers.verify(find_header(headers, b"authorization"))
            submission = await self.log.submit(self._read_event(headers, body), publisher)
            result = self.count(await submission.receipt())
            self.stats.answered(time.perf_counter() - began)
            return Answer(202, JSON, _encode(result))
        except HeraldError as error:
            return self._refuse(error)

    def _read_event(self, headers: Headers, body: bytes) -> Event:
        check_content_type(headers, "application/json")
        if len(body) > self.limits.event_bytes:
            raise too_large(self.limits.event_bytes)
        return decode_event(
            body,
            max_bytes=self.limits.event_bytes,
            idempotency_key=_idempotency_key(headers),
        )

    def _refuse(self, error: HeraldError) -> Answer:
        problem = problem_of(error, of_event=True)
        self.stats.publish_refused(problem.status)
        return problem.answer()

    async def _publish_batch(self, headers: Headers, body: AsyncIterator[bytes]) -> Answer:
        batch: _Batch | None = None
        try:
            publisher = await self._publishers.verify(find_header(headers, b"authorization"))
            kind = check_content_type(headers, "application/json", "application/x-ndjson")
            check_content_length(headers, self.limits.batch_bytes)
            batch = _Batch(self, publisher)
            if kind == "application/json":
                document = await read_body(body, self.limits.batch_bytes)
                for text in decode_batch(document, max_events=MAX_BATCH_EVENTS):
                    await batch.add(text)
            else:
                async for line in _lines(body, self.limits):
                    if batch.size >= MAX_BATCH_EVENTS:
                        raise ProblemError(413, f"A batch has at most {MAX_BATCH_EVENTS} events.")
                    await batch.add(line)
            return Answer(200, JSON, _encode({"results": await batch.results()}))
        except HeraldError as error:
            problem = problem_of(error, of_event=True)
            self.stats.publish_refused(problem.status)
            if batch is not None and batch.size:
                # Some of a stream is stored already; its sender must learn which.
                problem.members["results"] = await batch.results()
            return problem.answer()

    def count(self, receipt: Receipt) -> dict[str, Any]:
        """The result of an event that is stored on all channels.

        Raises:
            ProblemError: where it is not, naming the channels that have it.
        """
        if receipt.failure is not None:
            problem = problem_of(receipt.failure, of_event=True)
            if isinstance(receipt.failure, NotCopied):
                self.stats.events_uncopied += 1
                problem.members["id"] = receipt.id
            if receipt.positions:
                problem.members["id"] = receipt.id
                problem.members["stored"] = receipt.positions
            raise problem
        if receipt.duplicate:
            self.stats.events_duplicate += 1
        else:
            self.stats.events_accepted += 1
        return {
            "id": receipt.id,
            "positions": receipt.positions,
            "duplicate": receipt.duplicate,
        }


class _Batch:
    """The events of one request, in order, with a window of them in flight."""

    def __init__(self, publishing: Publishing, publisher: Publisher) -> None:
        self._publishing = publishing
        self._publisher = publisher
        self._results: list[dict[str, Any]] = []
        self._window: list[Submission | ProblemError] = []
        self._window_channels: list[list[str]] = []
        # After one event of a channel has failed for a reason that passes, later ones are not
        # tried: they would be stored before it when the caller repeats it.
        self._broken: set[str] = set()

    @property
    def size(self) -> int:
        """Events taken so far."""
        return len(self._results) + len(self._window)

    async def add(self, text: bytes) -> None:
        """Send one event on its way; its outcome comes with `results`."""
        channels: list[str] = []
        outcome: Submission | ProblemError
        if self._window and not isinstance(last := self._window[-1], ProblemError) and last.lost:
            await self._settle()  # learn which channels are broken before going on elsewhere
        try:
            event = decode_event(text, max_bytes=self._publishing.limits.event_bytes)
            channels = list(event.channels)
            if not self._broken.isdisjoint(channels):
                raise EngineUnavailable("An earlier event of this channel was not stored.")
            outcome = await self._publishing.log.submit(event, self._publisher)
        except (EngineUnavailable, Overloaded) as error:
            self._broken.update(channels)
            outcome = problem_of(error, of_event=True)
        except HeraldError as error:
            outcome = problem_of(error, of_event=True)
        self._window.append(outcome)
        self._window_channels.append(channels)
        if len(self._window) >= _WINDOW:
            await self._settle()

    async def results(self) -> list[dict[str, Any]]:
        """One result per event, in order."""
        await self._settle()
        return self._results

    async def _settle(self) -> None:
        window, channels = self._window, self._window_channels
        self._window, self._window_channels = [], []
        for outcome, names in zip(window, channels, strict=True):
            try:
                if isinstance(outcome, ProblemError):
                    raise outcome
                self._results.append(self._publishing.count(await outcome.receipt()))
            except ProblemError as problem:
                self._publishing.stats.publish_refused(problem.status)
                if problem.status in (429, 503):
                    self._broken.update(names)
                self._results.append({"problem": problem.document()})


async def _lines(body: AsyncIterator[bytes], limits: PublishLimits) -> AsyncIterator[bytes]:
    """The lines of an NDJSON body as they arrive; empty ones are passed over."""
    rest = b""
    total = 0
    skipping = False  # the rest of a line that was found to be too long
    async for chunk in body:
        total += len(chunk)
        if total > limits.batch_bytes:
            raise too_large(limits.batch_bytes)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not skipping and (line := line.strip()):
                yield line
            skipping = False
        if len(rest) > limits.event_bytes:
            if not skipping:
                yield rest  # too long already, so it is answered as that
            skipping = True
            rest = b""
    if (rest := rest.strip()) and not skipping:
        yield rest


def _idempotency_key(headers: Headers) -> str | None:
    """The header Idempotency-Key, bare or a quoted string (RFC 8941, 3.3.3).

    Raises:
        InvalidEvent
    """
    text = find_header(headers, b"idempotency-key")
    if text is None:
        return None
    text = text.strip()
    if text.startswith('"'):
        try:
            # The quoted strings of RFC 8941 are JSON's, with only \\" and \\\\ as escapes.
            text = json.loads(text)
            text.encode()  # an escaped lone surrogate is no text
        except ValueError:
            raise InvalidEvent("The header Idempotency-Key is not a quoted string.") from None
    check_id(text, "The header Idempotency-Key")
    return text
