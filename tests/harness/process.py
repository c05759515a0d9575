"""A Herald process under test, started as its users start it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

SECRET = "a secret of at least thirty-two bytes, for tests"
KEY = "an-api-key-for-tests"
_LOWEST_PORT = 10_000
PATIENCE = 30.0
"""Seconds: generous, because the machine may be busy; a condition that holds returns at once."""


def free_port() -> int:
    """A port that nobody listens on, and that no outgoing connection is given meanwhile.

    The kernel gives those from 32768 on (`ip_local_port_range`).
    """
    while True:
        port = _LOWEST_PORT + secrets.randbelow(32768 - _LOWEST_PORT)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def clean_environment(**settings: str) -> dict[str, str]:
    """This environment without HERALD_ names, and with these; `port="1"` is HERALD_PORT=1."""
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith("HERALD_")
    }
    environment.update({f"HERALD_{name.upper()}": text for name, text in settings.items()})
    return environment


def mint(user: str = "alice", *, ttl: float = 3600.0, secret: str = SECRET, **claims: Any) -> str:
    """A user token; claims with the value None are left out."""
    body = {"sub": user, "exp": time.time() + ttl, **claims}
    return jwt.encode({k: v for k, v in body.items() if v is not None}, secret, algorithm="HS256")


class Herald:
    """One running `herald serve`. Its output is kept in `log_file`.

    `module` is started with `python -m`.
    """

    def __init__(
        self,
        engine_url: str,
        directory: Path,
        *,
        module: str = "service",
        **settings: str | None,
    ) -> None:
        self._module = module
        self.port = free_port()
        self.log_file = directory / f"herald-{self.port}.log"
        given: dict[str, str | None] = {
            "port": str(self.port),
            "redis_url": engine_url,
            "jwt_secret": SECRET,
            "api_keys": KEY,
            "log_level": "debug",
            "log_format": "json",
            **settings,
        }
        # None takes one of the above away.
        self.settings = {name: text for name, text in given.items() if text is not None}
        self.api_port = int(self.settings.get("api_port", self.port))
        # One client for all requests: making one costs more than a request.
        self.http = httpx2.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log_file.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", self._module, "serve"],
                env=clean_environment(**self.settings),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def wait_ready(self) -> None:
        """Until readiness says so; raises with the log where the process has ended."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"herald ended with {self.process.returncode}: {self.log()}")
            if self.is_ready():
                return
            time.sleep(0.02)
        raise AssertionError(f"herald was not ready in time: {self.log()}")

    def is_ready(self) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return self.http.get("/healthz/ready", timeout=5.0).status_code == 200
        return False

    def metrics(self) -> dict[str, float]:
        """Every sample, by its name and labels as they are written."""
        text = self.http.get("/metrics").text
        samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, and the exit status; one that does not end is killed and fails the test."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"herald did not end: {self.log()}") from None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        self.process = self._start()
        self.wait_ready()

    def publish(self, to: str | list[str], data: Any = None, **fields: Any) -> dict[str, Any]:
        """Publish one event that must be accepted; gives back the answer."""
        body = {"to": to, "type": fields.pop("type", "test"), "data": data, **fields}
        answer = self.post("/v1/events", body)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        """POST JSON (or bytes as they are) with the API key; header names with `_` for `-`."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        return self.http.post(path, content=content, headers=sent)

    def get(self, path: str, **params: str) -> httpx2.Response:
        headers = {"authorization": f"Bearer {KEY}"}
        return self.http.get(path, params=params, headers=headers)


class Client:
    """A WebSocket client that keeps what it was told."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def next(self) -> dict[str, Any]:
        """The next message, pings passed over."""
        async with asyncio.timeout(PATIENCE):
            while True:
                message: dict[str, Any] = json.loads(await self.socket.recv())
                if message["type"] != "ping":
                    return message

    async def expect(self, kind: str) -> dict[str, Any]:
        """The next message, which must be of this type."""
        message = await self.next()
        assert message["type"] == kind, message
        return message

    async def events(self, count: int) -> list[dict[str, Any]]:
        """The next messages, which must be so many events."""
        return [await self.expect("event") for _ in range(count)]

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def closed(self) -> int:
        """Read to the end; gives back the close code (1006 for none)."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.socket.recv()
        return self.socket.close_code or 1006

    async def close(self) -> None:
        await self.socket.close()


async def open_plain(herald: Herald, query: str = "", token: str | None = None) -> Client:
    """A plain connection, its token in the Authorization header."""
    headers = {"authorization": f"Bearer {mint() if token is None else token}"}
    url = herald.ws_url + (f"?{query}" if query else "")
    return Client(
        await connect(
            url,
            additional_headers=headers,
            compression=None,
            proxy=None,
            open_timeout=PATIENCE,
            ping_interval=None,
            max_size=None,
        )
    )


async def open_herald(
    herald: Herald, *, token: str | None = None, connect_message: bool = True, **fields: Any
) -> Client:
    """A `herald.v1` connection, its `connect` sent; `fields` go into that message."""
    client = Client(
        await connect(
            herald.ws_url,
            subprotocols=["herald.v1"],
            compression=None,
            proxy=None,  # type: ignore[list-item]
            open_timeout=PATIENCE,
            ping_interval=None,
            max_size=None,
        )
    )
    if connect_message:
        with contextlib.suppress(ConnectionClosed):  # refused already: `closed` says how
            await client.send(type="connect", token=mint() if token is None else token, **fields)
    return client


async def eventually(
    condition: Any, what: str = "the condition", patience: float = PATIENCE
) -> None:
    """Wait until `condition()` holds, for as long as a busy machine may need."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        await asyncio.sleep(0.02)


@contextlib.contextmanager
def running(engine_url: str, directory: Path, **settings: str | None) -> Iterator[Herald]:
    """A Herald that is ready, and is stopped in the end."""
    herald = Herald(engine_url, directory, **settings)
    try:
        herald.wait_ready()
        yield herald
    finally:
        if herald.process.poll() is None:
            herald.stop()


@contextlib.asynccontextmanager
async def raw_websocket(
    herald: Herald, token: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A plain connection as bare streams, its handshake answered: it does nothing by itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", herald.port)
    try:
        writer.write(websocket_request(token))
        await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def websocket_request(token: str) -> bytes:
    """The handshake of a plain client."""
    return (
        f"GET /v1/ws?token={token} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
