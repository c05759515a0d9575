"""Guarantee 3: a peer without a sign of life, or with an expired token, is closed and freed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from service.broker.embedded import EmbeddedEngine
from tests.harness.process import Herald, eventually, mint, open_herald, open_plain, raw_websocket


def _connections(herald: Herald) -> float:
    return herald.metrics()["herald_connections"]


def _nothing_left(herald: Herald) -> bool:
    now = herald.metrics()
    names = ("herald_connections", "herald_users", "herald_channels")
    return all(now[name] == 0 for name in names)


def _silent_peer(url: str, token: str, *prefix: str) -> subprocess.Popen[str]:
    peer = subprocess.Popen(
        [*prefix, sys.executable, "-m", "tests.harness.silent_peer", url, token],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert peer.stdout is not None
    assert "welcome" in peer.stdout.readline()
    return peer


def _end(peer: subprocess.Popen[str]) -> None:
    peer.kill()
    peer.wait()
    assert peer.stdout is not None
    peer.stdout.close()


async def test_a_stopped_peer_is_reaped_and_its_memory_and_subscription_are_gone(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(heartbeat_interval="0.4", heartbeat_timeout="0.4")
    peer = _silent_peer(herald.ws_url, mint(user))
    try:
        assert _connections(herald) == 1
        peer.send_signal(signal.SIGSTOP)
        await eventually(lambda: _nothing_left(herald), "the peer was reaped")
        assert herald.metrics()['herald_disconnects_total{code="3008"}'] == 1
    finally:
        _end(peer)


class _Namespace(NamedTuple):
    name: str
    host: str
    """The address of this side, as seen from the namespace."""

    def cut(self) -> None:
        """Unplug: no FIN, no RST, nothing any more."""
        subprocess.run(
            ["ip", "-n", self.name, "link", "set", "inside", "down"], check=True, timeout=30
        )


@pytest.fixture
def namespace() -> Iterator[_Namespace]:
    """A host of its own behind a virtual cable."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need Linux, root and iproute2")
    number = os.getpid() % 250
    name, outside = f"herald{os.getpid()}", f"hv{os.getpid()}"
    host = f"10.213.{number}.1"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)

    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError:
        pytest.skip("network namespaces are not permitted here")
    try:
        ip("link", "add", outside, "type", "veth", "peer", "name", "inside", "netns", name)
        ip("addr", "add", f"{host}/24", "dev", outside)
        ip("link", "set", outside, "up")
        ip("-n", name, "addr", "add", f"10.213.{number}.2/24", "dev", "inside")
        ip("-n", name, "link", "set", "inside", "up")
        yield _Namespace(name, host)
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("link", "del", outside)
        ip("netns", "del", name)


async def test_a_peer_that_vanished_without_fin_is_reaped(
    start: Callable[..., Herald], user: str, namespace: _Namespace
) -> None:
    herald = start(host="0.0.0.0", heartbeat_interval="0.5", heartbeat_timeout="0.5")
    url = herald.ws_url.replace("127.0.0.1", namespace.host)
    peer = _silent_peer(url, mint(user), "ip", "netns", "exec", namespace.name)
    try:
        await asyncio.sleep(1.5)
        assert _connections(herald) == 1  # it answers pings
        namespace.cut()
        await eventually(lambda: _nothing_left(herald), "the vanished peer was reaped")
        assert herald.metrics()['herald_disconnects_total{code="3008"}'] == 1
    finally:
        _end(peer)


async def test_a_client_that_only_pongs_stays_and_receives(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(heartbeat_interval="0.2", heartbeat_timeout="5")
    client = await open_plain(herald, token=mint(user))
    await client.expect("welcome")
    await eventually(lambda: herald.metrics()["herald_pings_total"] >= 5, "five pings")
    herald.publish(f"user:{user}", "still here")
    assert (await client.expect("event"))["data"] == "still here"
    # Each answer started the interval anew: pings kept coming long before the timeout.
    assert herald.metrics()["herald_connections"] == 1
    assert herald.metrics()["herald_ping_round_trip_seconds_count"] >= 4
    await client.close()


async def test_any_byte_is_a_sign_of_life(start: Callable[..., Herald], user: str) -> None:
    herald = start(heartbeat_interval="1", heartbeat_timeout="1")
    # A client that answers no pings at all, but talks.
    async with raw_websocket(herald, mint(user)) as (_, writer):
        began = time.monotonic()
        while time.monotonic() - began < 4:
            writer.write(b"\x81\x8f\0\0\0\0" + b'{"type":"pong"}')
            await asyncio.sleep(0.1)
        assert _connections(herald) == 1
        await eventually(lambda: _nothing_left(herald), "silence was noticed")


async def test_herald_clients_are_pinged_by_a_message_too(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(heartbeat_interval="0.2", heartbeat_timeout="5")
    client = await open_herald(herald, token=mint(user))
    welcome = await client.expect("welcome")
    assert welcome["heartbeat"] == 0.2
    async with asyncio.timeout(30):
        assert await client.socket.recv() == '{"type":"ping"}'
    await client.send(type="ping")
    assert await client.expect("pong")
    await client.close()


async def test_an_expired_token_closes_its_connections(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(jwt_leeway="0")
    plain = await open_plain(herald, token=mint(user, ttl=1.5))
    other = await open_herald(herald, token=mint(user, ttl=1.5))
    await plain.expect("welcome")
    await other.expect("welcome")
    assert await plain.closed() == 3000
    assert await other.closed() == 3000


async def test_a_token_is_refreshed_in_place(
    start: Callable[..., Herald], user: str, new_name: Callable[[], str]
) -> None:
    herald = start(jwt_leeway="0")
    client = await open_herald(herald, token=mint(user, ttl=2, topics=["a", "b"]))
    await client.expect("welcome")
    await client.send(type="auth", token="nonsense")
    assert (await client.expect("error"))["code"] == "unauthorized"
    expires = time.time() + 600
    await client.send(type="auth", token=mint(user, ttl=600, topics=["a"]))
    assert (await client.expect("authenticated"))["expires"] == pytest.approx(expires, abs=5)
    assert (await client.expect("unsubscribed"))["channel"] == "topic:b"
    await asyncio.sleep(2.5)
    herald.publish(f"user:{user}", "still")
    assert (await client.expect("event"))["data"] == "still"
    await client.send(type="auth", token=mint(new_name()))
    assert await client.closed() == 3003


async def test_no_connect_in_time_closes_with_3008(start: Callable[..., Herald]) -> None:
    herald = start(connect_timeout="0.3")
    client = await open_herald(herald, connect_message=False)
    assert await client.closed() == 3008


async def test_a_client_that_does_not_answer_a_close_is_cut_off(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(jwt_leeway="0")
    async with raw_websocket(herald, mint(user, ttl=1)) as (reader, _), asyncio.timeout(30):
        await reader.read(-1)  # ends although nothing was answered


async def test_a_client_is_not_taken_for_dead_while_its_join_takes_long(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    """It is not read meanwhile, so its pongs are not seen."""
    herald = start(own_engine.url, heartbeat_interval="0.2", heartbeat_timeout="0.2")
    first = await open_herald(herald, token=mint(user))
    await first.expect("welcome")
    os.kill(own_engine.pid, signal.SIGSTOP)
    try:
        client = await open_herald(herald, token=mint(f"{user}-2"))
        await asyncio.sleep(0.9)  # less than the patience with an engine that is away
    finally:
        os.kill(own_engine.pid, signal.SIGCONT)
    await client.expect("welcome")
    for each in (first, client):
        await each.close()
