"""No token, no key and no payload is ever in the log, whoever writes the line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from urllib.parse import quote

import httpx2
import pytest
from websockets.exceptions import WebSocketException

from service.broker.embedded import EmbeddedEngine
from tests.edge.test_handshake import WAYS, dial
from tests.edge.wire import open_socket, request_bytes
from tests.harness.process import KEY, PATIENCE, SECRET, Herald, eventually, mint, open_herald


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_no_credential_is_ever_logged(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, log_format: str
) -> None:
    herald = start(own_engine.url, log_format=log_format, log_level="DEBUG", engine_timeout="0.5")
    good, service = mint("secretive"), mint("service", scope="publish")
    bad = mint("secretive", secret="y" * 40)
    odd = "odd-token-that-is-no-jwt-at-all"
    wrong_key = "wrong-key-9876543210"
    payload = "payload-that-nobody-may-read"
    tokens = [good, service, bad, odd]

    async def use_all(tokens: list[str], credentials: list[str]) -> None:
        for token in tokens:
            for way in WAYS:
                for herald_v1 in (False, True):
                    with contextlib.suppress(WebSocketException):
                        client = await dial(herald, way, token, herald_v1=herald_v1)
                        await client.socket.close()
            with contextlib.suppress(WebSocketException):
                client = await open_herald(herald, token=token)
                await client.send(type="auth", token=token)
                await client.send(type=token)
                await client.socket.send(b'{"token":"' + token.encode())
                await client.closed()
        for credential in credentials:
            body = {"to": "user:secretive", "type": "t", "data": payload}
            herald.post("/v1/events", body, authorization=f"Bearer {credential}")
            herald.post("/v1/events", f'{{"{payload}'.encode())
            url = f"{herald.url}/v1/channels/all/events?token={quote(credential)}"
            httpx2.get(url, headers={"authorization": f"Bearer {credential}"}, timeout=PATIENCE)
            # Requests that uvicorn itself complains about.
            for data in (
                f"GET /v1/ws?token={credential} HTTP/9.9\r\n\r\n".encode(),
                request_bytes(
                    "GET",
                    f"/v1/ws?token={credential}",
                    {
                        "connection": "upgrade",
                        "upgrade": "websocket",
                        "authorization": f"Bearer {credential}",
                        "sec-websocket-protocol": f"herald.v1, bearer.{credential}",
                    },
                ),
                f"GET /?token={credential} HTTP/1.1\r\nupgrade: h2c\r\n"
                f"connection: upgrade\r\nauthorization: Bearer {credential}\r\n\r\n".encode(),
            ):
                with open_socket(herald.port) as sock:
                    sock.sendall(data)
                    sock.recv(1000)

    await use_all(tokens, [*tokens, KEY, wrong_key])
    own_engine.kill()
    await eventually(lambda: not herald.is_ready(), "the loss of the engine")
    await use_all([good], [good, KEY])
    assert herald.stop() == 0
    log = herald.log()
    assert len(log.splitlines()) > 5, "nothing was logged at all"
    for secret in (*tokens, KEY, wrong_key, SECRET, payload):
        assert secret not in log
    for token in tokens[:3]:
        _, body, signature = token.split(".")
        assert body not in log
        assert signature not in log
