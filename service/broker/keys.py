"""The engine's keys and pub/sub channels.

The kind stands before the hash tag and the channel alone inside it: all keys of one channel are
in one slot of a Cluster, whatever braces the channel's name has, and no channel's key can be
another's.
"""

from __future__ import annotations

import hashlib

_LIVE = b"herald:live:{"


def meta_key(channel: str) -> bytes:
    """The last position given out."""
    return b"herald:meta:{%b}" % channel.encode()


def log_key(channel: str) -> bytes:
    """The stream of retained events."""
    return b"herald:log:{%b}" % channel.encode()


def idempotency_key(channel: str, publisher: str, event_id: str) -> bytes:
    """What became of a publisher's id on this channel."""
    digest = hashlib.sha256(f"{len(publisher)}:{publisher}{event_id}".encode()).hexdigest()[:32]
    return b"herald:id:{%b}:%b" % (channel.encode(), digest.encode())


def live_channel(channel: str) -> bytes:
    """The sharded pub/sub channel on which new events are pushed."""
    return b"%b%b}" % (_LIVE, channel.encode())


def channel_of(live: bytes) -> str:
    """The channel that `live_channel` made `live` from."""
    return live[len(_LIVE) : -1].decode()


def probe_channel(node: str) -> str:
    """The channel on which a node hears itself; no event's channel has this form."""
    return f"probe:{node}"


def probe_key(name: str) -> bytes:
    """What a node writes to see that it can, in the slot of its probe's live channel."""
    return b"herald:probe:{%b}" % name.encode()


def ticket_key(digest: str) -> bytes:
    """Whose a ticket is, until it is used."""
    return b"herald:ticket:{%b}" % digest.encode()
