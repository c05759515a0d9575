"""A whole Herald on a Cluster: delivery and resume for users of all shards, also as slots move."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from service.broker.topology import slot_of
from tests.harness.cluster import EngineCluster, channels_of, running_cluster
from tests.harness.process import (
    PATIENCE,
    SECRET,
    Client,
    Herald,
    clean_environment,
    mint,
    open_herald,
    open_plain,
)

USERS = 24
EVENTS = 10


@pytest.fixture(scope="module")
def cluster() -> Iterator[EngineCluster]:
    with running_cluster() as cluster:
        yield cluster


async def _numbers(client: Client, last: int) -> list[int]:
    """The data of the events up to `last`, gaps passed over."""
    found: list[int] = []
    while not found or found[-1] != last:
        message = await client.next()
        if message["type"] == "event":
            found.append(message["data"])
        else:
            assert message["type"] == "gap", message
    return found


async def test_users_of_all_shards_get_everything_and_resume(
    cluster: EngineCluster, start: Callable[..., Herald], new_name: Callable[[], str]
) -> None:
    nodes = [start(cluster.url, workers="1"), start(cluster.url)]
    users = [new_name() for _ in range(USERS)]
    channels = [f"user:{user}" for user in users]
    assert len(channels_of(cluster, channels)) == 3
    clients = [
        await open_herald(nodes[number % 2], token=mint(user)) for number, user in enumerate(users)
    ]
    for client in clients:
        await client.expect("welcome")
    for number in range(EVENTS):
        nodes[number % 2].publish(channels, number)
    positions: list[str] = []
    for client in clients:
        events = await client.events(EVENTS)
        assert [event["data"] for event in events] == list(range(EVENTS))
        positions.append(events[-1]["id"])
        await client.close()
    batch = {
        "events": [
            {"to": channel, "type": "test", "data": number}
            for number in range(EVENTS)
            for channel in channels
        ]
    }
    results = nodes[0].post("/v1/events/batch", batch).json()["results"]
    assert not [result for result in results if "problem" in result]
    nodes[1].publish("all", "to everyone")
    for number, user in enumerate(users):
        # On the other node.
        client = await open_herald(
            nodes[(number + 1) % 2],
            token=mint(user),
            positions={channels[number]: positions[number]},
        )
        welcome = await client.expect("welcome")
        assert welcome["channels"][channels[number]]["recovered"] is True
        assert [event["data"] for event in await client.events(EVENTS)] == list(range(EVENTS))
        await client.close()


async def test_connected_clients_get_everything_in_order_while_their_slot_moves(
    cluster: EngineCluster, start: Callable[..., Herald], user: str
) -> None:
    herald, publisher = start(cluster.url), start(cluster.url)
    # Three users of one slot: the server's hash tag ends at the first brace.
    users = [f"{user}}}{number}" for number in range(3)]
    channels = [f"user:{name}" for name in users]
    clients = [await open_plain(herald, token=mint(name)) for name in users]
    for client in clients:
        await client.expect("welcome")
    stop = asyncio.Event()

    async def publish() -> int:
        number = 0
        while not stop.is_set():
            await asyncio.to_thread(publisher.publish, channels, number)
            number += 1
        return number

    sent = asyncio.create_task(publish())
    for _ in range(3):
        source = cluster.owner(channels[0])
        target = next(node for node in cluster.primaries if node is not source)
        await asyncio.to_thread(cluster.migrate, slot_of(channels[0]), source, target, 0.03)
        await asyncio.sleep(0.2)
    stop.set()
    last = await sent - 1
    for client in clients:
        assert await _numbers(client, last) == list(range(last + 1))
        await client.close()
    assert herald.is_ready()


def test_check_says_that_a_cluster_is_good_or_what_is_wrong(cluster: EngineCluster) -> None:
    def check(url: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service", "check"],
            env=clean_environment(
                redis_url=url, jwt_secret=SECRET, api_keys="a-key", engine_timeout="2"
            ),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    good = check(cluster.url)
    assert good.returncode == 0, good.stderr
    bad = check(cluster.url_as("nobody:wrong@"))
    assert bad.returncode == 1
    assert "WRONGPASS" in bad.stderr
