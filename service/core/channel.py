"""Channel names and who may subscribe to which topic.

A channel is a plain `str` that has passed `parse_channel`:
`user:<id>` (any text without control characters, 1 to 255 bytes of UTF-8),
`topic:<name>` (1 to 200 of `A-Z a-z 0-9 . _ : @ / -`), or `all`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from service.core.errors import InvalidChannel

ALL = "all"
_TOPIC = re.compile(r"[A-Za-z0-9._:@/-]{1,200}", re.ASCII)
_PATTERN = re.compile(r"[A-Za-z0-9._:@/-]{0,200}\*", re.ASCII)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def user_channel(user: str) -> str:
    """The channel of one user, whose id is a token's `sub`.

    Raises:
        InvalidChannel: if the id is empty, longer than 255 bytes or has a control character.
    """
    try:
        size = len(user.encode())
    except UnicodeEncodeError:
        raise InvalidChannel("A user id is text; this one has a lone surrogate.") from None
    if not 1 <= size <= 255:
        raise InvalidChannel(f"A user id has 1 to 255 bytes of UTF-8; this one has {size}.")
    if _CONTROL.search(user):
        raise InvalidChannel("A user id has no control characters.")
    return "user:" + user


def topic_channel(topic: str) -> str:
    """The channel of one topic.

    Raises:
        InvalidChannel: if the name is not 1 to 200 of `A-Z a-z 0-9 . _ : @ / -`.
    """
    if not _TOPIC.fullmatch(topic):
        raise InvalidChannel(
            f"A topic name is 1 to 200 of A-Z a-z 0-9 . _ : @ / -; this is {topic[:60]!r}."
        )
    return "topic:" + topic


def parse_channel(text: str) -> str:
    """Check a channel name and give it back.

    Raises:
        InvalidChannel: if it is none of `user:<id>`, `topic:<name>`, `all`.
    """
    kind, colon, name = text.partition(":")
    if colon and kind == "user":
        return user_channel(name)
    if colon and kind == "topic":
        return topic_channel(name)
    if text == ALL:
        return text
    raise InvalidChannel(f"A channel is user:<id>, topic:<name> or all; this is {text[:60]!r}.")


class TopicGrant(NamedTuple):
    """The topics that a token permits: exact names, joined at connect, and prefixes."""

    names: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def permits(self, topic: str) -> bool:
        """Whether the holder may subscribe to `topic`."""
        return topic in self.names or any(topic.startswith(prefix) for prefix in self.prefixes)


NO_TOPICS = TopicGrant()
"""Shared by all tokens without topics."""


def parse_topic_grant(items: Iterable[str]) -> TopicGrant:
    """Read a token's `topics`: names, and patterns (a prefix and one final `*`).

    Raises:
        InvalidChannel: if an item is neither.
    """
    names: dict[str, None] = {}
    prefixes: dict[str, None] = {}
    for item in items:
        if _PATTERN.fullmatch(item):
            prefixes[item[:-1]] = None
        else:
            topic_channel(item)
            names[item] = None
    return TopicGrant(tuple(names), tuple(prefixes)) if names or prefixes else NO_TOPICS
