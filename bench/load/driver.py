"""Starts the load generator on its core and gives it its commands."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers.peer import LOAD_CPU, MARK, Dialect, Expect, Post

SOURCES = Path(__file__).parent
Result = dict[str, Any]


class BenchError(Exception):
    """A measurement that cannot be made, with why."""


def compile_c(directory: Path, name: str, sources: Sequence[Path]) -> Path:
    """Build a C program into `directory`.

    Raises:
        BenchError: there is no compiler, or it failed.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BenchError("There is no C compiler; install one (Debian: apt-get install gcc).")
    binary = directory / name
    command = [compiler, "-O2", "-Wall", "-o", str(binary), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(done.stderr)
    return binary


class Load:
    """One running generator. Every measuring method blocks and gives back what was measured."""

    def __init__(self, binary: Path, users: Sequence[tuple[str, str]]) -> None:
        self._process = subprocess.Popen(
            ["taskset", "-c", str(LOAD_CPU), str(binary)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._address = 0
        lines = "".join(f"{name} {token or '-'}\n" for name, token in users)
        self._write(f"users {len(users)}\n{lines}".encode())

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what was not written yet
                pipe.close()

    def aim(self, port: int, publish_port: int) -> None:
        """Where the system under test is."""
        self._port, self._publish_port = port, publish_port
        self._write(b"clients %d\npublish %d\n" % (port, publish_port))

    def speak(self, dialect: Dialect, captures: Sequence[str] = ()) -> None:
        """How subscribers open. `captures`: what stands before a position, up to a quote."""
        self._write(b"plain\n")
        self._set("head", _handshake(dialect, self._port))
        for step in dialect.steps:
            self._set("expect" if isinstance(step, Expect) else "say", step.text)
        for text in captures:
            self._set("capture", text)
        if dialect.stream:
            self._set("stream", "")
        if dialect.ping:
            self._set("ping", dialect.ping)
            self._set("pong", dialect.pong)

    def publish(self, post: Post) -> None:
        """What publishers send."""
        # {user} and {same} are as long as a user's name; {mark} is not as long as a mark.
        length = len(post.body.encode())
        length += post.body.count("{mark}") * (MARK - len("{mark}"))
        lines = [*post.head, f"Host: 127.0.0.1:{self._publish_port}", f"Content-Length: {length}"]
        self._set("post", "\r\n".join(lines) + "\r\n\r\n" + post.body)

    # Subscribers

    def connect(
        self, count: int, *, window: int = 256, need: int = 0, seconds: float = 120.0
    ) -> Result:
        """Open connections. `need`: each must have so many marks as well.

        Raises:
            BenchError: not all of them opened in time.
        """
        self._address += 1
        result = self._ask(f"connect {count} {window} {self._address} {need} {seconds}")
        if result["open"] < count or result["closed"]:
            raise BenchError(f"only {result['open']} of {count} connections opened: {result}")
        return result

    def drop(self) -> None:
        """Reset all connections."""
        self._ask("drop")

    def reset(self) -> None:
        """Begin to count anew."""
        self._ask("reset")

    def idle(self, seconds: float) -> Result:
        """Answer pings."""
        return self._ask(f"idle {seconds}")

    # Publishers

    def closed(self, connections: int, seconds: float, posts: int = 0) -> Result:
        """Each connection sends its next request when the last one is answered."""
        return self._ask(f"closed {connections} {seconds} {posts}")

    def open(self, connections: int, rate: float, seconds: float) -> Result:
        """Requests at a fixed rate; latency counts from when each was due."""
        return self._ask(f"open {connections} {rate} {seconds}")

    def lockstep(self, rounds: int, posts: int = 1, patience: float = 10.0) -> Result:
        """Rounds of so many POSTs on one connection; the next one when everyone has all."""
        return self._ask(f"lockstep {rounds} {posts} {patience}")

    def engine_alone(self, commands: Sequence[bytes], depth: int, seconds: float) -> Result:
        """Ready commands of one length to the engine (the publish port), `depth` in flight."""
        parts = len(commands) // depth
        batch = b"".join(commands[: parts * depth])
        return self._ask(f"engine {parts} {depth} {seconds} {len(batch)}", batch)

    # The pipe

    def _set(self, name: str, text: str) -> None:
        data = text.encode()
        self._write(b"set %b %d\n%b" % (name.encode(), len(data), data))

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError("the load generator ended") from None

    def _ask(self, command: str, data: bytes = b"") -> Result:
        self._write(command.encode() + b"\n" + data)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the load generator ended at {command!r}")
        answer: Result = json.loads(line)
        return answer


def _handshake(dialect: Dialect, port: int) -> str:
    lines = [*dialect.head, f"Host: 127.0.0.1:{port}"]
    if not dialect.stream:
        lines += [
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
    return "\r\n".join(lines) + "\r\n\r\n"
