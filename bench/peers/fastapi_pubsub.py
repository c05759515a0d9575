"""FastAPI with Redis pub/sub: the pattern of its tutorials."""

from __future__ import annotations

from bench.peers.installed import PYTHON, lacking, post_json, python_versions, start_uvicorn
from bench.peers.peer import HEARTBEAT, Dialect, Peer, Post, Running, Workplace


class FastapiPubsub(Peer):
    """`@app.websocket`, a connection manager, one listener task, `send_text` in a loop."""

    name = "fastapi_pubsub"
    label = "FastAPI + Redis pub/sub"

    def missing(self) -> str | None:
        return lacking(PYTHON)

    def version(self) -> str:
        return python_versions("fastapi", "uvicorn", "redis")

    def start(self, workplace: Workplace) -> Running:
        return start_uvicorn(workplace, "fastapi_pubsub:app", "--ws-ping-interval", str(HEARTBEAT))

    def dialect(self) -> Dialect:
        return Dialect(["GET /ws?token={token} HTTP/1.1"])

    def post_to_user(self) -> Post:
        return post_json("user:{user}")

    def post_to_all(self, events: int = 1) -> Post | None:
        return post_json("all") if events == 1 else None
