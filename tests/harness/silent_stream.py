"""A client process of its own, to be stopped or cut off: opens a stream, says so, and reads on."""

from __future__ import annotations

import socket
import sys
from urllib.parse import urlsplit


def main(url: str, token: str) -> None:
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 80))) as sock:
        request = (
            f"GET {parts.path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        )
        sock.sendall(request.encode())
        while data := sock.recv(65536):
            for line in data.split(b"\n"):
                if line.startswith(b"data: "):
                    print(line[6:26].decode(errors="replace"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
