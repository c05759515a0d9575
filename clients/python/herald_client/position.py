"""A place in a channel's log, written `<epoch>-<seq>`."""

from __future__ import annotations

import re

BEGINNING = "0-0"
"""Asks for everything that is retained."""

_TEXT = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)
_MAX = 2**64 - 1


def parse_position(text: str) -> tuple[int, int]:
    """Epoch and sequence number: two numbers below 2^64, compared in this order, never as text.

    Raises:
        ValueError: if `text` is no position.
    """
    match = _TEXT.fullmatch(text)
    if match:
        epoch, seq = int(match[1]), int(match[2])
        if epoch <= _MAX and seq <= _MAX:
            return epoch, seq
    raise ValueError(f"A position is <epoch>-<seq>, as 1763790000000-17; this is {text[:60]!r}.")
