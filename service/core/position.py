"""A place in a channel's log.

Written `<epoch>-<seq>`. The epoch is the engine's Unix time in milliseconds when the log was
(re)created, so positions are ordered across epochs; within one epoch `seq` is contiguous from 1,
so a hole is a loss that can be seen. The text is also the entry's ID in the engine's stream.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from service.core.errors import InvalidPosition

_TEXT = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)
_MAX = 2**64 - 1  # a stream ID is two unsigned 64-bit numbers


class Position(NamedTuple):
    """The last event seen: everything up to and including `seq` of `epoch`."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    def is_followed_by(self, other: Position) -> bool:
        """Whether nothing can lie between this place and `other`."""
        return other.epoch == self.epoch and other.seq == self.seq + 1

    def before(self) -> Position:
        """The place just before the event at this position (whose `seq` is at least 1)."""
        return Position(self.epoch, self.seq - 1)

    def epoch_start(self) -> Position:
        """The place just before the first event of its epoch."""
        return Position(self.epoch, 0)


BEGINNING = Position(0, 0)
"""Asks for everything that is retained."""


def parse_position(text: str) -> Position:
    """Read `<epoch>-<seq>`; two decimal numbers below 2**64 without leading zeros.

    Raises:
        InvalidPosition: for anything else.
    """
    match = _TEXT.fullmatch(text)
    if match:
        epoch, seq = int(match[1]), int(match[2])
        if epoch <= _MAX and seq <= _MAX:
            return Position(epoch, seq)
    raise InvalidPosition(
        f"A position is <epoch>-<seq>, as 1763790000000-17; this is {text[:60]!r}."
    )
