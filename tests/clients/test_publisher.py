"""Publishing through a real Herald, and through real faults."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import json
import os
import signal
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from herald_client import (
    AsyncPublisher,
    Closed,
    ConfigurationError,
    Event,
    EventFields,
    IdConflict,
    NoAnswer,
    Overloaded,
    Published,
    Publisher,
    Rejected,
    SomeNotPublished,
    TooLarge,
    Unauthorized,
    Unavailable,
)

from service.broker.embedded import EmbeddedEngine
from tests.chaos.proxy import Proxy, proxying
from tests.clients.conftest import Fragile, retained, retained_events
from tests.harness.certificates import Authority, server_context
from tests.harness.process import KEY, PATIENCE, Herald, eventually, free_port
from tests.harness.servers import end_of

COLOURS = pytest.mark.parametrize("colour", ["sync", "async"])


def test_an_event_is_stored_with_its_id(publisher: Publisher, herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    published = publisher.publish(to=channel, type="order.shipped", data={"order": 17})
    assert list(published.positions) == [channel]
    assert published.duplicate is False
    assert len(published.id) == 32
    (stored,) = retained_events(herald, channel)
    assert stored["id"] == published.positions[channel]
    assert (stored["event"], stored["data"]) == ("order.shipped", {"order": 17})


def test_several_channels_and_an_id_of_ones_own(
    publisher: Publisher, herald: Herald, new_name: Callable[[], str]
) -> None:
    channels = [f"user:{new_name()}", f"topic:{new_name()}"]
    first = publisher.publish(to=channels, type="t", data="ü", id="mine", ttl=60)
    again = publisher.publish(to=channels, type="t", data="ü", id="mine", ttl=60)
    assert first.id == again.id == "mine"
    assert again.positions == first.positions
    assert (first.duplicate, again.duplicate) == (False, True)
    with pytest.raises(IdConflict) as raised:
        publisher.publish(to=channels, type="t", data="other", id="mine", ttl=60)
    assert sorted(raised.value.channels) == sorted(channels)
    assert [retained(herald, channel) for channel in channels] == [["ü"], ["ü"]]


def test_errors_say_what_is_wrong(herald: Herald, publisher: Publisher, user: str) -> None:
    stranger = Publisher(herald.url, "another-key")
    with stranger, pytest.raises(Unauthorized, match="401"):
        stranger.publish(to="all", type="t")
    with pytest.raises(Rejected, match="A channel is user:<id>"):
        publisher.publish(to="nobody", type="t")
    with pytest.raises(TooLarge):
        publisher.publish(to=f"user:{user}", type="t", data="x" * 70_000)
    lost = Publisher(herald.url + "/elsewhere", KEY)
    with lost, pytest.raises(Rejected, match="404"):
        lost.publish(to="all", type="t")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((None, "k"), "HERALD_URL"),
        (("http://127.0.0.1:1", None), "HERALD_API_KEY"),
        (("127.0.0.1:8000", "k"), "`url`"),
        (("ftp://x", "k"), "`url`"),
        (("http://127.0.0.1:1", "two words"), "`key`"),
        (("http://127.0.0.1:port", "k"), "port"),
        (("http://127.0.0.1:99999", "k"), "port"),
        (("http://[::1", "k"), "host"),
        (("http://" + "é" * 80, "k"), "host"),
        (("http://user:password@127.0.0.1:1", "k"), "user"),
        (("http://127.0.0.1:1/?region=eu", "k"), "query"),
    ],
)
def test_bad_arguments_are_named(
    arguments: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HERALD_URL", raising=False)
    monkeypatch.delenv("HERALD_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=words):
        Publisher(*arguments)


@pytest.mark.parametrize("deadline", [0, -1, 241, float("nan")])
def test_a_deadline_beyond_which_ids_are_forgotten_is_refused(deadline: float) -> None:
    with pytest.raises(ConfigurationError, match="deadline"):
        Publisher("http://127.0.0.1:1", "k", deadline=deadline)
    publisher = Publisher("http://127.0.0.1:1", "k")
    with publisher, pytest.raises(ConfigurationError, match="deadline"):
        publisher.publish(to="all", type="t", deadline=deadline)


def test_url_and_key_may_come_from_the_environment(
    herald: Herald, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERALD_URL", herald.url + "/")
    monkeypatch.setenv("HERALD_API_KEY", KEY)
    with Publisher() as publisher:
        assert publisher.publish(to=f"user:{user}", type="t").duplicate is False


def test_the_key_is_in_no_text(herald: Herald) -> None:
    secret = "a-key-that-nobody-may-see"
    with Publisher(herald.url, secret) as stranger, pytest.raises(Unauthorized) as raised:
        stranger.publish(to="all", type="t")
    assert secret not in repr(vars(stranger)) + repr(raised.value) + str(raised.value.problem)


def test_closed(herald: Herald) -> None:
    publisher = Publisher(herald.url, KEY)
    publisher.close()
    publisher.close()
    with pytest.raises(Closed):
        publisher.publish(to="all", type="t")
    with pytest.raises(Closed):
        publisher.enqueue(to="all", type="t")


def test_connections_are_used_again(publisher: Publisher, herald: Herald, user: str) -> None:
    """Many threads, one publisher: no more connections than threads."""
    numbers = range(200)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        done = list(
            pool.map(
                lambda number: publisher.publish(to=f"topic:{user}", type="t", data=number),
                numbers,
            )
        )
    assert len({one.id for one in done}) == len(numbers)
    assert (
        sorted(retained(herald, f"topic:{user}")) == list(range(100, 200))
        or len(retained(herald, f"topic:{user}")) == 100
    )
    sockets = {
        line.split()[1]
        for line in Path("/proc/self/net/tcp").read_text().splitlines()
        if line.split()[2].endswith(f":{herald.api_port:04X}") and line.split()[3] == "01"
    }
    assert len(sockets) <= 8 + 1, "and the tests' own"


async def test_async_publisher(async_publisher: AsyncPublisher, herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    numbers = range(50)
    await asyncio.gather(
        *(async_publisher.publish(to=channel, type="t", data=number) for number in numbers)
    )
    assert sorted(retained(herald, channel)) == list(numbers)
    with pytest.raises(Rejected):
        await async_publisher.publish(to="nobody", type="t")


@contextlib.contextmanager
def leaving_nothing() -> Iterator[None]:
    """Whatever is dropped in here was closed before."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_an_async_publisher_outlives_its_loops(herald: Herald, user: str) -> None:
    """As where a web framework makes a loop for each request: each closes its connections."""
    publisher = AsyncPublisher(herald.url, KEY)
    with leaving_nothing():
        for number in range(5):
            asyncio.run(publisher.publish(to=f"user:{user}", type="t", data=number))
        assert len(publisher._transport._pools) == 1
        del publisher
    assert retained(herald, f"user:{user}") == list(range(5))


