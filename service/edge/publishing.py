"""`POST /v1/events` and `POST /v1/events/batch`.

This is the hot path of publishing: plain ASGI with msgspec, called in front of FastAPI and also
by FastAPI's own routes, which describe it (see `edge.api`), so the two cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec

from service.core.errors import (
    EngineUnavailable,
    HeraldError,
    InvalidEvent,
)
from service.core.event import check_id, decode_batch, decode_event
from service.core.principal import Publisher
from service.edge.answers import JSON, Answer, ProblemError, problem_of
from service.edge.asgi import Receive, Scope, header
from service.edge.body import body_chunks, check_content_length, read_body, too_large
from service.ports import (
    EventLog,
    Instrumentation,
    PublisherVerifier,
    Receipt,
    Submission,
)

MAX_BATCH_EVENTS = 10_000
_WINDOW = 256
"""Events of one batch that are in flight at a time."""

_encode = msgspec.json.Encoder().encode


class PublishLimits(NamedTuple):
    """Bytes of one event, and of a whole batch."""

    event_bytes: int
    batch_bytes: int


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

    async def publish(self, scope: Scope, receive: Receive) -> Answer:
        """One event."""
        try:
            publisher = await self._publishers.verify(header(scope, b"authorization"))
            _expect_content_type(scope, "application/json")
            body = await read_body(scope, receive, self.limits.event_bytes)
            event = decode_event(
                body,
                max_bytes=self.limits.event_bytes,
                idempotency_key=_idempotency_key(scope),
            )
            submission = await self.log.submit(event, publisher)
            result = self.count(await submission.receipt())
            return Answer(202, JSON, _encode(result))
        except HeraldError as error:
            problem = problem_of(error)
            self.stats.publish_refused(problem.status)
            return problem.answer()

    async def publish_batch(self, scope: Scope, receive: Receive) -> Answer:
        """Many events, as one JSON document or as NDJSON, which is read as it arrives."""
        batch: _Batch | None = None
        try:
            publisher = await self._publishers.verify(header(scope, b"authorization"))
            kind = _expect_content_type(scope, "application/json", "application/x-ndjson")
            check_content_length(scope, self.limits.batch_bytes)
            batch = _Batch(self, publisher)
            if kind == "application/json":
                body = await read_body(scope, receive, self.limits.batch_bytes)
                for text in decode_batch(body, max_events=MAX_BATCH_EVENTS):
                    await batch.add(text)
            else:
                async for line in _lines(receive, self.limits):
                    if batch.size >= MAX_BATCH_EVENTS:
                        raise ProblemError(413, f"A batch has at most {MAX_BATCH_EVENTS} events.")
                    await batch.add(line)
            return Answer(200, JSON, _encode({"results": await batch.results()}))
        except HeraldError as error:
            problem = problem_of(error)
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
            problem = problem_of(receipt.failure)
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
        # After one event of a channel has failed for want of the engine, later ones are not tried:
        # they would be stored before it when the caller repeats it.
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
        except EngineUnavailable as error:
            self._broken.update(channels)
            outcome = problem_of(error)
        except HeraldError as error:
            outcome = problem_of(error)
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
                if problem.status == 503:
                    self._broken.update(names)
                self._results.append({"problem": problem.document()})


async def _lines(receive: Receive, limits: PublishLimits) -> AsyncIterator[bytes]:
    """The lines of an NDJSON body as they arrive; empty ones are passed over."""
    rest = b""
    total = 0
    skipping = False  # the rest of a line that was found to be too long
    async for chunk in body_chunks(receive):
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


def _expect_content_type(scope: Scope, *allowed: str) -> str:
    given = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    if given not in allowed:
        raise ProblemError(
            415,
            f"The content type is {' or '.join(allowed)}, not {given or 'missing'}.",
            headers=((b"accept", ", ".join(allowed).encode()),),
        )
    return given


def _idempotency_key(scope: Scope) -> str | None:
    """The header Idempotency-Key, bare or a quoted string (RFC 8941, 3.3.3).

    Raises:
        InvalidEvent
    """
    text = header(scope, b"idempotency-key")
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
