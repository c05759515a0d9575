"""RFC 6455 once more, by itself: what a server must make of a client's bytes.

It shares no code with the server's reader, so that the two can differ. Where a frame breaks several
rules, each of their codes is good, and one that has not come whole may be refused or waited for.
"""

from __future__ import annotations

_KNOWN = (0, 1, 2, 8, 9, 10)


class Reference:
    """One connection, fed with what the client sends.

    Attributes:
        pongs: the answers to pings, in order.
        texts: messages that came whole.
        codes: with which the server may close; empty while it must not.
        may_wait: whether it need not close yet.
        closed: whether the client has closed, which `codes` answers.
        messages: the texts themselves.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._text: bytearray | None = None
        self.pongs: list[bytes] = []
        self.messages: list[bytes] = []
        self.codes: set[int] = set()
        self.may_wait = True
        self.closed = False

    @property
    def over(self) -> bool:
        """Whether nothing that follows counts."""
        return self.closed or (bool(self.codes) and not self.may_wait)

    @property
    def at_rest(self) -> bool:
        """Whether neither a frame nor a message is half sent."""
        return not self._buffer and self._text is None

    @property
    def within_frame(self) -> bool:
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while not self.over and self._step():
            pass

    def _step(self) -> bool:
        """Deal with one frame; False where it has not come whole."""
        buffer = self._buffer
        self.codes, self.may_wait = set(), True
        if len(buffer) < 2:
            return False
        head, length = buffer[0], buffer[1] & 0x7F
        if not buffer[1] & 0x80:
            self.codes.add(1002)
        self._judge_kind(head)
        size, at = length, 2
        if length > 125:
            at = 4 if length == 126 else 10
            if len(buffer) < at:
                return False
            # A length may be written longer than it need be: only who writes it is told not to.
            size = int.from_bytes(buffer[2:at])
        if head & 0x08 and size > 125:
            self.codes.add(1002)
        if size > self._limit or (
            self._text is not None and not head & 0x08 and len(self._text) + size > self._limit
        ):
            self.codes.add(1009)
            self.may_wait = size <= self._limit
        if len(buffer) < at + 4 + size:
            return False
        if self.codes:
            self.may_wait = False
            return False
        mask = bytes(buffer[at : at + 4])
        masked = bytes(buffer[at + 4 : at + 4 + size])
        del buffer[: at + 4 + size]
        self._take(head, _unmask(masked, mask))
        return True

    def _judge_kind(self, head: int) -> None:
        opcode = head & 0x0F
        if head & 0x70 or opcode not in _KNOWN:
            self.codes.add(1002)
        if opcode & 0x08:
            if not head & 0x80:
                self.codes.add(1002)
        elif opcode == 2:
            self.codes.add(1003)
        elif (opcode == 0) != (self._text is not None):
            self.codes.add(1002)

    def _take(self, head: int, payload: bytes) -> None:
        opcode = head & 0x0F
        if opcode == 9:
            self.pongs.append(payload)
        elif opcode == 8:
            self._take_close(payload)
        elif opcode != 10:
            self._text = (self._text or bytearray()) + payload
            if head & 0x80:
                self._end_text()

    def _end_text(self) -> None:
        text, self._text = bytes(self._text or b""), None
        try:
            text.decode()
        except UnicodeDecodeError:
            self._violated({1007})
        else:
            self.messages.append(text)

    def _take_close(self, payload: bytes) -> None:
        if not payload:
            self.codes, self.closed, self.may_wait = {1005}, True, False
            return
        code = int.from_bytes(payload[:2])
        wrong: set[int] = set()
        registered = 1000 <= code <= 1014 and code not in (1004, 1005, 1006)
        if len(payload) < 2 or not (registered or 3000 <= code <= 4999):
            wrong.add(1002)
        try:
            payload[2:].decode()
        except UnicodeDecodeError:
            wrong.add(1007)
        if wrong:
            self._violated(wrong)
        else:
            self.codes, self.closed, self.may_wait = {code}, True, False

    def _violated(self, codes: set[int]) -> None:
        self.codes, self.may_wait = codes, False


def _unmask(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    key = int.from_bytes((mask * (size // 4 + 1))[:size])
    return (int.from_bytes(data) ^ key).to_bytes(size)
