"""Django Channels with channels_redis."""

from __future__ import annotations

from bench.peers.installed import PYTHON, lacking, post_json, python_versions, start_uvicorn
from bench.peers.peer import HEARTBEAT, Dialect, Peer, Post, Running, Workplace


class Channels(Peer):
    """An AsyncWebsocketConsumer, groups, and the pub/sub channel layer; uvicorn serves it."""

    name = "channels"
    label = "Django Channels"

    def missing(self) -> str | None:
        return lacking(PYTHON)

    def version(self) -> str:
        return python_versions("channels", "channels-redis", "Django", "uvicorn")

    def start(self, workplace: Workplace) -> Running:
        return start_uvicorn(
            workplace, "channels_site:application", "--ws-ping-interval", str(HEARTBEAT)
        )

    def dialect(self) -> Dialect:
        return Dialect(["GET /ws/ HTTP/1.1", "Authorization: Bearer {token}"])

    def post_to_user(self) -> Post:
        return post_json("user.{user}")

    def post_to_all(self, events: int = 1) -> Post | None:
        return post_json("all") if events == 1 else None
