"""Streams through nginx with its own settings, as docs/operations.md says they pass."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.process import PATIENCE, Herald, eventually, free_port, mint
from tests.harness.streams import dial, stream_request

NGINX = shutil.which("nginx")
pytestmark = pytest.mark.skipif(NGINX is None, reason="not installed: nginx")

_CONFIGURATION = """
daemon off;
pid {folder}/pid;
error_log stderr;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    gzip on;
    gzip_types text/plain application/json;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://127.0.0.1:{upstream}; }}
    }}
}}
"""


@pytest.fixture
def nginx(start: Callable[..., Herald], tmp_path: Path) -> Iterator[tuple[Herald, int]]:
    """A Herald, and the port of an nginx before it."""
    herald, port = start(heartbeat_interval="1", heartbeat_timeout="1"), free_port()
    assert NGINX is not None
    path = tmp_path / "nginx.conf"
    path.write_text(_CONFIGURATION.format(folder=tmp_path, port=port, upstream=herald.port))
    with (tmp_path / "nginx.log").open("wb") as log:
        process = subprocess.Popen([NGINX, "-c", str(path), "-p", str(tmp_path)], stderr=log)
    try:
        _wait_for(port)
        yield herald, port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait_for(port: int) -> None:
    import socket

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("nginx does not listen")


async def test_events_and_comments_come_at_once_and_the_end_is_passed_on(
    nginx: tuple[Herald, int], user: str
) -> None:
    herald, port = nginx
    stream = await dial(herald, stream_request(token=mint(user)), port=port)
    assert stream.status == 200
    assert "content-encoding" not in stream.headers
    await stream.expect("welcome")
    for number in range(20):
        herald.publish(f"user:{user}", number)
        async with asyncio.timeout(2.0):
            assert (await stream.expect("event"))["data"] == number
    before = stream.parser.comments
    async with asyncio.timeout(10.0):
        while stream.parser.comments < before + 3:
            assert await stream.read()
    last_id = stream.parser.last_id
    await stream.close()
    await eventually(lambda: herald.metrics()["herald_connections"] == 0, "nginx has gone too")
    herald.publish(f"user:{user}", "missed")
    request = stream_request(token=mint(user), headers={"last-event-id": last_id})
    stream = await dial(herald, request, port=port)
    await stream.expect("welcome")
    assert (await stream.expect("event"))["data"] == "missed"
    herald.process.terminate()
    await stream.expect("reconnect")
    assert await stream.closed() == 1012
    await stream.close()


async def test_a_large_replay_comes_through_whole(nginx: tuple[Herald, int], user: str) -> None:
    herald, port = nginx
    events = [{"to": f"user:{user}", "type": "t", "data": [n, "x" * 50_000]} for n in range(100)]
    assert herald.post("/v1/events/batch", {"events": events}).status_code == 200
    request = stream_request(f"since=user:{user}@0-0", token=mint(user))
    stream = await dial(herald, request, port=port)
    await stream.expect("welcome")
    for number in range(100):
        assert (await stream.expect("event"))["data"][0] == number
    await stream.close()


async def test_refusals_come_through(nginx: tuple[Herald, int]) -> None:
    herald, port = nginx
    stream = await dial(herald, stream_request(token="nonsense"), port=port)
    assert stream.status == 401
    await stream.close()
