"""The Mercure hub, which keeps its updates in a Bolt file and speaks SSE."""

from __future__ import annotations

import json
import time
from urllib.parse import quote

import jwt

from bench.peers.installed import BIN, DATA, TYPE, lacking, said_by
from bench.peers.peer import (
    HEARTBEAT,
    SECRET,
    Dialect,
    Peer,
    Post,
    Running,
    Workplace,
    free_port,
    wait_for_port,
)

_BINARY = BIN / "mercure"

_CONFIGURATION = """
{{
    admin off
    auto_https off
    persist_config off
    log {{
        level ERROR
    }}
}}

http://127.0.0.1:{port} {{
    bind 127.0.0.1
    mercure {{
        publisher_jwt {secret} HS256
        subscriber_jwt {secret} HS256
        transport bolt {{
            path {folder}/mercure.db
            size 10000
        }}
        heartbeat {heartbeat}s
        write_timeout 0s
    }}
}}
"""


class Mercure(Peer):
    """Private updates for a user's topic, public ones for `all`; every subscriber has a token."""

    name = "mercure"
    label = "Mercure (SSE, Bolt)"
    stores = True
    install = "put mercure on PATH as its documentation says, then: make bench-peers"

    def missing(self) -> str | None:
        return lacking(_BINARY)

    def version(self) -> str:
        return said_by(str(_BINARY), "version")

    def start(self, workplace: Workplace) -> Running:
        port = free_port()
        configuration = workplace.directory / "Caddyfile"
        configuration.write_text(
            _CONFIGURATION.format(
                port=port, secret=SECRET, folder=workplace.directory, heartbeat=HEARTBEAT
            )
        )
        process = workplace.spawn(
            [str(_BINARY), "run", "--config", str(configuration), "--adapter", "caddyfile"],
            {
                "GOMAXPROCS": str(len(workplace.server_cpus)),
                "XDG_DATA_HOME": str(workplace.directory),
                "XDG_CONFIG_HOME": str(workplace.directory),
            },
        )
        wait_for_port(port, process)
        return Running([process.pid], port, port)

    def dialect(self) -> Dialect:
        return Dialect(
            [
                "GET /.well-known/mercure?topic=user%3A{user}&topic=all HTTP/1.1",
                "Authorization: Bearer {token}",
                "Accept: text/event-stream",
            ],
            stream=True,
        )

    def post_to_user(self) -> Post:
        return _post("topic=user%3A{user}&private=on")

    def post_to_all(self, events: int = 1) -> Post | None:
        return _post("topic=all") if events == 1 else None

    def token(self, user: str) -> str:
        """With the `mercure` claim, that names the private topics."""
        return _sign({"sub": user, "mercure": {"subscribe": [f"user:{user}"]}})


def _sign(claims: dict[str, object]) -> str:
    return jwt.encode({**claims, "exp": int(time.time()) + 86400}, SECRET, "HS256")


def _post(form: str) -> Post:
    before, mark, after = json.dumps(DATA, separators=(",", ":")).partition("{mark}")
    return Post(
        [
            "POST /.well-known/mercure HTTP/1.1",
            f"Authorization: Bearer {_sign({'mercure': {'publish': ['*']}})}",
            "Content-Type: application/x-www-form-urlencoded",
        ],
        f"{form}&type={TYPE}&data={quote(before, safe='')}{mark}{quote(after, safe='')}",
    )
