"""python-socketio with its Redis manager."""

from __future__ import annotations

from bench.peers.installed import PYTHON, lacking, post_json, python_versions, start_uvicorn
from bench.peers.peer import HEARTBEAT, Dialect, Expect, Peer, Post, Running, Say, Workplace

DIALECT = Dialect(
    ["GET /socket.io/?EIO=4&transport=websocket HTTP/1.1"],
    [Expect('0{"sid"'), Say('40{"token":"{token}"}'), Expect('40{"sid"')],
    ping="2",
    pong="3",
)
"""Engine.IO 4 and Socket.IO 5 on a WebSocket: the token in the CONNECT packet; pings are `2`."""


class PythonSocketio(Peer):
    """An AsyncServer with rooms; WebSocket only, pings of its own."""

    name = "python_socketio"
    label = "python-socketio"

    def missing(self) -> str | None:
        return lacking(PYTHON)

    def version(self) -> str:
        return python_versions("python-socketio", "python-engineio", "uvicorn")

    def start(self, workplace: Workplace) -> Running:
        # uvicorn's own pings are kept out of the way: Engine.IO has pings, every 25 s by default.
        return start_uvicorn(
            workplace, "socketio_app:application", "--ws-ping-interval", str(HEARTBEAT * 1000)
        )

    def dialect(self) -> Dialect:
        return DIALECT

    def post_to_user(self) -> Post:
        return post_json("user:{user}")

    def post_to_all(self, events: int = 1) -> Post | None:
        return post_json("all") if events == 1 else None