@pytest.mark.filterwarnings("ignore:asynchronous generator:ResourceWarning")
def test_a_loop_that_ended_its_generators_may_go_on(herald: Herald, user: str) -> None:
    publisher = AsyncPublisher(herald.url, KEY)
    with asyncio.Runner() as runner:
        for number in range(2):
            runner.run(publisher.publish(to=f"user:{user}", type="t", data=number))
            runner.get_loop().run_until_complete(runner.get_loop().shutdown_asyncgens())
        runner.run(publisher.close())
    assert retained(herald, f"user:{user}") == [0, 1]


def test_a_publisher_that_nobody_closes_leaves_no_socket(herald: Herald, user: str) -> None:
    publisher = Publisher(herald.url, KEY)
    with leaving_nothing():
        publisher.publish(to=f"user:{user}", type="t")
        del publisher


@COLOURS
async def test_a_call_that_waits_ends_with_its_publisher(colour: str) -> None:
    """And opens no connection that nobody would close."""
    url = f"http://127.0.0.1:{free_port()}"
    async with asyncio.timeout(PATIENCE):
        if colour == "async":
            async with AsyncPublisher(url, KEY, deadline=240.0) as publisher:
                sent = asyncio.ensure_future(publisher.publish(to="all", type="t"))
                await asyncio.sleep(0.1)
        else:
            with Publisher(url, KEY, deadline=240.0) as other:
                sent = asyncio.ensure_future(asyncio.to_thread(other.publish, to="all", type="t"))
                await asyncio.sleep(0.1)
        with pytest.raises(Closed):
            await sent


