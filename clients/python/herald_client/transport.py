"""`Send` to `Answer` or `Mishap`, over httpx2: the only I/O of publishing.

httpx2 rather than urllib3 and aiohttp: it is one library for both colours, typed, maintained by
Pydantic, and what Starlette's own test client uses.
"""

from __future__ import annotations

import asyncio
import ssl
import threading

import httpx2

from herald_client.exchange import Answer, Mishap, Outcome, Send
from herald_client.target import Target

_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=60.0)
"""Herald closes idle connections after 75 seconds: ours go first, so that none is closed by the
server just when it is used again."""


class SyncTransport:
    """One pool of connections, made when it is first needed; safe in threads.

    `forget` is for a forked child: the parent's sockets are left to the parent. They are dropped,
    not closed, because closing takes locks that another thread of the parent may have held.
    """

    def __init__(self, target: Target, tls: ssl.SSLContext) -> None:
        self._target = target
        self._tls = tls
        self.forget()

    def forget(self) -> None:
        """Begin anew, with no connection."""
        self._lock = threading.Lock()
        self._client: httpx2.Client | None = None

    def send(self, request: Send) -> Outcome:
        """Send a request; whatever goes wrong on the way is a `Mishap`."""
        try:
            response = self._pool().request(
                request.method,
                self._target.url + request.path,
                content=request.body,
                headers=_headers(self._target, request),
                timeout=httpx2.Timeout(request.timeout),
            )
        except httpx2.RequestError as error:
            return _mishap(error)
        return _answer(response)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _pool(self) -> httpx2.Client:
        with self._lock:
            if self._client is None:
                self._client = httpx2.Client(limits=_LIMITS, verify=self._tls)
            return self._client


class AsyncTransport:
    """One pool of connections for each event loop, because a connection belongs to its loop."""

    def __init__(self, target: Target, tls: ssl.SSLContext) -> None:
        self._target = target
        self._tls = tls
        self.forget()

    def forget(self) -> None:
        """Begin anew, with no connection; for a forked child."""
        self._clients: dict[asyncio.AbstractEventLoop, httpx2.AsyncClient] = {}

    async def send(self, request: Send) -> Outcome:
        """Send a request; whatever goes wrong on the way is a `Mishap`."""
        try:
            async with asyncio.timeout(request.timeout):
                response = await self._pool().request(
                    request.method,
                    self._target.url + request.path,
                    content=request.body,
                    headers=_headers(self._target, request),
                    timeout=httpx2.Timeout(request.timeout),
                )
        except TimeoutError:
            return Mishap("No answer in time.")
        except httpx2.RequestError as error:
            return _mishap(error)
        return _answer(response)

    async def close(self) -> None:
        """Close this loop's connections."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _pool(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            # A framework may make a loop for each request: what the ended ones left is dropped.
            for ended in [other for other in list(self._clients) if other.is_closed()]:
                self._clients.pop(ended, None)
            client = self._clients[loop] = httpx2.AsyncClient(limits=_LIMITS, verify=self._tls)
        return client


def _headers(target: Target, request: Send) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {target.key}"}
    if request.body is not None:
        headers["Content-Type"] = "application/json"
    return headers


def _answer(response: httpx2.Response) -> Answer:
    return Answer(response.status_code, response.headers.get("retry-after"), response.content)


def _mishap(error: httpx2.RequestError) -> Mishap:
    if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError):
        return Mishap(f"No connection: {error or type(error).__name__}.")
    if isinstance(error, httpx2.TimeoutException):
        return Mishap("No answer in time.")
    return Mishap(f"The connection was lost: {error or type(error).__name__}.")
