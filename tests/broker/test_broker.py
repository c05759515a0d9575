"""The broker's word on its own health: delivery works where it hears itself."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from service.broker.broker import Broker
from service.broker.embedded import EmbeddedEngine
from service.core.errors import EngineUnavailable
from tests.broker.relay import relaying
from tests.broker.support import client_of, open_broker, running_broker
from tests.harness.process import PATIENCE, eventually


async def _healthy(broker: Broker) -> None:
    await eventually(lambda: broker.trouble() is None, "health")


async def test_healthy_once_a_probe_came_back(engine: EmbeddedEngine) -> None:
    async with running_broker(engine.url) as broker:
        assert broker.trouble() == "engine link publish: not connected yet"
        assert broker.probe_age() is None
        await _healthy(broker)
        age = broker.probe_age()
        assert age is not None
        assert 0 <= age < PATIENCE


async def test_two_brokers_hear_their_own_probes(engine: EmbeddedEngine) -> None:
    async with running_broker(engine.url) as one, running_broker(engine.url) as other:
        assert one.subscriptions.probe != other.subscriptions.probe
        await _healthy(one)
        await _healthy(other)


async def test_engine_that_is_away_is_trouble_and_no_exception(
    own_engine: EmbeddedEngine,
) -> None:
    own_engine.kill()
    async with running_broker(own_engine.url) as broker:
        with pytest.raises(EngineUnavailable, match=r"refused|No such file"):
            await broker.wait_open(0.3)
        own_engine.restart()
        await broker.wait_open(PATIENCE)
        await _healthy(broker)


async def test_stopped_engine_is_trouble_until_it_goes_on(own_engine: EmbeddedEngine) -> None:
    reopened: list[str] = []
    async with open_broker(own_engine.url, timeout=1.0, reopened=reopened) as broker:
        await _healthy(broker)
        os.kill(own_engine.pid, signal.SIGSTOP)
        await eventually(lambda: broker.trouble() is not None, "the trouble")
        trouble = broker.trouble()
        assert trouble is not None
        assert trouble.startswith("engine link publish: ")
        os.kill(own_engine.pid, signal.SIGCONT)
        await _healthy(broker)
        assert "publish" in reopened


async def test_killed_subscription_is_noticed_and_heals(own_engine: EmbeddedEngine) -> None:
    reopened: list[str] = []
    with client_of(own_engine.url) as client:
        async with open_broker(own_engine.url, reopened=reopened) as broker:
            await _healthy(broker)
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await eventually(lambda: reopened == ["subscribe"], "the next link")
            await _healthy(broker)


async def test_deaf_subscription_is_trouble_and_is_replaced(
    engine: EmbeddedEngine, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The connection lives and the engine answers, but no push comes through.
    monkeypatch.setattr("service.broker.shard._PROBE_INTERVAL", 0.2)
    monkeypatch.setattr("service.broker.shard._PROBE_STALE", 0.7)
    reopened: list[str] = []
    restored: list[None] = []
    troubles: set[str] = set()
    async with (
        relaying(engine) as relay,
        open_broker(f"redis://127.0.0.1:{relay.port}", reopened=reopened) as broker,
    ):
        await broker.subscriptions.subscribe(channel)
        broker.subscriptions.on_restored(lambda _: restored.append(None))
        await _healthy(broker)
        relay.deafen_subscribers()

        def told() -> bool:
            troubles.add(broker.trouble() or "")
            return bool(restored)

        await eventually(told, "the restoration")
        await _healthy(broker)
        assert reopened == ["subscribe"]
        assert any(text.startswith("no probe came back") for text in troubles)


async def test_closed_broker_leaves_no_connection(own_engine: EmbeddedEngine) -> None:
    with client_of(own_engine.url) as client:

        def named() -> int:
            return sum(entry["name"] == "herald" for entry in client.client_list())

        async with open_broker(own_engine.url):
            assert named() == 3
        await asyncio.sleep(0)
        await eventually(lambda: named() == 0, "the end of the connections")


async def test_a_primary_that_became_a_replica_is_left_until_it_is_one_again(
    own_engine: EmbeddedEngine,
) -> None:
    with client_of(own_engine.url) as client:
        async with running_broker(own_engine.url) as broker:
            await _healthy(broker)
            client.replicaof("127.0.0.1", "1")  # of nobody that is there
            await eventually(lambda: "replica" in (broker.trouble() or ""), "the trouble")
            client.replicaof("NO", "ONE")
            await _healthy(broker)