class Silent(asyncio.Protocol):
    """Takes connections, and says nothing."""

    def __init__(self, taken: list[asyncio.BaseTransport]) -> None:
        self._taken = taken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._taken.append(transport)


@pytest.mark.parametrize("end", ["timeout", "cancel"])
async def test_a_handshake_that_is_cut_short_leaves_no_socket(end: str) -> None:
    taken: list[asyncio.BaseTransport] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Silent(taken), "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    timeout = 0.5 if end == "timeout" else PATIENCE
    with leaving_nothing():
        async with AsyncPublisher(url, KEY, timeout=timeout, deadline=timeout * 1.1) as publisher:
            sent = asyncio.create_task(publisher.publish(to="all", type="t"))
            await eventually(lambda: bool(taken), "it is connected")
            if end == "cancel":
                await asyncio.sleep(0.05)
                sent.cancel()
            await asyncio.wait([sent])
            assert sent.cancelled() or isinstance(sent.exception(), NoAnswer)
        del sent
    for transport in taken:
        transport.close()
    await end_of(server)


@COLOURS
async def test_an_answer_that_dribbles_does_not_outlast_the_deadline(colour: str) -> None:
    """Each byte comes in time, and all of them never would."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000000\r\n\r\n")
            while not done.is_set():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])

    done = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def publish() -> None:
        if colour == "async":
            async with AsyncPublisher(url, KEY, timeout=0.2, deadline=0.3) as publisher:
                await publisher.publish(to="all", type="t")
        else:
            with Publisher(url, KEY, timeout=0.2, deadline=0.3) as other:
                await asyncio.to_thread(other.publish, to="all", type="t")

    with pytest.raises(NoAnswer, match="in time"):
        await asyncio.wait_for(publish(), PATIENCE)
    done.set()
    await end_of(server)


def _many(channel: str, count: int) -> list[EventFields]:
    return [{"to": channel, "type": "t", "data": number} for number in range(count)]


async def test_many_at_once(herald: Herald, user: str) -> None:
    """More bytes than one request may hold: in order, one result each."""
    channel = f"user:{user}"
    events: list[EventFields] = [
        {"to": channel, "type": "t", "data": "x" * 60_000, "ttl": 1} for _ in range(290)
    ]
    with Publisher(herald.url, KEY) as publisher:
        done = publisher.publish_many(events)
        assert [one.positions[channel].partition("-")[2] for one in done] == [
            str(number) for number in range(1, 291)
        ]
        assert publisher.publish_many([]) == []
    async with AsyncPublisher(herald.url, KEY) as other:
        done = await other.publish_many(_many(channel, 10))
        assert done[-1].positions[channel].partition("-")[2] == "300"


def test_of_many_some_may_fail(publisher: Publisher, herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    events = _many(channel, 5)
    events[2]["to"] = "nobody"
    events[3]["data"] = "x" * 70_000
    with pytest.raises(SomeNotPublished, match="2 of 5") as raised:
        publisher.publish_many(events)
    kinds = [type(result) for result in raised.value.results]
    assert kinds == [Published, Published, Rejected, TooLarge, Published]
    assert retained(herald, channel) == [0, 1, 4]
    results = publisher.publish_many(events, return_errors=True)
    assert [type(result) for result in results] == kinds


def test_a_server_with_a_lower_limit_gets_smaller_batches(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(max_batch_bytes="100000", max_event_bytes="60000", history_size="1000")
    channel = f"user:{user}"
    with Publisher(herald.url, KEY) as publisher:
        publisher.publish_many(
            [{"to": channel, "type": "t", "data": [number, "x" * 3000]} for number in range(200)]
        )
    assert [data[0] for data in retained(herald, channel)] == list(range(200))


def test_history_page_by_page(publisher: Publisher, user: str) -> None:
    channel = f"user:{user}/ü ?"
    publisher.publish_many(_many(channel, 5))
    first = publisher.history(channel, limit=3)
    assert [event.data for event in first.events] == [0, 1, 2]
    assert isinstance(first.events[0], Event)
    assert first.next is not None
    rest = publisher.history(channel, after=first.next)
    assert [event.data for event in rest.events] == [3, 4]
    assert (rest.next, rest.gap) == (None, False)
    assert publisher.history(channel, after="7-7").gap is True
    with pytest.raises(Rejected, match="A position is"):
        publisher.history(channel, after="seven")


@COLOURS
async def test_a_ticket_opens_a_stream_of_its_user(herald: Herald, user: str, colour: str) -> None:
    if colour == "async":
        async with AsyncPublisher(herald.url, KEY) as publisher:
            ticket = await publisher.create_ticket(user, [f"{user}.*"], expires_in=60)
    else:
        with Publisher(herald.url, KEY) as sync_publisher:
            ticket = await asyncio.to_thread(sync_publisher.create_ticket, user, [f"{user}.*"], 60)
    assert ticket.expires > time.time()
    async with httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as page:
        asked = {"ticket": ticket.ticket, "topics": f"{user}.a"}
        async with page.stream("GET", f"{herald.url}/v1/stream", params=asked) as stream:
            assert stream.status_code == 200
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    welcome = json.loads(line.removeprefix("data: "))
                    break
    assert welcome["user"] == user
    assert set(welcome["channels"]) == {f"user:{user}", "all", f"topic:{user}.a"}


@COLOURS
async def test_tls(herald: Herald, user: str, colour: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = server_context(*authority.certify("herald"))
    trusting = ssl.create_default_context(cafile=authority.ca)

    async def publish(url: str, **options: Any) -> Published:
        if colour == "async":
            async with AsyncPublisher(url, KEY, **options) as publisher:
                return await publisher.publish(to=f"user:{user}", type="t")
        with Publisher(url, KEY, **options) as publisher:
            return await asyncio.to_thread(publisher.publish, to=f"user:{user}", type="t")

    async with proxying(lambda: ("127.0.0.1", herald.api_port), certificate) as proxy:
        url = f"https://127.0.0.1:{proxy.port}"
        assert (await publish(url, ssl=trusting)).duplicate is False
        with pytest.raises(NoAnswer, match="certificate"):
            await publish(url, deadline=0.5)


# Faults


async def _publish_through(proxy: Proxy, channel: str, colour: str, **options: Any) -> Published:
    url = f"http://127.0.0.1:{proxy.port}"
    if colour == "async":
        async with AsyncPublisher(url, KEY, **options) as publisher:
            return await publisher.publish(to=channel, type="t", data="once")

    def publish() -> Published:
        with Publisher(url, KEY, **options) as publisher:
            return publisher.publish(to=channel, type="t", data="once")

    return await asyncio.to_thread(publish)


@COLOURS
async def test_a_lost_answer_is_asked_for_again_and_doubles_nothing(
    proxy: Proxy, herald: Herald, user: str, colour: str
) -> None:
    channel = f"user:{user}"
    proxy.weather.reset_after = 0  # the request arrives, its answer does not
    sent = asyncio.create_task(_publish_through(proxy, channel, colour))
    await eventually(lambda: proxy.cuts >= 2, "two answers are lost")
    proxy.weather.reset_after = None
    published = await sent
    assert published.duplicate is True, "it was stored before"
    assert retained(herald, channel) == ["once"]


@COLOURS
async def test_a_cut_in_the_middle_of_the_answer(
    proxy: Proxy, herald: Herald, user: str, colour: str
) -> None:
    channel = f"user:{user}"
    proxy.weather.reset_after = 90
    sent = asyncio.create_task(_publish_through(proxy, channel, colour))
    await eventually(lambda: proxy.cuts >= 1, "an answer is cut")
    proxy.weather.reset_after = None
    assert (await sent).duplicate is True
    assert retained(herald, channel) == ["once"]


@COLOURS
async def test_no_answer_in_time_is_repeated(
    proxy: Proxy, herald: Herald, user: str, colour: str
) -> None:
    channel = f"user:{user}"
    proxy.weather.swallow = True
    sent = asyncio.create_task(_publish_through(proxy, channel, colour, timeout=0.3))
    await asyncio.sleep(0.5)
    assert not sent.done()
    proxy.weather.swallow = False
    await sent
    assert retained(herald, channel) == ["once"]


@COLOURS
async def test_nobody_there(colour: str, herald: Herald) -> None:
    async with proxying(lambda: ("127.0.0.1", free_port())) as proxy:
        with pytest.raises(NoAnswer, match=f"127.0.0.1:{proxy.port}") as raised:
            await _publish_through(proxy, "all", colour, deadline=0.4)
    assert raised.value.attempts >= 1
    assert raised.value.status is None
    assert raised.value.id is not None


def _refusals(herald: Herald) -> float:
    return herald.metrics()['herald_publish_errors_total{status="503"}']


@COLOURS
async def test_an_engine_that_is_away_and_comes_back(
    fragile: Fragile, user: str, colour: str
) -> None:
    herald, engine = fragile
    channel = f"user:{user}"
    async with proxying(lambda: ("127.0.0.1", herald.api_port)) as proxy:
        await _publish_through(proxy, channel, colour)
        engine.kill()
        await eventually(lambda: not herald.is_ready(), "readiness fails")
        # Herald itself waits a second for its engine, and asks to wait another one: the last try
        # may be cut short by the deadline, but what was answered before is told too.
        with pytest.raises(Unavailable) as raised:
            await _publish_through(proxy, channel, colour, deadline=2.5)
        told = (raised.value, raised.value.__cause__)
        assert any(isinstance(error, Unavailable) and error.status == 503 for error in told)
        refused = _refusals(herald)
        late = asyncio.create_task(_publish_through(proxy, channel, colour))
        await eventually(lambda: _refusals(herald) > refused, "refused for now")
        engine.restart()
        await late
    # What is published is repeated until it goes, what the test reads is not.
    await eventually(herald.is_ready, "readiness returns")
    assert retained(herald, channel) == ["once", "once"]


async def test_too_much_in_flight_is_waited_out(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    herald = start(own_engine.url, max_pending_events="1", engine_timeout="30")
    async with AsyncPublisher(herald.url, KEY) as publisher:
        with pytest.raises(Overloaded) as raised:
            await publisher.publish(to=["all", f"user:{user}"], type="t", deadline=0.5)
        assert raised.value.status == 429
        os.kill(own_engine.pid, signal.SIGSTOP)
        try:
            sent = [
                asyncio.create_task(publisher.publish(to=f"user:{user}", type="t", data=number))
                for number in range(3)
            ]
            await eventually(
                lambda: herald.metrics()['herald_publish_errors_total{status="429"}'] >= 3,
                "refused for now",
            )
        finally:
            os.kill(own_engine.pid, signal.SIGCONT)
        await asyncio.gather(*sent)
    assert sorted(retained(herald, f"user:{user}")) == [0, 1, 2]


async def test_a_restart_under_many_publishers_loses_and_doubles_nothing(
    fragile: Fragile, user: str
) -> None:
    """Killed and started while eight publish: each channel has each event once, in order."""
    herald = fragile.herald
    counts = [0] * 8
    stop = asyncio.Event()
    async with AsyncPublisher(herald.url, KEY) as publisher:

        async def publish(number: int) -> None:
            while not stop.is_set():
                await publisher.publish(to=f"user:{user}-{number}", type="t", data=counts[number])
                counts[number] += 1

        work = [asyncio.create_task(publish(number)) for number in range(8)]
        await eventually(lambda: sum(counts) > 100, "progress")
        herald.kill()
        await asyncio.to_thread(herald.restart)
        before = sum(counts)
        await eventually(lambda: sum(counts) > before + 100, "progress")
        stop.set()
        await asyncio.gather(*work)
    for number in range(8):
        assert retained(herald, f"user:{user}-{number}") == list(range(counts[number]))[:1000]
