"""Server-sent events: how a message becomes text, and the id that resumes every channel.

The format is HTML's (https://html.spec.whatwg.org/multipage/server-sent-events.html). An event's
`id:` comes back from the client as `Last-Event-ID`, so it holds the position of every channel of
the stream: `<channel>@<position>` joined by commas, the channel percent-encoded where that must be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote_to_bytes

from service.core.errors import InvalidPosition
from service.core.position import Position

HEARTBEAT = b":\n\n"
"""A comment: keeps the connection alive, and clients pass it over."""
_PLAIN = ":/~"
"""Left as they are in an id beside letters, digits, `_`, `.` and `-`: neither `,` nor `@`."""
_LINE_END = re.compile(rb"\r\n|\r|\n")


def message(payload: bytes) -> bytes:
    """One message, without an id. `payload`: JSON text; its white space may have line ends."""
    if b"\n" in payload or b"\r" in payload:
        payload = _LINE_END.sub(b"\ndata: ", payload)
    return b"data: %b\n\n" % payload


def retry(milliseconds: int) -> bytes:
    """How long to wait before coming back once the stream has ended; part of a message."""
    return b"retry: %d\n" % milliseconds


class Bookmark:
    """The position of every channel of one stream, as it stands after what was sent last."""

    __slots__ = ("_places",)

    def __init__(self, positions: Mapping[str, Position]) -> None:
        # As they are written: an id is read from them far more often than one of them is moved.
        self._places = {
            channel: b"%b@%d-%d" % (_encode(channel), *position)
            for channel, position in positions.items()
        }

    def move(self, channel: str, position: Position) -> None:
        """Everything up to `position` was sent."""
        name, _, _ = self._places[channel].rpartition(b"@")
        self._places[channel] = b"%b@%d-%d" % (name, *position)

    def place(self, channel: str) -> bytes:
        """Where it stands in one channel, to be put back."""
        return self._places[channel]

    def put_back(self, channel: str, place: bytes) -> None:
        """What was to be sent since `place` was not."""
        self._places[channel] = place

    def id(self) -> bytes:
        """The line `id: …`, to stand before a message."""
        return b"id: %b\n" % b",".join(self._places.values())


def parse_event_id(text: str) -> list[tuple[str, str]]:
    """Channels and positions of an id, in the form of `since`: neither is checked.

    Raises:
        InvalidPosition: for what no stream has sent as an id.
    """
    places: list[tuple[str, str]] = []
    for item in text.split(",") if text else ():
        name, at, position = item.rpartition("@")
        try:
            channel = unquote_to_bytes(name).decode()
        except UnicodeError:
            at = ""
        if not at:
            raise InvalidPosition(
                "An event id is <channel>@<position>, joined by commas and percent-encoded; "
                f"this is {text[:60]!r}."
            )
        places.append((channel, position))
    return places


def _encode(channel: str) -> bytes:
    return quote(channel, safe=_PLAIN).encode()
