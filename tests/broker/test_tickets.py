"""Tickets in the engine: taken once, by whichever node, and gone by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from service.broker.broker import Broker
from service.broker.embedded import EmbeddedEngine
from service.broker.keys import ticket_key
from service.broker.tickets import _digest
from service.broker.topology import slot_of
from service.core.channel import NO_TOPICS, TopicGrant
from service.core.errors import EngineError, EngineUnavailable
from service.core.principal import Principal
from tests.broker.support import client_of, open_broker, running_broker
from tests.harness.cluster import EngineCluster, running_cluster
from tests.harness.process import PATIENCE, eventually

ALICE = Principal("alice", 1763793600.25, TopicGrant(("orders",), ("news.", "")))


@pytest.fixture(scope="module")
def cluster() -> Iterator[EngineCluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(params=["one", "cluster"])
async def url(request: pytest.FixtureRequest, engine: EmbeddedEngine) -> str:
    if request.param == "one":
        return engine.url
    cluster: EngineCluster = request.getfixturevalue("cluster")
    return cluster.url


@pytest.fixture
async def brokers(url: str) -> AsyncIterator[list[Broker]]:
    """Of two nodes."""
    async with open_broker(url) as one, open_broker(url) as other:
        await eventually(lambda: not one.trouble() and not other.trouble(), "health")
        yield [one, other]


def new_ticket() -> str:
    return secrets.token_urlsafe(24)


@pytest.mark.parametrize(
    "principal",
    [
        ALICE,
        Principal("é,@%😀", 1.0, NO_TOPICS),
        Principal("x" * 255, 2e9, TopicGrant(("a",) * 100, ())),
    ],
    ids=["alice", "odd", "long"],
)
async def test_who_a_ticket_stands_for_comes_back_once(
    brokers: list[Broker], principal: Principal
) -> None:
    ticket = new_ticket()
    await brokers[0].tickets.keep(ticket, principal, 30.0)
    assert await brokers[1].tickets.take(ticket) == principal
    for broker in brokers:
        assert await broker.tickets.take(ticket) is None


async def test_what_nobody_has_given_out_is_no_ticket(brokers: list[Broker]) -> None:
    for text in ("", "x", new_ticket(), "é😀", "}{", "x" * 100_000):
        assert await brokers[0].tickets.take(text) is None


async def test_one_of_many_takers_wins(brokers: list[Broker]) -> None:
    for _ in range(20):
        ticket = new_ticket()
        await brokers[0].tickets.keep(ticket, ALICE, 30.0)
        takers = [brokers[n % 2].tickets.take(ticket) for n in range(20)]
        found = await asyncio.gather(*takers)
        assert [one for one in found if one is not None] == [ALICE]


async def test_a_ticket_is_gone_after_its_time(brokers: list[Broker]) -> None:
    short, shorter, long = new_ticket(), new_ticket(), new_ticket()
    await brokers[0].tickets.keep(short, ALICE, 0.2)
    await brokers[0].tickets.keep(shorter, ALICE, 0.0001)  # a life of nothing is none to ask for
    await brokers[0].tickets.keep(long, ALICE, 30.0)
    await asyncio.sleep(0.4)
    assert await brokers[1].tickets.take(short) is None
    assert await brokers[1].tickets.take(shorter) is None
    assert await brokers[1].tickets.take(long) == ALICE


async def test_many_tickets_are_kept_on_every_shard(cluster: EngineCluster) -> None:
    tickets = [new_ticket() for _ in range(50)]
    owners = {cluster.owner(_digest(ticket)).port for ticket in tickets}
    assert len(owners) == 3
    async with open_broker(cluster.url) as one, open_broker(cluster.url) as other:
        await asyncio.gather(*(one.tickets.keep(t, ALICE, 60.0) for t in tickets))
        found = await asyncio.gather(*(other.tickets.take(ticket) for ticket in tickets))
    assert found == [ALICE] * 50


async def test_a_ticket_moves_with_its_slot(cluster: EngineCluster) -> None:
    async with open_broker(cluster.url) as broker:
        for _ in range(3):
            ticket = new_ticket()
            await broker.tickets.keep(ticket, ALICE, 60.0)
            tag = _digest(ticket)
            source = cluster.owner(tag)
            target = next(node for node in cluster.primaries if node is not source)
            await asyncio.to_thread(cluster.migrate, slot_of(tag), source, target)
            assert await broker.tickets.take(ticket) == ALICE
            assert await broker.tickets.take(ticket) is None


async def test_what_the_engine_keeps_opens_nothing_and_expires(
    engine: EmbeddedEngine, keyspace: redis.Redis
) -> None:
    ticket = new_ticket()
    async with open_broker(engine.url) as broker:
        await broker.tickets.keep(ticket, ALICE, 30.0)
    name = ticket_key(_digest(ticket))
    assert ticket.encode() not in name
    assert 25_000 < keyspace.pttl(name) <= 30_000
    assert ticket.encode() not in keyspace.get(name)


async def test_an_engine_that_is_away_is_said_so_in_time(own_engine: EmbeddedEngine) -> None:
    ticket = new_ticket()
    async with open_broker(own_engine.url, timeout=0.5) as broker:
        await broker.tickets.keep(ticket, ALICE, 60.0)
        os.kill(own_engine.pid, signal.SIGSTOP)  # it does not say that it is away
        try:
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(EngineUnavailable):
                    await broker.tickets.take(new_ticket())
                with pytest.raises(EngineUnavailable):
                    await broker.tickets.keep(new_ticket(), ALICE, 60.0)
                assert time.monotonic() - began < 10
        finally:
            os.kill(own_engine.pid, signal.SIGCONT)
        assert await _take_again(broker, ticket) == ALICE
        own_engine.kill()
        with pytest.raises(EngineUnavailable):
            await broker.tickets.take(ticket)


async def test_a_link_that_was_lost_is_opened_again(own_engine: EmbeddedEngine) -> None:
    ticket = new_ticket()
    async with open_broker(own_engine.url) as broker:
        await broker.tickets.keep(ticket, ALICE, 60.0)
        with client_of(own_engine.url) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert await _take_again(broker, ticket) == ALICE


async def _take_again(broker: Broker, ticket: str) -> Principal | None:
    """Repeated while the engine is away."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(EngineUnavailable):
                return await broker.tickets.take(ticket)
            await asyncio.sleep(0.02)


