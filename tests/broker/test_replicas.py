"""Copies before the answer: an event is answered once so many replicas have it, or it is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
import redis

from service.broker import keys
from service.broker.copies import Copies
from service.broker.embedded import EmbeddedEngine
from service.broker.endpoint import parse_engine_url
from service.broker.event_log import Commands, LogPolicy, load_scripts
from service.broker.link import open_link
from service.core.errors import EngineUnavailable, IdempotencyConflict, NotCopied, Overloaded
from service.core.event import fingerprint
from service.core.log import Entry
from service.core.position import BEGINNING, Position, parse_position
from service.ports import Receipt
from tests.broker.support import (
    PUBLISHER,
    TcpEngine,
    client_of,
    event,
    following,
    open_broker,
    publish,
    publish_again,
    running_broker,
    submit,
    synced,
    tcp_engine,
)
from tests.broker.test_acl import REPLICA_RULES, RULES
from tests.broker.test_sentinel import running_sentinel
from tests.harness.process import PATIENCE, eventually
from tests.harness.servers import end_of

SHORT = 2.0
"""Seconds that replicas are waited for where a test lets them be late, and then wants them."""
ROUNDS = int(os.environ.get("REPLICA_ROUNDS", "4"))


class Group:
    """A primary and its replicas."""

    def __init__(self, primary: TcpEngine, replicas: Sequence[TcpEngine]) -> None:
        self.primary = primary
        self.replicas = replicas
        self.url = primary.url

    @contextlib.contextmanager
    def paused(self, count: int = 1) -> Iterator[None]:
        """The first replicas, stopped: attached, and silent."""
        stopped = [replica.embedded.pid for replica in self.replicas[:count]]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def running_group(replicas: int) -> AsyncIterator[Group]:
    """All copies are made, and the primary knows it."""
    with contextlib.ExitStack() as ends:
        primary = ends.enter_context(tcp_engine())
        of = ("--replicaof", "127.0.0.1", str(primary.port))
        others = [ends.enter_context(tcp_engine(*of)) for _ in range(replicas)]
        with client_of(primary.url) as client:
            await following(client, replicas)
        yield Group(primary, others)


@pytest.fixture
async def group() -> AsyncIterator[Group]:
    async with running_group(1) as group:
        yield group


def told(client: redis.Redis, channel: str) -> Position | None:
    """The last position that an engine knows of."""
    meta = client.get(keys.meta_key(channel))
    return None if meta is None else Position(*map(int, meta.split()[:2]))


def calls(client: redis.Redis, command: str) -> int:
    return int(client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


# What an answer says


@pytest.mark.parametrize("least", [1, 2])
async def test_answered_once_so_many_replicas_have_it(channel: str, least: int) -> None:
    async with running_group(2) as group, open_broker(group.url, min_replicas=least) as broker:
        with contextlib.ExitStack() as ends:
            clients = [ends.enter_context(client_of(replica.url)) for replica in group.replicas]
            for number in range(100):
                mark = str(number) if number % 2 else None
                position = await publish(broker, channel, id=mark)
                has = [told(client, channel) == position for client in clients]  # at once
                assert sum(has) >= least


@pytest.mark.parametrize(("least", "enough"), [(1, True), (2, False)])
async def test_one_replica_that_is_late_matters_where_all_must_have_it(
    channel: str, least: int, enough: bool
) -> None:
    async with (
        running_group(2) as group,
        open_broker(group.url, min_replicas=least, replica_timeout=SHORT) as broker,
    ):
        with group.paused(1):
            receipt = await submit(broker, event(channel))
            assert (receipt.failure is None) is enough
        assert (await publish(broker, channel)).seq == 2


async def test_a_late_replica_is_told_in_time_and_the_repeat_is_confirmed(
    group: Group, channel: str
) -> None:
    pushed: list[Entry] = []
    reopened: list[str] = []
    options = {"min_replicas": 1, "replica_timeout": SHORT, "reopened": reopened}
    async with (
        open_broker(group.url, **options) as broker,  # type: ignore[arg-type]
        open_broker(group.url, **options) as other,  # type: ignore[arg-type]
    ):
        broker.subscriptions.on_pushed(lambda _, entry, __: pushed.append(entry))
        await broker.subscriptions.subscribe(channel)
        await publish(broker, channel)
        with group.paused():
            began = time.monotonic()
            receipt = await submit(broker, event(channel, id="1"))
            took = time.monotonic() - began
            assert isinstance(receipt.failure, NotCopied)
            assert SHORT * 0.9 <= took < SHORT + 1.0
            assert (receipt.positions, receipt.duplicate) == ({}, False)
            uncopied = receipt.failure.positions
            assert list(uncopied) == [channel]
            again = await submit(other, event(channel, id="1"))
            assert isinstance(again.failure, NotCopied)
            assert again.failure.positions == uncopied
            # What was used for something else is a conflict, copied or not.
            conflict = await submit(broker, event(channel, id="1", data=b"2"))
            assert isinstance(conflict.failure, IdempotencyConflict)
        async with asyncio.timeout(PATIENCE):
            while (confirmed := await submit(other, event(channel, id="1"))).failure is not None:
                assert isinstance(confirmed.failure, NotCopied)
        assert confirmed.duplicate
        assert confirmed.positions == uncopied
        last = await publish(broker, channel)
        await eventually(lambda: pushed[-1].position == last, "the push")
        assert [entry.position.seq for entry in pushed] == [1, 2, 3]
        assert parse_position(uncopied[channel]).seq == 2
        assert reopened == []


async def test_a_known_id_is_written_so_that_a_wait_is_about_it(group: Group, channel: str) -> None:
    async with open_broker(group.url) as broker:
        await publish(broker, channel, id="1")
    again = event(channel, id="1")
    link = await open_link(await parse_engine_url(group.url)())  # it has written nothing so far
    await load_scripts(link)
    with group.paused():
        for copies, confirmed in ((None, 1), (Copies(1, 1.0), 0)):
            commands = Commands(LogPolicy(100, 86400, copies=copies))
            (command,) = commands.publish(again, PUBLISHER, b"", b"0", fingerprint(again))
            assert (await link.call(*command))[0] == b"duplicate"
            assert await link.call("WAIT", 1, 100) == confirmed
    link.abort()
    await link.closed


async def test_a_repeat_leaves_the_id_its_time(group: Group, channel: str) -> None:
    async with open_broker(group.url, min_replicas=1) as broker:
        with client_of(group.primary.url) as client:
            await publish(broker, channel, id="1")
            id_key = keys.idempotency_key(channel, PUBLISHER.name, "1")
            client.pexpire(id_key, 60_000)
            assert (await submit(broker, event(channel, id="1"))).duplicate
            assert 0 < int(client.pttl(id_key)) <= 60_000


async def test_a_list_tells_what_is_copied_and_what_is_not(group: Group, channel: str) -> None:
    names = [f"{channel}/{number}" for number in range(3)]
    async with open_broker(group.url, min_replicas=1, replica_timeout=SHORT) as broker:
        with group.paused():
            receipt = await submit(broker, event(*names, id="1"))
        assert isinstance(receipt.failure, NotCopied)
        assert list(receipt.failure.positions) == names
        again = await submit(broker, event(*names, id="1"))
        assert again.duplicate
        assert again.positions == receipt.failure.positions


async def test_an_engines_refusal_is_told_as_such(group: Group, channel: str) -> None:
    async with open_broker(group.url, min_replicas=1, replica_timeout=SHORT) as broker:
        with client_of(group.primary.url) as client:
            client.set(keys.log_key(channel), "not a stream", ex=60)
            receipt = await submit(broker, event(channel, channel + "/b"))
            assert "WRONGTYPE" in str(receipt.failure)
            assert list(receipt.positions) == [channel + "/b"]
            client.script_flush()
            assert (await publish(broker, channel + "/b")).seq == 2


async def test_nothing_is_asked_of_replicas_where_none_are_demanded(
    own_engine: EmbeddedEngine, channel: str
) -> None:
    async with open_broker(own_engine.url) as broker:
        await publish(broker, channel, id="1")
        with client_of(own_engine.url) as client:
            sets = calls(client, "set")
            assert (await submit(broker, event(channel, id="1"))).duplicate
            assert calls(client, "wait") == 0
            assert calls(client, "set") == sets


# Many at a time


async def test_events_of_one_turn_are_waited_for_together(group: Group, channel: str) -> None:
    async with open_broker(group.url, min_replicas=1) as broker:
        with client_of(group.primary.url) as client:
            before = calls(client, "wait")
            sent = [await broker.log.submit(event(channel), PUBLISHER) for _ in range(500)]
            for submission in sent:
                assert (await submission.receipt()).failure is None
            assert calls(client, "wait") == before + 1


async def test_order_is_kept_under_load_while_a_replica_comes_and_goes(
    group: Group, channel: str
) -> None:
    names = [f"{channel}/{number}" for number in range(3)]
    receipts: list[Receipt] = []
    async with open_broker(
        group.url, min_replicas=1, replica_timeout=SHORT, history_size=100_000
    ) as broker:

        async def send(number: int) -> Receipt:
            mark = str(number) if number % 3 == 0 else None
            sent = event(*names[number % 2 :], data=b"%d" % number, id=mark)
            return await (await broker.log.submit(sent, PUBLISHER)).receipt()

        # A list with an id is looked up first, so that only those without keep their turn.
        async def stream(first: int) -> None:
            for number in range(first, 1000, 100):
                receipts.append(await send(number))

        streams = [asyncio.create_task(stream(first)) for first in range(100)]
        while not all(task.done() for task in streams):
            with group.paused():
                await asyncio.sleep(random.choice((0.1, 0.4)))
            await asyncio.sleep(0.1)
        await asyncio.gather(*streams)
        assert {type(receipt.failure) for receipt in receipts} <= {type(None), NotCopied}
        assert len(receipts) == 1000
        for index, name in enumerate(names):
            page = await broker.log.read(name, BEGINNING, 100_000)
            numbers = [_number(entry) for entry in page.entries]
            due = range(1000) if index else range(0, 1000, 2)
            assert sorted(numbers) == list(due)  # each once, copied in time or not
            for first in range(100):  # what one publisher sends in turn
                mine = [number for number in numbers if number % 100 == first]
                assert mine == sorted(mine)


async def test_pipelined_events_keep_their_order(group: Group, channel: str) -> None:
    async with open_broker(group.url, min_replicas=1, history_size=100_000) as broker:
        sent = []
        for number in range(2000):
            sent.append(await broker.log.submit(event(channel, data=b"%d" % number), PUBLISHER))
            if number % 7 == 0:
                await asyncio.sleep(0)
            if number % 500 == 0:
                with group.paused():
                    await asyncio.sleep(0.05)
        assert not [one for one in sent if (await one.receipt()).failure]
        page = await broker.log.read(channel, BEGINNING, 100_000)
        assert [_number(entry) for entry in page.entries] == list(range(2000))


def _number(entry: Entry) -> int:
    return int(entry.fragment.partition(b'"data":')[2].partition(b",")[0])


async def test_what_waits_for_its_copies_counts_as_in_flight(group: Group, channel: str) -> None:
    async with open_broker(group.url, min_replicas=1, max_in_flight=20) as broker:
        link = broker._engine.publish.link  # type: ignore[union-attr]
        with group.paused():
            # A probe may be in flight as well.
            sent = [await broker.log.submit(event(channel), PUBLISHER) for _ in range(15)]
            await eventually(lambda: len(link._pending) < 10, "the engine's answers")
            assert link.in_flight >= 15

            async def submit_more() -> None:
                for _ in range(10):
                    sent.append(await broker.log.submit(event(channel), PUBLISHER))

            with pytest.raises(Overloaded):
                await submit_more()
        for submission in sent:
            await submission.receipt()
        await eventually(lambda: link.in_flight == link.in_flight_bytes == 0, "the last probe")


# Health


async def test_an_engine_that_waits_is_not_taken_for_a_dead_one(group: Group, channel: str) -> None:
    reopened: list[str] = []
    async with open_broker(
        group.url, min_replicas=1, replica_timeout=0.5, timeout=1.0, reopened=reopened
    ) as broker:
        await eventually(lambda: broker.trouble() is None, "health")
        with group.paused():
            until = time.monotonic() + 6.0
            while time.monotonic() < until:  # it waits all the time
                receipts = await asyncio.gather(*(submit(broker, event(channel)) for _ in range(5)))
                assert {type(receipt.failure) for receipt in receipts} == {NotCopied}
                assert broker.trouble() is None
                await broker.log.read(channel, BEGINNING)  # history does not wait
        assert reopened == []
        await publish_again(broker, channel)


async def test_a_stopped_primary_is_still_found_out(group: Group, channel: str) -> None:
    async with open_broker(group.url, min_replicas=1, replica_timeout=0.3, timeout=1.0) as broker:
        await publish_again(broker, channel)
        os.kill(group.primary.embedded.pid, signal.SIGSTOP)
        try:
            receipt = await submit(broker, event(channel))
            assert isinstance(receipt.failure, EngineUnavailable)
        finally:
            os.kill(group.primary.embedded.pid, signal.SIGCONT)
        await publish_again(broker, channel)


async def test_loss_fails_what_waits_for_its_copies(group: Group, channel: str) -> None:
    async with open_broker(group.url, min_replicas=1, replica_timeout=10.0) as broker:
        link = broker._engine.publish.link  # type: ignore[union-attr]
        with group.paused():
            sent = [await broker.log.submit(event(channel), PUBLISHER) for _ in range(5)]
            await asyncio.sleep(0.1)
            sent += [await broker.log.submit(event(channel), PUBLISHER) for _ in range(5)]
            await asyncio.sleep(0.1)
            began = time.monotonic()
            group.primary.embedded.kill()
            receipts = [await submission.receipt() for submission in sent]
            assert time.monotonic() - began < 5.0
        assert {type(receipt.failure) for receipt in receipts} == {EngineUnavailable}
        assert link.in_flight == 0


async def test_a_primary_that_is_demoted_while_it_waits_is_left(group: Group, channel: str) -> None:
    reopened: list[str] = []
    async with open_broker(
        group.url, min_replicas=1, replica_timeout=10.0, reopened=reopened
    ) as broker:
        with client_of(group.primary.url) as client:
            with group.paused():
                sent = await broker.log.submit(event(channel), PUBLISHER)
                await asyncio.sleep(0.1)
                client.replicaof("127.0.0.1", str(group.replicas[0].port))
                receipt = await sent.receipt()
                assert isinstance(receipt.failure, EngineUnavailable)
                await eventually(lambda: "replica" in (broker.trouble() or ""), "the trouble")
            client.replicaof("NO", "ONE")
        await eventually(lambda: "publish" in reopened, "another link")


async def test_attached_replicas_are_counted_and_none_fails_at_once_when_it_must(
    channel: str,
) -> None:
    with tcp_engine() as primary:
        async with open_broker(primary.url, min_replicas=1, replica_timeout=SHORT) as broker:
            await eventually(lambda: broker.replicas() == 0, "the count")
            receipt = await submit(broker, event(channel, id="1"))
            assert isinstance(receipt.failure, NotCopied)
            assert broker.trouble() is None  # what is stored is delivered and can be read
            with tcp_engine("--replicaof", "127.0.0.1", str(primary.port)) as replica:
                with client_of(replica.url) as client:
                    await synced(client)
                await eventually(lambda: broker.replicas() == 1, "the count")
                assert (await submit(broker, event(channel, id="1"))).duplicate


async def test_a_shortage_is_logged_where_it_begins_and_ends(
    group: Group, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_broker(group.url, min_replicas=1, replica_timeout=0.05) as broker:
        with group.paused():
            for _ in range(3):
                await submit(broker, event(channel))
        await publish_again(broker, channel)
    said = [record.message for record in caplog.records if "replicas confirm" in record.message]
    assert said == ["too few replicas confirm", "enough replicas confirm again"]


@pytest.mark.parametrize("missing", [None, *REPLICA_RULES])
async def test_the_listed_rule_is_enough_and_not_too_much(
    group: Group, channel: str, missing: str | None
) -> None:
    with client_of(group.primary.url) as client:
        rules = [rule for rule in (*RULES, *REPLICA_RULES) if rule != missing]
        client.execute_command("ACL", "SETUSER", "herald", "reset", "on", ">secret", *rules)
    url = group.url.replace("//", "//herald:secret@")
    async with running_broker(url, min_replicas=1) as broker:
        if missing is not None:
            await eventually(lambda: "NOPERM" in (broker.trouble() or ""), "the refusal")
            return
        await broker.wait_open(PATIENCE)
        await publish(broker, channel, id="1")
        assert (await submit(broker, event(channel, id="1"))).duplicate


# The primary dies


class _Wire:
    """Carries replication, some milliseconds late; cut, it loses what is on its way."""

    def __init__(self, port: int, delay: float) -> None:
        self._primary = port
        self._delay = delay
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._cut = False
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            source, target = await asyncio.open_connection("127.0.0.1", self._primary)
        except OSError:  # it is dead, and the replica tries again
            writer.close()
            return
        self._writers += [writer, target]
        for task in (
            asyncio.create_task(self._carry(source, writer, self._delay)),
            asyncio.create_task(self._carry(reader, target, 0.0)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float
    ) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                loop.call_later(delay, self._put, target, data)

    def _put(self, target: asyncio.StreamWriter, data: bytes) -> None:
        if not self._cut:
            target.write(data)

    def cut(self) -> None:
        self._cut = True
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # lets the aborted transports end


@contextlib.asynccontextmanager
async def _wire(port: int, delay: float) -> AsyncIterator[_Wire]:
    wire = _Wire(port, delay)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        await wire.close()
        await end_of(server)


async def _kill_after_an_answer(least: int, channel: str, seed: int) -> tuple[int, int]:
    """Kill the primary the moment it has answered, promote; how many were accepted, and lost."""
    choice = random.Random(seed)
    with tcp_engine() as primary:
        async with _wire(primary.port, 0.005) as wire:
            with (
                tcp_engine("--replicaof", "127.0.0.1", str(wire.port)) as replica,
                client_of(primary.url) as primary_client,
                client_of(replica.url) as replica_client,
            ):
                await following(primary_client, 1)
                accepted: list[str] = []
                async with open_broker(primary.url, min_replicas=least) as broker:
                    killed_at = choice.randrange(1, 40)

                    async def send() -> None:
                        await asyncio.sleep(choice.random() * 0.1)
                        if len(accepted) >= killed_at:
                            return
                        with contextlib.suppress(EngineUnavailable):  # the link is gone
                            receipt = await submit(broker, event(channel))
                            accepted.extend(receipt.positions.values())
                        if len(accepted) == killed_at:
                            primary.embedded.kill()
                            wire.cut()

                    await asyncio.gather(*(send() for _ in range(50)))
                replica_client.replicaof("NO", "ONE")
                async with open_broker(replica.url) as broker:
                    page = await broker.log.read(channel, BEGINNING)
                kept = {str(entry.position) for entry in page.entries}
    return len(accepted), len(set(accepted) - kept)


async def test_no_accepted_event_is_lost_with_the_primary(channel: str) -> None:
    sums = {}
    for least in (1, 0):
        accepted = lost = 0
        for number in range(ROUNDS):
            found = await _kill_after_an_answer(least, f"{channel}/{least}/{number}", number)
            accepted, lost = accepted + found[0], lost + found[1]
        sums[least] = (accepted, lost)
        print(  # a measurement: without copies it is no promise
            f"\nHERALD_MIN_REPLICAS={least}: {ROUNDS} primaries killed right after an answer, "
            f"{accepted} events accepted, {lost} lost"
        )
    assert sums[1][0] >= ROUNDS
    assert sums[1][1] == 0


def _asked_by(sentinel: redis.Redis) -> int:
    """Replicas that the sentinel has asked who they are; it promotes no other."""
    with contextlib.suppress(redis.ConnectionError):
        return sum(bool(one["runid"]) for one in sentinel.sentinel_slaves("main"))
    return 0


async def test_a_failover_by_sentinel_keeps_all_and_goes_on_with_the_other_replica(
    tmp_path_factory: pytest.TempPathFactory, channel: str
) -> None:
    async with running_group(2) as group:
        with (
            running_sentinel(tmp_path_factory.mktemp("sentinel"), group.primary) as port,
            client_of(f"redis://127.0.0.1:{port}") as sentinel,
        ):
            await eventually(lambda: _asked_by(sentinel) == 2, "the replicas' discovery")
            await asyncio.sleep(1.0)  # until then it may take one that it has just found for dead
            url = f"redis+sentinel://127.0.0.1:{port}/main"
            async with open_broker(url, min_replicas=1, replica_timeout=SHORT) as broker:
                accepted = [await publish(broker, channel) for _ in range(20)]
                group.primary.embedded.kill()
                async with asyncio.timeout(PATIENCE):
                    while True:  # until the new primary has the other one as its replica
                        with contextlib.suppress(EngineUnavailable):
                            receipt = await submit(broker, event(channel, id="next"))
                            if receipt.failure is None:
                                break
                        await asyncio.sleep(0.02)
                await broker.wait_open(PATIENCE)  # one reads by another link
                page = await broker.log.read(channel, BEGINNING)
                kept = [entry.position for entry in page.entries]
                assert kept[:20] == accepted
                assert [str(position) for position in kept[20:]] == [receipt.positions[channel]]
