"""The `ws` library on Node, with Redis pub/sub."""

from __future__ import annotations

from bench.peers.installed import NODE_MODULES, lacking, node_versions, post_json, start_node
from bench.peers.peer import Dialect, Peer, Post, Running, Workplace


class Ws(Peer):
    """A map from user to sockets; pings as the README shows them."""

    name = "ws"
    label = "ws (Node) + Redis pub/sub"

    def missing(self) -> str | None:
        return lacking(NODE_MODULES / "ws")

    def version(self) -> str:
        return node_versions("ws", "ioredis")

    def start(self, workplace: Workplace) -> Running:
        return start_node(workplace, "ws.js")

    def dialect(self) -> Dialect:
        return Dialect(["GET /ws HTTP/1.1", "Authorization: Bearer {token}"])

    def post_to_user(self) -> Post:
        return post_json("user:{user}")

    def post_to_all(self, events: int = 1) -> Post | None:
        return post_json("all") if events == 1 else None