async def test_a_shard_that_is_away_does_not_stop_the_others() -> None:
    with running_cluster() as cluster:
        async with open_broker(cluster.url, timeout=0.5) as broker:
            tickets = [new_ticket() for _ in range(30)]
            for ticket in tickets:
                await broker.tickets.keep(ticket, ALICE, 600.0)
            away = cluster.primaries[0]
            mine = [t for t in tickets if cluster.owner(_digest(t)) is away]
            assert 0 < len(mine) < 30
            away.engine.kill()
            try:
                taken = await asyncio.gather(
                    *(broker.tickets.take(ticket) for ticket in tickets), return_exceptions=True
                )
            finally:
                away.engine.restart()
        for ticket, found in zip(tickets, taken, strict=True):
            if ticket in mine:
                assert isinstance(found, EngineUnavailable), found
            else:
                # A node may say that the Cluster is down.
                assert found == ALICE or isinstance(found, EngineUnavailable), found


async def test_an_engine_that_refuses_is_an_error(own_engine: EmbeddedEngine) -> None:
    async with running_broker(own_engine.url) as broker:
        await broker.wait_open(PATIENCE)
        with client_of(own_engine.url) as client:
            client.config_set("maxmemory", "1mb")
            client.config_set("maxmemory-policy", "noeviction")
        with pytest.raises(EngineError, match="OOM"):
            await broker.tickets.keep(new_ticket(), ALICE, 60.0)
