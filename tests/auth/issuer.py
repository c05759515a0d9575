"""An issuer's JWKS over HTTP, in threads of its own: good, slow, broken or hostile."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[[BaseHTTPRequestHandler, threading.Event], None]


class Issuer:
    """Serves `keys` until told to behave otherwise."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/jwks.json"
        self.keys: list[dict[str, Any]] = []
        self.fetches = 0
        self.behave: Behaviour | None = None
        self.stopped = threading.Event()
        """Set in the end, so that no thread outlives the test."""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.fetches += 1
        try:
            if self.behave is not None:
                self.behave(request, self.stopped)
            else:
                send(request, 200, json.dumps({"keys": self.keys}).encode())
        except OSError:
            pass  # the client has hung up, as it should
        request.close_connection = True


def send(request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    request.send_response(status)
    request.send_header("content-length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    issuer: Issuer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = Issuer(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield issuer
    finally:
        issuer.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
