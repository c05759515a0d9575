"""Stores an event whose push is lost: what the engine's at-most-once pub/sub may do at any time."""

from __future__ import annotations

import time

import redis

from service.broker import keys, scripts
from service.core.event import Event, encode_fragment


def store_without_push(engine_url: str, channel: str, data: str) -> str:
    """Run the publish script with nobody's live channel; gives back the position."""
    event = Event((channel,), "test", data.encode(), None, None)
    now = time.time()
    with redis.Redis.from_url(engine_url) as client:
        reply = client.eval(
            scripts.PUBLISH.source,
            2,
            keys.meta_key(channel),
            keys.log_key(channel),
            encode_fragment(event, int(now * 1000)),
            b"nobody:{%b}" % channel.encode(),
            "100",
            "86400000",
            "86400000",
            str(int(now * 1e6)),
            "",
        )
    return bytes(reply[1]).decode()
