"""As `bench.floors.adopted`, with uvicorn's own handshake through ASGI instead of Herald's:
`python -m bench.floors.uvicorn_adopted PORT`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from bench.floors.adopted import WELCOME, Adopted


class _Released(asyncio.Transport):
    """Stands where the transport was, so that uvicorn's cleaning up closes nothing."""

    def close(self) -> None:
        pass

    def is_closing(self) -> bool:
        return True


class _Adoptable(WebSocketsSansIOProtocol):
    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        self.scope["extensions"]["release"] = self._release  # type: ignore[index]

    def _release(self) -> asyncio.Transport:
        transport, self.transport = self.transport, _Released()
        self.connections.discard(self)
        return transport


_adopted: set[Adopted] = set()


async def app(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
    transport = scope["extensions"]["release"]()
    _adopted.add(Adopted(transport, WELCOME))
    transport.resume_reading()


def main() -> None:
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws=_Adoptable,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="off",
        log_level="warning",
        backlog=4096,
        server_header=False,
    )


if __name__ == "__main__":
    main()
