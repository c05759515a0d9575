"""The keeper brings a link back, whatever became of the engine, and says what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import pytest

from service.broker.embedded import EmbeddedEngine
from service.broker.endpoint import parse_engine_url
from service.broker.keeper import LinkKeeper
from service.broker.link import Link
from service.core.errors import EngineUnavailable
from tests.broker.support import client_of, running_engine, synced, tcp_engine
from tests.harness.process import PATIENCE, eventually
from tests.harness.servers import end_of

TIMEOUT = 1.0
"""Seconds without an answer. Only tests that stop the engine wait for it."""


class _Kept:
    """A keeper that runs, and what it told."""

    def __init__(self, url: str, timeout: float) -> None:
        self.prepared: list[Link] = []
        self.reopened: list[str] = []
        self.keeper = LinkKeeper(
            "test", parse_engine_url(url), timeout, self._prepare, self.reopened.append
        )

    async def _prepare(self, link: Link) -> None:
        assert self.keeper.link is None  # nobody may use it yet
        assert await link.call("PING") == b"PONG"
        self.prepared.append(link)


@contextlib.asynccontextmanager
async def _keeping(url: str, timeout: float = PATIENCE) -> AsyncIterator[_Kept]:
    kept = _Kept(url, timeout)
    task = asyncio.create_task(kept.keeper.run())
    try:
        yield kept
        assert not task.done(), "the keeper gave up"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_link_is_prepared_before_anyone_gets_it(engine: EmbeddedEngine) -> None:
    async with _keeping(engine.url) as kept:
        assert kept.keeper.link is None
        assert kept.keeper.trouble == "not connected yet"
        link = await kept.keeper.wait_open(PATIENCE)
        assert kept.prepared == [link]
        assert kept.keeper.link is link
        assert kept.keeper.trouble is None
        assert kept.reopened == []


async def test_cancelled_keeper_drops_its_link(engine: EmbeddedEngine) -> None:
    async with _keeping(engine.url) as kept:
        link = await kept.keeper.wait_open(PATIENCE)
    assert kept.keeper.link is None
    async with asyncio.timeout(PATIENCE):
        await link.closed


async def test_link_comes_back_after_kill_and_restart(own_engine: EmbeddedEngine) -> None:
    async with _keeping(own_engine.url) as kept:
        for round_number in range(1, 4):
            old = await kept.keeper.wait_open(PATIENCE)
            own_engine.kill()
            await eventually(lambda: kept.keeper.link is None, "the loss")
            assert kept.keeper.trouble is not None
            with pytest.raises(EngineUnavailable):
                await kept.keeper.wait_open(0.01)
            own_engine.restart()
            new = await kept.keeper.wait_open(PATIENCE)
            assert new is not old
            assert await new.call("PING") == b"PONG"
            assert kept.reopened == ["test"] * round_number
            assert kept.keeper.trouble is None


async def test_engine_that_comes_late_is_waited_for(own_engine: EmbeddedEngine) -> None:
    own_engine.kill()
    async with _keeping(own_engine.url) as kept:
        await eventually(lambda: kept.keeper.trouble != "not connected yet", "the first attempt")
        assert kept.keeper.trouble is not None
        assert "refused" in kept.keeper.trouble or "No such file" in kept.keeper.trouble
        own_engine.restart()
        await kept.keeper.wait_open(PATIENCE)
        assert kept.reopened == []  # the first link is none that came back


async def test_attempts_become_rarer(
    own_engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_engine.kill()
    waits: list[tuple[int, float]] = []

    def recorded(attempt: int, chance: float) -> float:
        assert 0 <= chance < 1
        waits.append((attempt, chance))
        return 0.0

    monkeypatch.setattr("service.broker.keeper.full_jitter", recorded)
    async with _keeping(own_engine.url):
        await eventually(lambda: len(waits) >= 5, "five attempts")
    assert [attempt for attempt, _ in waits[:5]] == [0, 1, 2, 3, 4]
    assert len({chance for _, chance in waits}) > 1


async def test_stopped_engine_is_dropped_and_comes_back(own_engine: EmbeddedEngine) -> None:
    async with _keeping(own_engine.url, TIMEOUT) as kept:
        link = await kept.keeper.wait_open(PATIENCE)
        os.kill(own_engine.pid, signal.SIGSTOP)
        with pytest.raises(EngineUnavailable):
            async with asyncio.timeout(PATIENCE):
                await link.call("PING")
        await eventually(lambda: kept.keeper.link is None, "the loss")
        # The kernel still accepts connections for the stopped process; they are no sign of life.
        await eventually(
            lambda: kept.keeper.trouble == "no answer in time", "an attempt that hangs"
        )
        os.kill(own_engine.pid, signal.SIGCONT)
        new = await kept.keeper.wait_open(PATIENCE)
        assert await new.call("PING") == b"PONG"
        assert kept.reopened == ["test"]


async def test_idle_link_to_a_stopped_engine_is_kept(own_engine: EmbeddedEngine) -> None:
    # Nobody waits for an answer, so nothing says that it is dead; the broker's probe asks.
    async with _keeping(own_engine.url, 0.2) as kept:
        link = await kept.keeper.wait_open(PATIENCE)
        os.kill(own_engine.pid, signal.SIGSTOP)
        await asyncio.sleep(0.6)
        assert kept.keeper.link is link
        os.kill(own_engine.pid, signal.SIGCONT)


async def test_dropped_link_is_replaced(engine: EmbeddedEngine) -> None:
    async with _keeping(engine.url) as kept:
        old = await kept.keeper.wait_open(PATIENCE)
        kept.keeper.drop("a test")
        await eventually(lambda: kept.reopened == ["test"], "the next link")
        assert kept.keeper.link is not old
        assert old.closed.done()


async def test_replica_is_waited_for_until_it_is_promoted() -> None:
    with (
        tcp_engine() as primary,
        tcp_engine("--replicaof", "127.0.0.1", str(primary.port)) as replica,
        client_of(replica.url) as client,
    ):
        await synced(client)
        async with _keeping(replica.url) as kept:
            await eventually(
                lambda: kept.keeper.trouble == "The engine is a replica; waiting for a primary.",
                "the refusal",
            )
            client.replicaof("NO", "ONE")
            await kept.keeper.wait_open(PATIENCE)


@pytest.mark.parametrize(
    ("credentials", "reason"), [(":wrong-secret@", "WRONGPASS"), ("", "NOAUTH")]
)
async def test_bad_credentials_are_the_trouble_without_the_password(
    credentials: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running_engine() as engine, client_of(engine.url) as client:
        client.config_set("requirepass", "the-right-secret")
        async with _keeping(engine.url.replace("unix://", f"unix://{credentials}")) as kept:
            await eventually(lambda: (kept.keeper.trouble or "").startswith(reason), "the refusal")
            # Once the password fits, the link opens by itself.
            client.config_set("requirepass", credentials.strip(":@"))
            await kept.keeper.wait_open(PATIENCE)
    told = " ".join(str(record.__dict__) for record in caplog.records)
    assert reason in told
    assert "secret" not in told


@pytest.mark.parametrize("host", ["a..b", "." + "a" * 64])
async def test_host_name_that_cannot_be_looked_up_is_trouble(host: str) -> None:
    async with _keeping(f"redis://{host}:6379") as kept:
        await eventually(lambda: kept.keeper.trouble != "not connected yet", "the first attempt")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://:hush@nowhere.invalid:6379", "nowhere.invalid:6379"),
        ("unix://:hush@/nowhere/engine.sock", "/nowhere/engine.sock"),
    ],
)
async def test_log_says_where_the_engine_was_looked_for_and_trouble_does_not(
    url: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with _keeping(url) as kept:
        await eventually(lambda: bool(caplog.records), "the warning")
        assert kept.keeper.place == place
        # Readiness tells it to whoever asks.
        assert place not in (kept.keeper.trouble or "")
    told = [record.__dict__ for record in caplog.records]
    assert place in {record.get("engine") for record in told}
    assert "hush" not in str(told)


async def test_server_of_another_protocol_is_told_as_that() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with _keeping(f"redis://127.0.0.1:{port}") as kept:
        await eventually(
            lambda: "does not speak the protocol of Redis" in (kept.keeper.trouble or ""),
            "the reason",
        )
    await end_of(server)
