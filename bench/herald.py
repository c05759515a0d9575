"""Herald as the benchmark drives it: `herald serve`, as its users run it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version

from bench.peers.peer import (
    API_KEY,
    SECRET,
    TEXT,
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
from service import __version__

DATA = json.dumps({"mark": "{mark}", "text": TEXT}, separators=(",", ":"))
_HEAD = (f"Authorization: Bearer {API_KEY}", "Content-Type: application/json")
SINGLE = ("POST /v1/events HTTP/1.1", *_HEAD)
BATCH = ("POST /v1/events/batch HTTP/1.1", *_HEAD)
NDJSON = (BATCH[0], _HEAD[0], "Content-Type: application/x-ndjson")


def event(to: str) -> str:
    """The body of one event."""
    return f'{{"to":"{to}","type":"order.shipped","data":{DATA}}}'


def events(to: str, count: int) -> str:
    """The body of a batch."""
    return '{{"events":[{}]}}'.format(",".join([event(to)] * count))


class HeraldServer(Peer):
    """Herald, with settings of one's own."""

    name = "herald"
    label = "**Herald**"
    authenticates = True
    stores = True
    install = "make run"

    def __init__(self, settings: Mapping[str, str] | None = None, *, plain: bool = True) -> None:
        self._settings = dict(settings or {})
        self._plain = plain
        if not plain:
            self.name, self.label = "herald.v1", "**Herald**, herald.v1"

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return f"{__version__} on uvicorn {version('uvicorn')}, uvloop {version('uvloop')}"

    def start(self, workplace: Workplace) -> Running:
        port = free_port()
        settings = {
            "port": str(port),
            "redis_url": workplace.engine_url,
            "jwt_secret": SECRET,
            "api_keys": API_KEY,
            "log_level": "warning",
            "drain_seconds": "1",
            **self._settings,
        }
        process = workplace.spawn(
            [sys.executable, "-m", "service", "serve"],
            {f"HERALD_{name.upper()}": value for name, value in settings.items()},
        )
        wait_for_port(port, process)
        return Running([process.pid], port, port)

    def dialect(self) -> Dialect:
        if self._plain:
            return Dialect(
                ("GET /v1/ws HTTP/1.1", "Authorization: Bearer {token}"), [Expect('"welcome"')]
            )
        return Dialect(
            ("GET /v1/ws HTTP/1.1", "Sec-WebSocket-Protocol: herald.v1"),
            [Say('{"type":"connect","token":"{token}"}'), Expect('"welcome"')],
            ping='{"type":"ping"}',
            pong='{"type":"pong"}',
        )

    def post_to_user(self) -> Post:
        return Post(SINGLE, event("user:{user}"))

    def post_to_all(self, events_: int = 1) -> Post:
        return Post(SINGLE, event("all")) if events_ == 1 else Post(BATCH, events("all", events_))
