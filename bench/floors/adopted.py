"""The handshake with nothing behind it: the socket is opened, adopted, and a welcome is written. No
token is verified, no channel joined, no engine asked: `python -m bench.floors.adopted PORT`. What
Herald's connects per second are held against.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any, cast

import uvicorn

from service.core.frames import text_frame
from service.edge.doors import Doors, Upgrade
from service.edge.http import HeraldHttp
from service.edge.policy import HttpPolicy
from service.telemetry.metrics import Metrics

WELCOME = text_frame(b'{"type":"welcome","connection":"","user":"u00000","channels":{}}')


class Adopted(asyncio.Protocol):
    __slots__ = ("transport",)

    def __init__(self, transport: asyncio.Transport, welcome: bytes) -> None:
        self.transport = transport
        transport.set_protocol(self)
        transport.write(welcome)


_adopted: set[Adopted] = set()


def _open(upgrade: Upgrade) -> None:
    transport, _ = upgrade.accept(None)
    _adopted.add(Adopted(transport, WELCOME))


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nothing but WebSockets comes here")


def main() -> None:
    http = partial(HeraldHttp, Doors(_open, {}), HttpPolicy(), Metrics())
    uvicorn.run(
        _nothing,
        port=int(sys.argv[1]),
        loop="uvloop",
        http=cast("type[asyncio.Protocol]", http),
        ws="none",
        lifespan="off",
        log_level="warning",
        backlog=4096,
        server_header=False,
    )


if __name__ == "__main__":
    main()
