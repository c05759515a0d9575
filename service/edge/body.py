"""Reading request bodies, within a size and a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from service.edge.answers import ProblemError
from service.edge.asgi import Headers, Receive, find_header
from service.edge.policy import LEAST_RATE
from service.ports import Instrumentation


def check_content_type(headers: Headers, *allowed: str) -> str:
    """Which of the allowed content types a request has, without its parameters.

    Raises:
        ProblemError: 415.
    """
    given = (find_header(headers, b"content-type") or "").partition(";")[0].strip().lower()
    if given not in allowed:
        raise ProblemError(
            415,
            f"The content type is {' or '.join(allowed)}, not {given or 'missing'}.",
            headers=((b"accept", ", ".join(allowed).encode()),),
        )
    return given


def check_content_length(headers: Headers, limit: int) -> None:
    """Refuse a body that says itself that it is too large, before any of it is read.

    Raises:
        ProblemError: 413.
    """
    length = find_header(headers, b"content-length")
    if length is not None and length.isdigit() and int(length) > limit:
        raise too_large(limit)


def too_large(limit: int) -> ProblemError:
    """The 413 for a body over `limit` bytes."""
    return ProblemError(413, f"The request body may have at most {limit} bytes.")


async def body_chunks(
    receive: Receive, timeout: float, stats: Instrumentation
) -> AsyncIterator[bytes]:
    """The body as it arrives.

    A request without an end holds memory and a connection. So no byte may take longer than
    `timeout` seconds, nor the whole longer than that beyond what it takes at `LEAST_RATE`.

    Raises:
        ProblemError: 408 where it comes too slowly, 400 where the client went away.
    """
    loop = asyncio.get_running_loop()
    patience = timeout  # what the client may still make us wait, on top of what it has sent
    more = True
    while more:
        began = loop.time()
        try:
            async with asyncio.timeout(min(timeout, patience)):
                message = await receive()
        except TimeoutError:
            stats.cut_off("body_slow")
            raise ProblemError(
                408, "The request body came too slowly.", headers=((b"connection", b"close"),)
            ) from None
        patience += len(message.get("body", b"")) / LEAST_RATE - (loop.time() - began)
        if message["type"] == "http.disconnect":
            raise ProblemError(400, "The client went away.")
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def whole(body: bytes) -> AsyncIterator[bytes]:
    """A body that is here already, in the form of `body_chunks`."""
    yield body


async def read_body(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    """The whole body.

    Raises:
        ProblemError: 413, 408 or 400.
    """
    body = b""
    async for chunk in chunks:
        body = body + chunk if body else chunk
        if len(body) > limit:
            raise too_large(limit)
    return body
