"""Fetches a small document over HTTP within a time and a size, whatever the other side does."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import urllib.request
from typing import Any
from urllib.parse import urlsplit


def fetch(url: str, *, timeout: float, max_bytes: int) -> bytes:
    """The body at `url`. Blocks for at most about `timeout` seconds: call it in a thread.

    A socket's own timeout is for one read, and a hostile or broken server may send a byte now and
    then, in the head or in the body: at the deadline the socket is shut down under the reader.

    A redirect to another origin is not followed: nobody has said that it is trusted, and it could
    lead from https to http.

    Raises:
        OSError, http.client.HTTPException, ValueError: it cannot be had.
    """
    sockets: list[socket.socket] = []

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Plain, request)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Secure, request)

    class SameOrigin(urllib.request.HTTPRedirectHandler):
        def redirect_request(
            self,
            req: urllib.request.Request,
            fp: Any,
            code: int,
            msg: str,
            headers: Any,
            newurl: str,
        ) -> urllib.request.Request | None:
            if _origin(newurl) != _origin(url):
                raise ValueError("it redirects to another origin")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    expired = threading.Event()

    def give_up() -> None:
        expired.set()
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        opener = urllib.request.build_opener(PlainHandler, SecureHandler, SameOrigin)
        request = urllib.request.Request(url, headers={"Accept": "application/json"})
        with opener.open(request, timeout=timeout) as response:
            body: bytes = response.read(max_bytes + 1)
    finally:
        timer.cancel()
    if expired.is_set():
        raise TimeoutError("the document came too slowly")
    if len(body) > max_bytes:
        raise ValueError("the document is too large")
    return body


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default
