"""What an HTTP request is answered with; errors are problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from service.core.errors import (
    EngineError,
    EngineUnavailable,
    EventTooLarge,
    Forbidden,
    HeraldError,
    IdempotencyConflict,
    InvalidInput,
    KeysUnavailable,
    NotCopied,
    Overloaded,
    TooManyEvents,
    Unauthorized,
)
from service.edge.asgi import Send

_encode = msgspec.json.Encoder().encode

JSON = b"application/json"
PROBLEM = b"application/problem+json"


class Answer(NamedTuple):
    """Status, content type, body, and headers beyond content type and length."""

    status: int
    content_type: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


def answer_bytes(
    answer: Answer, headers: Iterable[tuple[bytes, bytes]], *, keep_alive: bool
) -> bytes:
    """A whole answer of HTTP/1.1, past ASGI. `headers`: those that every answer has."""
    lines = [
        b"HTTP/1.1 %d %b\r\n" % (answer.status, _PHRASES[answer.status]),
        *[b"%b: %b\r\n" % pair for pair in headers],
        b"content-type: %b\r\ncontent-length: %d\r\n" % (answer.content_type, len(answer.body)),
        *[b"%b: %b\r\n" % pair for pair in answer.headers],
        b"\r\n" if keep_alive else b"connection: close\r\n\r\n",
        answer.body,
    ]
    return b"".join(lines)


async def send_answer(send: Send, answer: Answer) -> None:
    """Answer a request through ASGI."""
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", b"%d" % len(answer.body)),
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


class ProblemError(HeraldError):
    """A request that is answered with `status`; `members` are added to the problem document."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        members: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.members = members or {}

    def document(self) -> dict[str, Any]:
        """The problem document. `type` is about:blank, so `title` is the status's phrase."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }

    def answer(self) -> Answer:
        """The whole answer."""
        return Answer(self.status, PROBLEM, _encode(self.document()), self.headers)


_REPEAT = "; repeat with the same id."


def problem_of(error: HeraldError, *, of_event: bool = False) -> ProblemError:
    """The problem that stands for an error of the core.

    `of_event`: an event was to be published, so that an id makes it safe to repeat.
    """
    if isinstance(error, ProblemError):
        return error
    text = str(error)
    match error:
        case EventTooLarge() | TooManyEvents():
            return ProblemError(413, text)
        case IdempotencyConflict(channels=channels):
            return ProblemError(422, text, members={"channels": channels})
        case InvalidInput():
            return ProblemError(400, text)
        case Unauthorized():
            return ProblemError(
                401, text, headers=((b"www-authenticate", b'Bearer realm="herald"'),)
            )
        case Forbidden():
            return ProblemError(403, text)
        case Overloaded(retry_after=seconds):
            return ProblemError(429, text, headers=((b"retry-after", b"%d" % seconds),))
        case KeysUnavailable():
            return ProblemError(503, text, headers=((b"retry-after", b"10"),))
        case NotCopied(positions=positions):
            return ProblemError(
                503, text, headers=((b"retry-after", b"1"),), members={"uncopied": positions}
            )
        case EngineUnavailable() | EngineError():
            away = isinstance(error, EngineUnavailable)
            detail = "The engine is away" if away else "The engine refuses this at the moment"
            return _passing(detail, of_event=of_event)
    return mishap_of(error, of_event=of_event)


def mishap_of(error: BaseException, *, of_event: bool = False) -> ProblemError:
    """The problem that stands for a failure of ours, which its caller logs.

    Without memory nothing is wrong with the request, which may have been carried out: 503.
    `of_event`: see `problem_of`.
    """
    if isinstance(error, MemoryError):
        return _passing("Out of memory here", of_event=of_event)
    return ProblemError(500, "Something went wrong here; it is logged.")


def _passing(reason: str, *, of_event: bool) -> ProblemError:
    detail = reason + (_REPEAT if of_event else ".")
    return ProblemError(503, detail, headers=((b"retry-after", b"1"),))
