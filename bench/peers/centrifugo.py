"""Centrifugo with its Redis engine."""

from __future__ import annotations

import json
import time

import jwt

from bench.peers.installed import BIN, DATA, TYPE, lacking, said_by
from bench.peers.peer import (
    API_KEY,
    HEARTBEAT,
    SECRET,
    Dialect,
    Expect,
    Peer,
    Post,
    Running,
    Say,
    Workplace,
    free_port,
    wait_for_port,
)

_BINARY = BIN / "centrifugo"

_STORED = {
    "history_size": 100,
    "history_ttl": "24h",
    "force_positioning": True,
    "force_recovery": True,
}
"""Each channel keeps a history from which a client resumes."""


class Centrifugo(Peer):
    """Server-side subscriptions from the token, a recoverable history, the HTTP API."""

    name = "centrifugo"
    label = "Centrifugo 6 + Redis"
    stores = True
    install = "put centrifugo on PATH as its documentation says, then: make bench-peers"

    def missing(self) -> str | None:
        return lacking(_BINARY)

    def version(self) -> str:
        return said_by(str(_BINARY), "version")

    def start(self, workplace: Workplace) -> Running:
        port = free_port()
        configuration = workplace.directory / "centrifugo.json"
        configuration.write_text(
            json.dumps(
                {
                    "http_server": {"address": "127.0.0.1", "port": port},
                    "log": {"level": "error"},
                    "usage_stats": {"disabled": True},
                    "engine": {
                        "type": "redis",
                        "redis": {"address": f"redis://127.0.0.1:{workplace.engine_port}"},
                    },
                    "client": {
                        "token": {"hmac_secret_key": SECRET},
                        "ping_interval": f"{HEARTBEAT}s",
                    },
                    "http_api": {"key": API_KEY},
                    "channel": {
                        "without_namespace": _STORED,
                        "namespaces": [{"name": "user", **_STORED}],
                    },
                },
                indent=2,
            )
        )
        process = workplace.spawn(
            [str(_BINARY), "--config", str(configuration)],
            {"GOMAXPROCS": str(len(workplace.server_cpus))},
        )
        wait_for_port(port, process)
        return Running([process.pid], port, port)

    def dialect(self) -> Dialect:
        return Dialect(
            ["GET /connection/websocket HTTP/1.1"],
            [Say('{"id":1,"connect":{"token":"{token}"}}'), Expect('"connect":{')],
            ping="{}",
            pong="{}",
        )

    def post_to_user(self) -> Post:
        return _post("publish", _event("user:{user}"))

    def post_to_all(self, events: int = 1) -> Post | None:
        if events == 1:
            return _post("publish", _event("all"))
        return _post("batch", {"commands": [{"publish": _event("all")}] * events})

    def token(self, user: str) -> str:
        """With the `channels` claim, that subscribes the connection."""
        claims = {
            "sub": user,
            "exp": int(time.time()) + 86400,
            "channels": ["all", f"user:{user}"],
        }
        return jwt.encode(claims, SECRET, "HS256")


def _event(channel: str) -> dict[str, object]:
    return {"channel": channel, "data": {"type": TYPE, "data": DATA}}


def _post(method: str, body: dict[str, object]) -> Post:
    return Post(
        [
            f"POST /api/{method} HTTP/1.1",
            f"X-API-Key: {API_KEY}",
            "Content-Type: application/json",
        ],
        json.dumps(body, separators=(",", ":")),
    )
