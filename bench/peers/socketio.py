"""Socket.IO on Node, with its Redis adapter."""

from __future__ import annotations

from bench.peers.installed import NODE_MODULES, lacking, node_versions, post_json, start_node
from bench.peers.peer import Dialect, Peer, Post, Running, Workplace
from bench.peers.python_socketio import DIALECT


class Socketio(Peer):
    """Authenticated by a middleware, rooms `user:<id>` and `all`; WebSocket only."""

    name = "socketio"
    label = "Socket.IO (Node)"

    def missing(self) -> str | None:
        return lacking(NODE_MODULES / "socket.io")

    def version(self) -> str:
        return node_versions("socket.io", "@socket.io/redis-adapter", "ioredis")

    def start(self, workplace: Workplace) -> Running:
        return start_node(workplace, "socketio.js")

    def dialect(self) -> Dialect:
        return DIALECT

    def post_to_user(self) -> Post:
        return post_json("user:{user}")

    def post_to_all(self, events: int = 1) -> Post | None:
        return post_json("all") if events == 1 else None
