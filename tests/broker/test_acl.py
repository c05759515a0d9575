"""The least that an ACL user of Herald must be allowed: enough, and nothing too much."""

from __future__ import annotations

import asyncio

import pytest
import redis

from service.broker.broker import Broker
from service.broker.embedded import EmbeddedEngine
from service.core.channel import NO_TOPICS
from service.core.errors import EngineError, EngineUnavailable
from service.core.position import BEGINNING
from service.core.principal import Principal
from tests.broker.support import client_of, event, publish, running_broker, submit
from tests.harness.process import PATIENCE, eventually

RULES = (
    "~herald:*",
    "&herald:live:*",
    # connecting, and whether the engine is a primary
    "+role",
    "+ping",
    "+script|load",
    "+ssubscribe",
    "+sunsubscribe",
    "+evalsha",
    "+get",
    "+mget",
    "+spublish",
    # tickets, beside +set
    "+getdel",
    # inside the scripts
    "+set",
    "+pexpire",
    "+pttl",
    "+time",
    "+info",
    "+xadd",
    "+xrange",
    "+xrevrange",
)
"""What docs/operations.md lists, and `+select` where the URL names a database."""
ALICE = Principal("alice", 2e9, NO_TOPICS)
REPLICA_RULES = ("+wait",)
"""Besides, where replicas are waited for; see test_replicas.py."""


def _make_user(client: redis.Redis, name: str, rules: tuple[str, ...]) -> None:
    client.execute_command("ACL", "SETUSER", name, "reset", "on", ">secret", *rules)


async def _use_everything(broker: Broker, channel: str) -> None:
    """Every command that Herald ever sends; raises where one is refused."""

    def settled() -> bool:
        trouble = broker.trouble()
        return trouble is None or "NOPERM" in trouble or trouble.startswith("no probe")

    await eventually(settled, "a connection or a refusal")
    if "NOPERM" in (broker.trouble() or ""):
        raise EngineError(broker.trouble())
    await broker.subscriptions.subscribe(channel)
    pushed: list[int] = []
    broker.subscriptions.on_pushed(lambda _, entry, __: pushed.append(entry.position.seq))
    await broker.log.read(channel, None)
    for sent in (event(channel, id="1"), event(channel, channel + "/b", id="2", ttl_ms=60_000)):
        receipt = await submit(broker, sent)
        if receipt.failure is not None:
            raise receipt.failure
    assert len((await broker.log.read(channel, BEGINNING)).entries) == 2
    await broker.log.tips([channel])
    await broker.tickets.keep(channel, ALICE, 60.0)
    assert await broker.tickets.take(channel) == ALICE
    broker.subscriptions.unsubscribe(channel)
    link = broker.subscriptions.keeper.link
    assert link is not None
    await link.call("PING")
    assert pushed == [1, 2]


async def test_the_listed_rules_are_enough(engine: EmbeddedEngine, channel: str) -> None:
    with client_of(engine.url) as client:
        _make_user(client, "herald", RULES)
        _make_user(client, "herald5", (*RULES, "+select"))
        for user, query in (("herald", ""), ("herald5", "?db=5")):
            url = engine.url.replace("unix://", f"unix://{user}:secret@") + query
            async with running_broker(url) as broker:
                await _use_everything(broker, channel)
                link = await broker.subscriptions.keeper.wait_open(PATIENCE)
                assert await _who(client, user) >= 3
                assert not link.closed.done()


async def _who(client: redis.Redis, user: str) -> int:
    return sum(entry["user"] == user for entry in client.client_list())


@pytest.mark.parametrize("rule", RULES)
async def test_none_of_the_listed_rules_is_too_much(
    own_engine: EmbeddedEngine, channel: str, rule: str
) -> None:
    with client_of(own_engine.url) as client:
        _make_user(client, "herald", tuple(kept for kept in RULES if kept != rule))
        async with running_broker(own_engine.url.replace("unix://", "unix://herald:secret@")) as b:
            with pytest.raises((EngineError, EngineUnavailable)) as caught:
                async with asyncio.timeout(PATIENCE):
                    await _use_everything(b, channel)
    told = str(caught.value)
    # Valkey 9 and Redis 7.0 say it differently.
    words = ("NOPERM", "ACL failure", "permission", "can't run this command")
    assert any(word in told for word in words), told


async def test_a_refused_subscription_is_the_trouble_and_no_storm(
    own_engine: EmbeddedEngine,
) -> None:
    with client_of(own_engine.url) as client:
        _make_user(client, "herald", tuple(kept for kept in RULES if kept != "&herald:live:*"))
        async with running_broker(own_engine.url.replace("unix://", "unix://herald:secret@")) as b:
            keeper = b.subscriptions.keeper
            await eventually(lambda: "NOPERM" in (keeper.trouble or ""), "the refusal")
            before = client.info("stats")["total_connections_received"]
            await asyncio.sleep(1.0)
            made = client.info("stats")["total_connections_received"] - before
        assert made < 100


async def test_the_rules_reach_nothing_else(engine: EmbeddedEngine, channel: str) -> None:
    with client_of(engine.url) as client:
        _make_user(client, "herald", RULES)
        async with running_broker(engine.url.replace("unix://", "unix://herald:secret@")) as broker:
            await broker.wait_open(PATIENCE)
            await publish(broker, channel)
            link = await broker.subscriptions.keeper.wait_open(PATIENCE)
            for command in (
                ("GET", "other:key"),
                ("SPUBLISH", "other", "x"),
                ("FLUSHALL",),
                ("CONFIG", "GET", "*"),
                ("KEYS", "*"),
            ):
                with pytest.raises(EngineError, match="NOPERM"):
                    await link.call(*command)
