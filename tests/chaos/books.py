"""What publishers and subscribers write down, as it comes: the checker's only evidence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

Position = tuple[int, int]
"""Epoch and sequence number."""


def read_position(text: str) -> Position:
    epoch, _, seq = text.partition("-")
    return int(epoch), int(seq)


class Accepted(NamedTuple):
    """An event that was answered with 202."""

    position: Position
    number: int


class Joined(NamedTuple):
    """The welcome's position, of a channel for which the subscriber had none."""

    position: Position


class Event(NamedTuple):
    position: Position
    number: int


class Gap(NamedTuple):
    since: Position
    to: Position


Record = Joined | Event | Gap


@dataclass
class PublisherBook:
    """Of one publisher, which alone publishes to its channels, one event after the other."""

    accepted: dict[str, list[Accepted]] = field(default_factory=dict)
    attempts: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Answers other than 202, and connections that broke, by kind. Each was repeated."""
    abandoned: int = 0
    """Events that were never answered with 202: they may come or not."""

    def accept(self, channel: str, position: str, number: int) -> None:
        accepted = Accepted(read_position(position), number)
        self.accepted.setdefault(channel, []).append(accepted)


@dataclass
class SubscriberBook:
    """Of one subscriber, over all of its connections."""

    name: str
    records: dict[str, list[Record]] = field(default_factory=dict)
    late: bool = False
    """It came when everything was over, and asked for all that is retained (`0-0`): a witness."""
    connections: int = 0
    closes: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    """What no server may say to a client that keeps to the protocol."""
    received: int = 0

    def write(self, channel: str, record: Record) -> None:
        self.records.setdefault(channel, []).append(record)
