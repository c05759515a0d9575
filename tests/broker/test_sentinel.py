"""redis+sentinel://: the primary is asked for, and found again after a failover."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from service.broker.embedded import find_engine
from service.broker.endpoint import parse_engine_url
from service.core.errors import EngineUnavailable
from tests.broker.support import (
    TcpEngine,
    client_of,
    open_broker,
    publish,
    publish_again,
    synced,
    tcp_engine,
)
from tests.harness.process import eventually, free_port

PASSWORD = "correct:horse"
QUOTED = "correct%3Ahorse"


@contextlib.contextmanager
def running_sentinel(directory: Path, primary: TcpEngine) -> Iterator[int]:
    """A sentinel of quorum 1, watching `primary` as "main"; its port."""
    port = free_port()
    config = directory / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        f"sentinel auth-pass main {PASSWORD}\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 5000\n"
    )
    with (directory / "sentinel.log").open("wb") as output:
        process = subprocess.Popen(
            [find_engine(), str(config), "--sentinel"], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def _primary_port(sentinel: redis.Redis) -> int:
    with contextlib.suppress(redis.ConnectionError):
        return int(sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")[1])
    return 0


def _replicas(sentinel: redis.Redis) -> int:
    with contextlib.suppress(redis.ConnectionError):
        return len(sentinel.execute_command("SENTINEL", "REPLICAS", "main"))
    return 0


async def test_primary_is_found_and_found_again_after_a_failover(
    tmp_path: Path, channel: str
) -> None:
    auth = ("--primaryauth", PASSWORD)
    with (
        tcp_engine(*auth) as first,
        tcp_engine(*auth, "--replicaof", "127.0.0.1", str(first.port)) as second,
    ):
        for engine in (first, second):
            with client_of(engine.url) as client:
                client.config_set("requirepass", PASSWORD)
        with client_of(second.url.replace("//", f"//:{QUOTED}@")) as client:
            await synced(client)
        with (
            running_sentinel(tmp_path, first) as port,
            client_of(f"redis://127.0.0.1:{port}") as sentinel,
        ):
            await eventually(lambda: _primary_port(sentinel) == first.port, "the sentinel")
            await eventually(lambda: _replicas(sentinel) == 1, "the replica's discovery")
            # The first of the list is away: the next one is asked.
            hosts = f"127.0.0.1:{free_port()},127.0.0.1:{port}"
            url = f"redis+sentinel://:{QUOTED}@{hosts}/main"
            reopened: list[str] = []
            async with open_broker(url, reopened=reopened) as broker:
                assert (await parse_engine_url(url)()).port == first.port
                await broker.subscriptions.subscribe(channel)
                old = await publish(broker, channel)
                first.embedded.kill()
                new = await publish_again(broker, channel)
                assert new.epoch > old.epoch
                assert (await parse_engine_url(url)()).port == second.port
                await eventually(lambda: broker.trouble() is None, "health")
                assert sorted(reopened) == ["publish", "read", "subscribe"]


async def test_a_service_that_the_sentinels_do_not_know_is_named(tmp_path: Path) -> None:
    with (
        tcp_engine() as engine,
        running_sentinel(tmp_path, engine) as port,
        client_of(f"redis://127.0.0.1:{port}") as sentinel,
    ):
        await eventually(lambda: _primary_port(sentinel) == engine.port, "the sentinel")
        with pytest.raises(EngineUnavailable, match="no primary for 'other'"):
            await parse_engine_url(f"redis+sentinel://127.0.0.1:{port}/other")()
