"""A client of `GET /v1/stream` on a bare socket: it does nothing by itself and keeps what came.

It checks the id of every message: all channels, each where what was told so far has brought it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

from tests.harness.event_stream import EventStreamParser, Message
from tests.harness.process import PATIENCE, Herald, mint


class Stream:
    """One request and what it is answered with.

    Attributes:
        status, headers: of the answer; header names in lower case.
        parser: with the last id, comments and `retry`.
        raw: every byte of the body so far.
        places: by channel, where what was told so far has brought it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parser = EventStreamParser()
        self.raw = bytearray()
        self.places: dict[str, str] = {}
        self._waiting: deque[Message] = deque()

    async def head(self) -> None:
        """Read the head of the answer."""
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}

    async def message(self) -> Message | None:
        """The next message as it came, or None at the end of the stream."""
        async with asyncio.timeout(PATIENCE):
            while not self._waiting:
                if not await self.read():
                    return None
        message = self._waiting.popleft()
        self._check_id(json.loads(message.data), message.id)
        return message

    def _check_id(self, told: dict[str, Any], last_id: str) -> None:
        if told["type"] == "welcome":
            self.places = read_id(last_id)
            assert list(self.places) == list(told["channels"])
            for channel, joined in told["channels"].items():
                if joined["recovered"]:
                    assert self.places[channel] == joined["position"], (channel, last_id, told)
        elif told["type"] == "event":
            self.places[told["channel"]] = told["id"]
        elif told["type"] == "gap":
            self.places[told["channel"]] = told["to"]
        assert read_id(last_id) == self.places, (last_id, told)

    async def read(self) -> bool:
        """Read once; False at the end, however that came."""
        try:
            if "transfer-encoding" in self.headers:  # by a proxy: Herald sends no chunks
                size = int(await self.reader.readline() or b"0", 16)
                data = (await self.reader.readexactly(size + 2))[:size]
            else:
                data = await self.reader.read(65536)
        except (ConnectionError, asyncio.IncompleteReadError):
            return False
        self.raw += data
        self._waiting.extend(self.parser.feed(data))
        return bool(data)

    async def next(self) -> dict[str, Any]:
        """The next message's object."""
        message = await self.message()
        assert message is not None, f"the stream has ended after {bytes(self.raw[-300:])!r}"
        assert message.event == "message"
        found: dict[str, Any] = json.loads(message.data)
        return found

    async def expect(self, kind: str) -> dict[str, Any]:
        """The next message, which must be of this type."""
        message = await self.next()
        assert message["type"] == kind, message
        return message

    async def events(self, count: int) -> list[dict[str, Any]]:
        """The next messages, which must be so many events."""
        return [await self.expect("event") for _ in range(count)]

    async def closed(self) -> int:
        """Read to the end; the code of the message `close` before it, 1006 without one."""
        code = 1006
        while (message := await self.message()) is not None:
            assert code == 1006, f"after the close: {message}"
            told = json.loads(message.data)
            if told["type"] == "close":
                code = told["code"]
        return code

    async def body(self) -> bytes:
        """The rest of an answer that has a length, or ends."""
        async with asyncio.timeout(PATIENCE):
            if "content-length" in self.headers:
                return await self.reader.readexactly(int(self.headers["content-length"]))
            return await self.reader.read(-1)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def read_id(text: str) -> dict[str, str]:
    """Positions by channel, read from an id as docs/sse.md describes it."""
    places = (item.rpartition("@") for item in text.split(",") if item)
    return {unquote(name): position for name, _, position in places}


def stream_request(
    query: str = "",
    *,
    token: str | None = None,
    headers: dict[str, str] | None = None,
    method: str = "GET",
    version: str = "1.1",
) -> bytes:
    """The bytes of a request; a header replaces the usual one of its name."""
    sent = {"host": "localhost", "accept": "text/event-stream"}
    if token is not None:
        sent["authorization"] = f"Bearer {token}"
    sent.update(headers or {})
    path = "/v1/stream" + (f"?{query}" if query else "")
    lines = [f"{method} {path} HTTP/{version}", *(f"{k}: {v}" for k, v in sent.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


async def dial(herald: Herald, request: bytes, *, port: int | None = None) -> Stream:
    """Send this and read the head of the answer, whatever it is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port or herald.port)
    stream = Stream(reader, writer)
    writer.write(request)
    await stream.head()
    return stream


async def open_stream(
    herald: Herald,
    query: str = "",
    *,
    token: str | None = None,
    last_id: str | None = None,
    headers: dict[str, str] | None = None,
) -> Stream:
    """A stream that must be opened, its token in the header."""
    sent = dict(headers or {})
    if last_id is not None:
        sent["last-event-id"] = last_id
    token = mint() if token is None else token
    stream = await dial(herald, stream_request(query, token=token, headers=sent))
    assert stream.status == 200, (stream.status, await stream.body())
    return stream


@contextlib.asynccontextmanager
async def streaming(herald: Herald, query: str = "", **options: Any) -> AsyncIterator[Stream]:
    """See `open_stream`; closed in the end."""
    stream = await open_stream(herald, query, **options)
    try:
        yield stream
    finally:
        await stream.close()
