"""rediss://, to one server, through sentinels, and to a Cluster: a verified certificate, and then
all works as it does without."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from service.broker.embedded import EmbeddedEngine
from service.broker.topology import slot_of
from tests.broker.relay import relaying
from tests.broker.support import open_broker, publish, running_broker
from tests.harness.certificates import Authority, server_context
from tests.harness.cluster import EngineCluster, channels_of
from tests.harness.process import eventually, free_port


class _Files(NamedTuple):
    ca: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> _Files:
    """A CA of this test's own, and a server certificate for 127.0.0.1 that it signed."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    return _Files(authority.ca, *authority.certify("engine"))


@contextlib.asynccontextmanager
async def _redis_server(files: _Files, directory: Path) -> AsyncIterator[int]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server on PATH; the bundled engine has no TLS")
    port = free_port()
    log = directory / "redis.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program,
                *("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"),
                *("--tls-cert-file", str(files.certificate), "--tls-key-file", str(files.key)),
                *("--tls-ca-cert-file", str(files.ca), "--save", "", "--dir", str(directory)),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        await eventually(
            lambda: process.poll() is not None or "Ready to accept" in log.read_text(), "redis"
        )
        if process.poll() is not None:
            pytest.skip("redis-server on PATH does not start with TLS: " + log.read_text()[-300:])
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["terminator", "redis-server"])
async def tls_port(
    request: pytest.FixtureRequest, engine: EmbeddedEngine, files: _Files, tmp_path: Path
) -> AsyncIterator[int]:
    """An engine behind TLS: a terminator before the bundled one, and Redis's own."""
    if request.param == "redis-server":
        async with _redis_server(files, tmp_path) as port:
            yield port
        return
    async with relaying(engine, server_context(files.certificate, files.key)) as relay:
        yield relay.port


async def test_everything_works_over_tls(tls_port: int, files: _Files, channel: str) -> None:
    url = f"rediss://127.0.0.1:{tls_port}?ssl_ca_certs={files.ca}"
    async with open_broker(url) as broker:
        pushed: list[int] = []
        broker.subscriptions.on_pushed(lambda _, entry, __: pushed.append(entry.position.seq))
        await broker.subscriptions.subscribe(channel)
        await publish(broker, channel, b'"%b"' % (b"x" * 500_000))
        await publish(broker, channel)
        await eventually(lambda: pushed == [1, 2], "the pushes")
        await eventually(lambda: broker.trouble() is None, "health")


@pytest.mark.parametrize(
    ("host", "query"),
    [
        ("127.0.0.1", ""),  # a CA that the system does not know
        ("localhost", "?ssl_ca_certs={ca}"),  # a name that the certificate does not have
    ],
)
async def test_certificate_that_proves_nothing_is_refused(
    tls_port: int, files: _Files, host: str, query: str
) -> None:
    url = f"rediss://{host}:{tls_port}{query.format(ca=files.ca)}"
    async with running_broker(url) as broker:
        await eventually(
            lambda: "certificate verify failed" in (broker.trouble() or ""), "the refusal"
        )


@pytest.mark.parametrize(
    ("host", "query"),
    [
        ("127.0.0.1", "?ssl_cert_reqs=none"),
        ("localhost", "?ssl_ca_certs={ca}&ssl_check_hostname=false"),
    ],
)
async def test_checks_that_are_switched_off_are_off(
    tls_port: int, files: _Files, host: str, query: str, channel: str
) -> None:
    async with open_broker(f"rediss://{host}:{tls_port}{query.format(ca=files.ca)}") as broker:
        await publish(broker, channel)


# Sentinels


@contextlib.asynccontextmanager
async def _sentinel(files: _Files, directory: Path, primary_port: int) -> AsyncIterator[int]:
    port = free_port()
    config = directory / "sentinel.conf"
    config.write_text(
        f"port 0\ntls-port {port}\ntls-replication yes\ntls-auth-clients no\ndir {directory}\n"
        f"tls-cert-file {files.certificate}\ntls-key-file {files.key}\n"
        f"tls-ca-cert-file {files.ca}\nsentinel monitor main 127.0.0.1 {primary_port} 1\n"
    )
    program = shutil.which("redis-server")
    assert program is not None
    log = directory / "sentinel.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, str(config), "--sentinel"], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        await eventually(lambda: "+monitor" in log.read_text(), "the sentinel")
        yield port
    finally:
        process.kill()
        process.wait()


async def test_a_primary_is_found_over_tls(files: _Files, tmp_path: Path, channel: str) -> None:
    async with (
        _redis_server(files, tmp_path) as primary,
        _sentinel(files, tmp_path, primary) as port,
    ):
        url = f"rediss+sentinel://127.0.0.1:{port}/main?ssl_ca_certs="
        async with open_broker(f"{url}{files.ca}") as broker:
            await publish(broker, channel)
            await eventually(lambda: broker.trouble() is None, "health")
        other = Authority(tmp_path).ca  # that has signed nothing here
        async with running_broker(f"{url}{other}") as broker:
            await eventually(
                lambda: "sentinels cannot be reached" in (broker.trouble() or ""), "the refusal"
            )


# A Cluster


@contextlib.asynccontextmanager
async def _cluster(files: _Files, host: str) -> AsyncIterator[EngineCluster]:
    """Three primaries, each behind TLS, and known by that port and this host."""
    async with contextlib.AsyncExitStack() as stack:
        tls = server_context(files.certificate, files.key)
        relays = [await stack.enter_async_context(relaying(None, tls)) for _ in range(3)]
        known_ports = [relay.port for relay in relays]
        announced = "" if host == "127.0.0.1" else host
        cluster = await asyncio.to_thread(EngineCluster, 3, known_ports=known_ports, host=announced)
        stack.callback(cluster.stop)
        for relay, node in zip(relays, cluster.nodes, strict=True):
            relay.engine_port = node.port
        yield cluster


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_cluster_works_over_tls(tmp_path: Path, channel: str, host: str) -> None:
    authority = Authority(tmp_path)
    files = _Files(authority.ca, *authority.certify("engine", host=host))
    async with _cluster(files, host) as cluster:
        hosts = ",".join(f"{host}:{node.known_port}" for node in cluster.nodes)
        names = [f"{channel}{number}" for number in range(12)]
        assert len(channels_of(cluster, names)) == 3, "not all shards are used"
        async with open_broker(f"rediss+cluster://{hosts}?ssl_ca_certs={files.ca}") as broker:
            pushed: list[str] = []
            broker.subscriptions.on_pushed(lambda name, _, __: pushed.append(name))
            for name in names:
                await broker.subscriptions.subscribe(name)
                await publish(broker, name)
            await eventually(lambda: sorted(pushed) == sorted(names), "the pushes")
            await eventually(lambda: broker.trouble() is None, "health")
            # Where it is from now on is told with MOVED.
            source = cluster.owner(names[0])
            target = next(node for node in cluster.nodes if node is not source)
            await asyncio.to_thread(cluster.migrate, slot_of(names[0]), source, target)
            await publish(broker, names[0])
            await eventually(lambda: pushed.count(names[0]) == 2, "the push from there")
        async with running_broker(f"rediss+cluster://{hosts}") as broker:
            await eventually(
                lambda: "certificate verify failed" in (broker.trouble() or ""), "the refusal"
            )
