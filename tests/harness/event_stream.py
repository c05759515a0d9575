"""Server-sent events as a browser reads them, strictly.

Written from HTML (https://html.spec.whatwg.org/multipage/server-sent-events.html, "Parsing an event
stream" and "Interpreting an event stream"); it shares nothing with the service.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

_LINE_END = re.compile("\r\n|\n|\r")


class Message(NamedTuple):
    """What `onmessage` would be given."""

    data: str
    id: str
    """`lastEventId`: of this message, or of the last before it that had one."""
    event: str = "message"


class EventStreamParser:
    """Bytes in any pieces to messages.

    Attributes:
        last_id: what a browser would send as `Last-Event-ID` if the stream ended now.
        retry: milliseconds, once they were said.
        comments: how many came.
        oddities: what a browser passes over without a word, and what no server should send.
    """

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self.comments = 0
        self.oddities: list[str] = []
        self._decode = codecs.getincrementaldecoder("utf-8")("strict").decode
        self._line: list[str] = []
        self._after_cr = False
        self._at_start = True
        self._id = ""
        self._data: list[str] = []
        self._event = ""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that these bytes complete.

        Raises:
            UnicodeDecodeError: a browser would put U+FFFD there.
        """
        messages: list[Message] = []
        text = self._decode(data)
        if self._at_start and text:
            self._at_start = False
            if text[0] == "\ufeff":
                self.oddities.append("a byte order mark")
                text = text[1:]
        if self._after_cr and text:
            self._after_cr = False
            text = text.removeprefix("\n")
        self._after_cr = self._after_cr or text.endswith("\r")
        first, *rest = _LINE_END.split(text)
        self._line.append(first)
        for following in rest:
            line, self._line = "".join(self._line), [following]
            if line:
                self._field(line)
            else:
                self._dispatch(messages)
        return messages

    @property
    def is_between_messages(self) -> bool:
        """Whether an end of the stream now would lose nothing."""
        kept = "".join(self._line) or self._data or self._event
        return not kept and self._id == self.last_id

    def _field(self, line: str) -> None:
        if line[0] == ":":
            self.comments += 1
            return
        name, colon, value = line.partition(":")
        if not colon:
            self.oddities.append(f"a field without a colon: {line!r}")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "event":
                self._event = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry = int(value)
            case _:
                self.oddities.append(f"passed over: {line[:60]!r}")

    def _dispatch(self, messages: list[Message]) -> None:
        self.last_id = self._id
        data, self._data = self._data, []
        event, self._event = self._event, ""
        # The line feed after the last line is taken away; without any data nothing is told.
        if text := "".join(line + "\n" for line in data):
            messages.append(Message(text[:-1], self.last_id, event or "message"))
