"""`Send` to `Answer` or `Mishap`, over httpx2: the only I/O of publishing.

httpx2 rather than urllib3 and aiohttp: it is one library for both colours, typed, maintained by
Pydantic, and what Starlette's own test client uses.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Mapping
from typing import Any, NamedTuple

import httpx2

from herald_client.errors import Closed
from herald_client.exchange import Answer, Mishap, Outcome, Send
from herald_client.target import Target

_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=60.0)
"""Herald closes idle connections after 75 seconds: ours go first, so that none is closed by the
server just when it is used again."""
_LATE = "No answer in time."
_CLOSED = "This publisher was closed."


class SyncTransport:
    """One pool of connections, made when it is first needed; safe in threads.

    `forget` is for a forked child: the parent's sockets are left to the parent. They are dropped,
    not closed, because closing takes locks that another thread of the parent may have held.
    """

    def __init__(self, target: Target, tls: ssl.SSLContext) -> None:
        self._target = target
        self._tls = tls
        self._closed = False
        self._begin()

    def forget(self) -> None:
        """Begin anew, with no connection."""
        self._forgotten.detach()
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._open: list[httpx2.Client] = []
        # Of one that nobody closes, too, no socket is left open.
        self._forgotten = weakref.finalize(self, _close_all, self._open)
        self._forgotten.atexit = False  # what is sent at the very end still needs them

    def send(self, request: Send) -> Outcome:
        """Send a request; whatever goes wrong on the way is a `Mishap`.

        Raises:
            Closed
        """
        patience = _Patience(request.timeout)
        try:
            with self._pool().stream(
                request.method,
                self._target.url + request.path,
                content=request.body,
                headers=_headers(self._target, request),
                extensions={"timeout": patience},
            ) as response:
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    if patience.is_over():
                        return Mishap(_LATE)
        except httpx2.RequestError as error:
            return _mishap(error, self._target)
        except RuntimeError:  # of httpx2, whose client was closed since we took it
            if self._closed:
                raise Closed(_CLOSED) from None
            raise
        return _answer(response, bytes(body))

    def rest(self) -> None:
        """Close the connections; what is sent later opens others."""
        with self._lock:
            _close_all(self._open)

    def close(self) -> None:
        """Close the connections; nothing is sent any more."""
        self._closed = True
        self.rest()

    def _pool(self) -> httpx2.Client:
        with self._lock:
            if self._closed:
                raise Closed(_CLOSED)
            if not self._open:
                self._open.append(httpx2.Client(limits=_LIMITS, verify=self._tls))
            return self._open[0]


class AsyncTransport:
    """One pool of connections for each event loop, because a connection belongs to its loop."""

    def __init__(self, target: Target, tls: ssl.SSLContext) -> None:
        self._target = target
        self._tls = tls
        self._closed = False
        self._parents: list[object] = []
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}

    def forget(self) -> None:
        """Begin anew, with no connection; for a forked child.

        The parent's are kept, and never used: dropped, they would be closed by its loop.
        """
        self._parents.append(self._pools)
        self._pools = {}

    async def send(self, request: Send) -> Outcome:
        """Send a request; whatever goes wrong on the way is a `Mishap`.

        Raises:
            Closed
        """
        try:
            async with asyncio.timeout(request.timeout):
                client = await self._client()
                response = await client.request(
                    request.method,
                    self._target.url + request.path,
                    content=request.body,
                    headers=_headers(self._target, request),
                    timeout=httpx2.Timeout(request.timeout),
                    extensions={"trace": _Trace()} if self._target.url[:6] == "https:" else None,
                )
        except TimeoutError:
            return Mishap(_LATE)
        except httpx2.RequestError as error:
            return _mishap(error, self._target)
        except RuntimeError:  # of httpx2, whose client was closed since we took it
            if self._closed:
                raise Closed(_CLOSED) from None
            raise
        return _answer(response, response.content)

    async def close(self) -> None:
        """Close this loop's connections; nothing is sent any more."""
        self._closed = True
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.life.aclose()

    async def _client(self) -> httpx2.AsyncClient:
        if self._closed:
            raise Closed(_CLOSED)
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None or pool.client.is_closed:
            # A framework may make a loop for each request: what the ended ones left is dropped.
            for ended in [other for other in list(self._pools) if other.is_closed()]:
                self._pools.pop(ended, None)
            client = httpx2.AsyncClient(limits=_LIMITS, verify=self._tls)
            pool = self._pools[loop] = _Pool(client, _life(client))
            await anext(pool.life)
        return pool.client


class _Pool(NamedTuple):
    client: httpx2.AsyncClient
    life: AsyncGenerator[None, None]


async def _life(client: httpx2.AsyncClient) -> AsyncGenerator[None, None]:
    """Lasts as long as the pool.

    A loop that ends ends its asynchronous generators first, and so the connections of a publisher
    that nobody closes are closed while they can be.
    """
    try:
        yield
    finally:
        await client.aclose()


class _Trace:
    """Closes a connection whose TLS handshake is cut short by a cancellation.

    httpcore does so only after errors, and would leave the socket open. Called by it (the extension
    `trace`) with what it does.
    """

    def __init__(self) -> None:
        self._stream: Any = None

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(".connect_tcp.complete"):
            self._stream = info["return_value"]
        elif event.endswith(".start_tls.failed") and self._stream is not None:
            await self._stream.aclose()


class _Patience(dict[str, float | None]):
    """The timeouts of one attempt's steps (httpcore's extension `timeout`): what is left of it."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._until = time.monotonic() + seconds

    def is_over(self) -> bool:
        return time.monotonic() >= self._until

    def get(self, step: str, default: Any = None) -> float:
        """Never 0 or less, which sockets take for something else."""
        return max(0.001, self._until - time.monotonic())


def _close_all(clients: list[httpx2.Client]) -> None:
    while clients:
        clients.pop().close()


def _headers(target: Target, request: Send) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {target.key}"}
    if request.body is not None:
        headers["Content-Type"] = "application/json"
    return headers


def _answer(response: httpx2.Response, body: bytes) -> Answer:
    return Answer(response.status_code, response.headers.get("retry-after"), body)


def _mishap(error: httpx2.RequestError, target: Target) -> Mishap:
    said = str(error) or type(error).__name__
    if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError):
        return Mishap(f"No connection to {target.url}: {said}.")
    if isinstance(error, httpx2.TimeoutException):
        return Mishap(_LATE)
    return Mishap(f"The connection to {target.url} was lost: {said}.")
