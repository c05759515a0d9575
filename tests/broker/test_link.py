"""One link: order, errors, loss, and what it demands of the engine when it opens."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from service.broker.embedded import EmbeddedEngine
from service.broker.endpoint import parse_engine_url
from service.broker.link import Link, open_link
from service.core.errors import EngineError, EngineUnavailable
from tests.broker.support import client_of, running_engine, synced, tcp_engine
from tests.harness.process import PATIENCE, eventually
from tests.harness.servers import end_of


async def _open(url: str) -> Link:
    async with asyncio.timeout(PATIENCE):
        return await open_link(await parse_engine_url(url)())


@pytest.fixture
async def link(engine: EmbeddedEngine) -> AsyncIterator[Link]:
    link = await _open(engine.url)
    yield link
    link.abort()
    await link.closed


@pytest.fixture
async def own_link(own_engine: EmbeddedEngine) -> AsyncIterator[Link]:
    link = await _open(own_engine.url)
    yield link
    link.abort()
    await link.closed


async def test_replies_come_in_the_order_of_the_commands(link: Link) -> None:
    turns = [[link.call("ECHO", f"{turn}-{n}") for n in range(500)] for turn in range(4)]
    for turn, replies in enumerate(turns):
        assert await asyncio.gather(*replies) == [f"{turn}-{n}".encode() for n in range(500)]
    assert link.in_flight == 0
    assert link.waiting_since() is None


async def test_any_bytes_go_there_and_back(link: Link, channel: str) -> None:
    payload = bytes(range(256)) * 4096 + b"\r\n$-1\r\n"
    assert await link.call("SET", channel, payload, "PX", 60_000) == b"OK"
    assert await link.call(b"GET", channel) == payload


async def test_error_reply_is_an_engine_error_of_its_own_command_only(link: Link) -> None:
    replies = await asyncio.gather(
        link.call("ECHO", "before"),
        link.call("NOSUCHCOMMAND"),
        link.call("ECHO", "after"),
        return_exceptions=True,
    )
    assert (replies[0], replies[2]) == (b"before", b"after")
    assert type(replies[1]) is EngineError
    assert str(replies[1]).startswith("ERR unknown command")


async def test_forgotten_scripts_cost_no_call_and_no_order(
    engine: EmbeddedEngine, channel: str
) -> None:
    link = await _open(engine.url)
    append = b"return redis.call('RPUSH', KEYS[1], ARGV[1])"
    await link.learn([append])
    sha = hashlib.sha1(append).hexdigest()
    calls: list[asyncio.Future[int]] = []

    def call() -> None:
        calls.append(link.call("EVALSHA", sha, 1, channel, len(calls)))

    for _ in range(50):
        call()
        if len(calls) % 10 == 5:
            link.call("SCRIPT", "FLUSH")
    while not calls[49].done():  # refused and repeated; meanwhile more is called
        call()
        await asyncio.sleep(0)
    assert len(calls) > 51
    assert await asyncio.gather(*calls) == list(range(1, len(calls) + 1))
    stored = await link.call("LRANGE", channel, 0, -1)
    assert [int(text) for text in stored] == list(range(len(calls)))
    await eventually(lambda: link.in_flight == 0 and link.in_flight_bytes == 0)
    await link.call("DEL", channel)
    link.abort()
    await link.closed


async def test_a_script_that_is_always_forgotten_is_an_error(engine: EmbeddedEngine) -> None:
    link = await _open(engine.url)
    await link.learn([b"return 1"])
    with pytest.raises(EngineError, match="NOSCRIPT"):
        await link.call("EVALSHA", "0" * 40, 0)
    assert await link.call("PING") == b"PONG"
    link.abort()
    await link.closed


async def test_a_caller_that_gives_up_does_not_shift_the_replies_of_others(link: Link) -> None:
    abandoned = link.call("ECHO", "abandoned")
    kept = link.call("ECHO", "kept")
    abandoned.cancel()
    assert await kept == b"kept"


async def test_loss_fails_everything_in_flight_and_everything_after(
    own_engine: EmbeddedEngine, own_link: Link
) -> None:
    os.kill(own_engine.pid, signal.SIGSTOP)
    pending = [own_link.call("ECHO", str(n)) for n in range(10)]
    await asyncio.sleep(0)  # the commands are written
    assert own_link.in_flight == 10
    own_engine.kill()
    replies = await asyncio.gather(*pending, return_exceptions=True)
    assert [type(reply) for reply in replies] == [EngineUnavailable] * 10
    await own_link.closed
    with pytest.raises(EngineUnavailable):
        await own_link.call("PING")
    own_link.send_subscription("SSUBSCRIBE", b"x")  # nothing to send it to, and no harm
    assert own_link.in_flight == 0


async def test_pushes_are_told_from_replies(engine: EmbeddedEngine, channel: str) -> None:
    pushes: list[list[object]] = []
    link = await open_link(await parse_engine_url(engine.url)(), pushes.append)
    link.send_subscription("SSUBSCRIBE", channel.encode())
    # The engine writes a push to the publisher itself after the reply.
    replies = [link.call("SPUBLISH", channel, str(n)) for n in range(3)]
    assert await asyncio.gather(*replies, link.call("PING")) == [1, 1, 1, b"PONG"]
    assert [push[0] for push in pushes] == [b"ssubscribe"] + [b"smessage"] * 3
    assert [push[2] for push in pushes[1:]] == [b"0", b"1", b"2"]
    link.abort()
    await link.closed


async def test_a_refused_subscription_ends_the_link_and_says_why(engine: EmbeddedEngine) -> None:
    # Its answer would be given to the caller of the next command otherwise.
    link = await _open(engine.url)
    link.send_subscription("SSUBSCRIBE")
    with pytest.raises(EngineUnavailable, match="wrong number of arguments"):
        await link.call("PING")
    async with asyncio.timeout(PATIENCE):
        await link.closed


async def test_a_peer_that_is_no_engine_ends_the_link() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(EngineUnavailable):
        await _open(f"redis://127.0.0.1:{port}")
    await end_of(server)


async def test_database_number_is_selected(engine: EmbeddedEngine, channel: str) -> None:
    link = await _open(engine.url + "?db=5")
    await link.call("SET", channel, "1", "PX", 60_000)
    link.abort()
    await link.closed
    with client_of(engine.url) as zero, client_of(engine.url + "?db=5") as five:
        assert (zero.exists(channel), five.exists(channel)) == (0, 1)


async def test_database_that_does_not_exist_is_refused(engine: EmbeddedEngine) -> None:
    with pytest.raises(EngineError, match="DB index is out of range"):
        await _open(engine.url + "?db=999")


async def test_links_are_named_for_the_operator(engine: EmbeddedEngine, link: Link) -> None:
    with client_of(engine.url) as client:
        assert "herald" in {entry["name"] for entry in client.client_list()}


async def test_a_replica_is_refused() -> None:
    with (
        tcp_engine() as primary,
        tcp_engine("--replicaof", "127.0.0.1", str(primary.port)) as replica,
        client_of(replica.url) as client,
    ):
        await synced(client)
        with pytest.raises(EngineUnavailable, match="is a replica"):
            await _open(replica.url)


PASSWORD = "correct:horse/battery@staple"
QUOTED = "correct%3Ahorse%2Fbattery%40staple"


@pytest.fixture
def locked_engine() -> Iterator[EmbeddedEngine]:
    """An engine that demands PASSWORD."""
    with running_engine() as engine:
        with client_of(engine.url) as client:
            client.config_set("requirepass", PASSWORD)
        yield engine


@pytest.mark.parametrize("user", ["", "default"])
async def test_password_alone_logs_in(locked_engine: EmbeddedEngine, user: str) -> None:
    link = await _open(locked_engine.url.replace("unix://", f"unix://{user}:{QUOTED}@"))
    assert await link.call("ACL", "WHOAMI") == b"default"
    link.abort()
    await link.closed


@pytest.mark.parametrize(
    ("credentials", "reason"),
    [
        (":wrong-secret@", "WRONGPASS"),
        ("default:wrong-secret@", "WRONGPASS"),
        ("nobody:wrong-secret@", "WRONGPASS"),
        ("", "NOAUTH"),
    ],
)
async def test_bad_credentials_are_named_without_the_password(
    locked_engine: EmbeddedEngine, credentials: str, reason: str
) -> None:
    with pytest.raises(EngineError) as caught:
        await _open(locked_engine.url.replace("unix://", f"unix://{credentials}"))
    assert str(caught.value).startswith(reason)
    assert "wrong-secret" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
