"""Guarantees 1, 2, 4 and 5 on streams of server-sent events; every message's id is checked too."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from service.broker.embedded import EmbeddedEngine
from tests.harness.lost_push import store_without_push
from tests.harness.process import PATIENCE, Herald, eventually, mint, open_plain
from tests.harness.streams import Stream, dial, open_stream, read_id, stream_request, streaming

ROUNDS = int(os.environ.get("RESUME_ROUNDS", "25"))
"""How often the race of replay and live is run; 1,000 for a report."""


def _by_channel(events: list[dict[str, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for event in events:
        found.setdefault(event["channel"], []).append((event["id"], event["data"]))
    return found


async def test_resume_from_every_id_gives_exactly_what_follows(
    start: Callable[..., Herald], user: str, new_name: Callable[[], str]
) -> None:
    """A stream over several channels is recorded; whichever message was the last, none is lost."""
    nodes = [start(), start()]
    topics = [new_name(), f"{new_name()}@x/y"]
    channels = [f"user:{user}", "all", *(f"topic:{topic}" for topic in topics)]
    token = mint(user, topics=topics)
    chance = random.Random(7)
    ids, events = [], []
    async with streaming(nodes[0], token=token) as stream:
        welcome = await stream.expect("welcome")
        ids.append(stream.parser.last_id)
        for number in range(40):
            to = chance.sample(channels, chance.choice([1, 1, 1, 2, 4]))
            nodes[number % 2].publish(to, number)
            for _ in to:
                events.append(await stream.expect("event"))
                ids.append(read_last_id(stream))
    assert list(welcome["channels"]) == channels
    for done, last_id in enumerate(ids):
        expected = _by_channel(events[done:])
        in_url = done % 3 == 0
        async with streaming(
            nodes[done % 2],
            f"last_event_id={quote(last_id)}" if in_url else "",
            token=token,
            last_id=None if in_url else last_id,
        ) as stream:
            joined = (await stream.expect("welcome"))["channels"]
            assert all(channel["recovered"] for channel in joined.values())
            assert {name: at["position"] for name, at in joined.items()} == read_id(last_id)
            assert stream.parser.last_id == last_id or stream.raw.count(b"\nid:") > 1
            got = await stream.events(len(events) - done)
            assert _by_channel(got) == expected
            assert list(read_id(stream.parser.last_id).items()) == list(read_id(ids[-1]).items())


def read_last_id(stream: Stream) -> str:
    """The id that a browser would send now, written anew from what the stream told."""
    written = ",".join(f"{quote(name, safe=':/~')}@{at}" for name, at in stream.places.items())
    assert read_id(written) == stream.places
    return written


async def test_resume_from_every_id_while_publishing_goes_on(
    start: Callable[..., Herald], user: str, new_name: Callable[[], str]
) -> None:
    """Streams are cut in the middle of events that never stop, on two nodes."""
    nodes = [start(history_size="100000"), start(history_size="100000")]
    topic = new_name()
    channels = [f"user:{user}", f"topic:{topic}"]
    token = mint(user, topics=[topic])
    published = dict.fromkeys(channels, 0)
    stop = asyncio.Event()

    async def publish(channel: str, node: Herald) -> None:
        while not stop.is_set():
            size = 1 + published[channel] % 7
            events = [
                {"to": channel, "type": "n", "data": published[channel] + 1 + n}
                for n in range(size)
            ]
            answer = await asyncio.to_thread(node.post, "/v1/events/batch", {"events": events})
            assert all("positions" in result for result in answer.json()["results"])
            published[channel] += size

    stream = await open_stream(nodes[0], token=token)
    await stream.expect("welcome")
    await stream.close()
    last_id = stream.parser.last_id
    publishing = [
        asyncio.create_task(publish(channel, node))
        for channel, node in zip(channels, nodes, strict=True)
    ]
    at = dict.fromkeys(channels, 0)
    try:
        for number in range(ROUNDS):
            stream = await open_stream(nodes[number % 2], token=token, last_id=last_id)
            welcome = await stream.expect("welcome")
            assert all(joined["recovered"] for joined in welcome["channels"].values())
            goal = {channel: count + 3 for channel, count in published.items()}
            while any(at[channel] < goal[channel] for channel in channels):
                event = await stream.expect("event")
                assert event["data"] == at[event["channel"]] + 1, (event, at)
                at[event["channel"]] = event["data"]
            # What was read last, not what has arrived: the rest is lost with the connection.
            last_id = read_last_id(stream)
            stream.writer.transport.abort()
    finally:
        stop.set()
        await asyncio.gather(*publishing)
    assert min(at.values()) >= ROUNDS


async def test_a_browser_that_keeps_only_the_last_id_misses_nothing(
    herald: Herald, user: str, new_name: Callable[[], str]
) -> None:
    """One message a stream, and then the next stream; also an id that only the welcome had."""
    topic = new_name()
    token = mint(user, topics=[topic])
    channels = [f"user:{user}", f"topic:{topic}"]
    async with streaming(herald, token=token) as stream:
        await stream.expect("welcome")
        last_id = stream.parser.last_id
    for number in range(12):
        herald.publish(channels[number % 2], number)
    seen = []
    while len(seen) < 12:
        async with streaming(herald, token=token, last_id=last_id) as stream:
            await stream.expect("welcome")
            event = await stream.expect("event")
            seen.append((event["channel"], event["data"]))
            last_id = read_last_id(stream)
        async with streaming(herald, token=token, last_id=last_id) as stream:
            await stream.expect("welcome")
            last_id = read_last_id(stream)
    assert _numbers(seen, channels[0]) == [0, 2, 4, 6, 8, 10]
    assert _numbers(seen, channels[1]) == [1, 3, 5, 7, 9, 11]


def _numbers(seen: list[tuple[str, Any]], channel: str) -> list[Any]:
    return [data for name, data in seen if name == channel]


# Gaps


@pytest.mark.parametrize("kind", ["trimmed", "other epoch", "beyond the end", "future epoch"])
async def test_what_cannot_be_kept_is_told_with_a_gap_whose_id_resumes(
    start: Callable[..., Herald], user: str, kind: str
) -> None:
    herald = start(history_size="3")
    channel = f"user:{user}"
    ids = [herald.publish(channel, number)["positions"][channel] for number in range(5)]
    epoch = int(ids[0].partition("-")[0])
    since = {
        "trimmed": ids[0],
        "other epoch": f"{epoch - 1000}-3",
        "beyond the end": f"{epoch}-900",
        "future epoch": f"{epoch + 10**9}-1",
    }[kind]
    told = {"type": "gap", "channel": channel, "from": since, "to": ids[1]}
    last_id = f"{quote(channel)}@{since}"
    # Whoever has only the welcome is told of the gap again.
    for _ in range(2):
        async with streaming(herald, token=mint(user), last_id=last_id) as stream:
            joined = (await stream.expect("welcome"))["channels"][channel]
            assert joined == {"position": ids[1], "recovered": False}
            last_id = read_last_id(stream)
            assert read_id(last_id)[channel] == since
            assert await stream.expect("gap") == told
            after_gap = read_last_id(stream)
            assert read_id(after_gap)[channel] == ids[1]
            assert [event["id"] for event in await stream.events(3)] == ids[2:]
    # And whoever has the gap is not.
    async with streaming(herald, token=mint(user), last_id=after_gap) as stream:
        assert (await stream.expect("welcome"))["channels"][channel]["recovered"] is True
        assert [event["id"] for event in await stream.events(3)] == ids[2:]


async def test_an_engine_that_lost_everything_is_told_on_an_open_stream(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    herald = start(own_engine.url, engine_timeout="0.5")
    channel = f"user:{user}"
    stream = await open_stream(herald, token=mint(user))
    await stream.expect("welcome")
    before = herald.publish(channel, 1)["positions"][channel]
    await stream.expect("event")
    own_engine.kill()
    own_engine.restart()
    await eventually(herald.is_ready, "readiness")
    after = herald.publish(channel, 2)["positions"][channel]
    told = []
    while not told or told[-1]["type"] != "event":
        message = await stream.next()
        if message.get("channel") == channel:
            told.append(message)
    assert [message["type"] for message in told] == ["gap", "event"]
    assert told[0]["from"] == before
    assert told[1]["id"] == after
    last_id = read_last_id(stream)
    await stream.close()
    herald.publish(channel, 3)
    async with streaming(herald, token=mint(user), last_id=last_id) as stream:
        assert (await stream.expect("welcome"))["channels"][channel]["recovered"] is True
        assert (await stream.expect("event"))["data"] == 3


async def test_a_place_before_an_epoch_that_was_lost_is_a_gap_for_who_was_there(
    start: Callable[..., Herald], own_engine: EmbeddedEngine, user: str
) -> None:
    """Who asked for everything of an empty channel was told where that ends: its id says so."""
    herald = start(own_engine.url, engine_timeout="0.5")
    channel = f"user:{user}"
    async with streaming(herald, f"since={channel}@0-0", token=mint(user)) as stream:
        joined = (await stream.expect("welcome"))["channels"][channel]
        assert joined["recovered"] is True
        assert read_id(stream.parser.last_id)[channel] == joined["position"] != "0-0"
        last_id = stream.parser.last_id
    herald.publish(channel, "lost")
    own_engine.kill()
    own_engine.restart()
    await eventually(herald.is_ready, "readiness")
    herald.publish(channel, "kept")
    async with streaming(herald, token=mint(user), last_id=last_id) as stream:
        assert (await stream.expect("welcome"))["channels"][channel]["recovered"] is False
        told = [m for m in [await stream.next() for _ in range(3)] if m["channel"] == channel]
        assert [message["type"] for message in told[:2]] == ["gap", "event"]
        assert told[1]["data"] == "kept"


async def test_the_beginning_is_everything_retained_and_no_gap(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(history_size="3")
    channel = f"user:{user}"
    ids = [herald.publish(channel, number)["positions"][channel] for number in range(5)]
    for query, last_id in ((f"since={channel}@0-0", None), ("", f"{channel}@0-0")):
        async with streaming(herald, query, token=mint(user), last_id=last_id) as stream:
            joined = (await stream.expect("welcome"))["channels"][channel]
            assert joined == {"position": ids[1], "recovered": True}
            assert [event["data"] for event in await stream.events(3)] == [2, 3, 4]


async def test_an_event_whose_ttl_has_passed_is_no_gap(herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    first = herald.publish(channel, "before")["positions"][channel]
    herald.publish(channel, "short-lived", ttl=0.05)
    herald.publish(channel, "after")
    await asyncio.sleep(0.1)
    async with streaming(herald, token=mint(user), last_id=f"{channel}@{first}") as stream:
        assert (await stream.expect("welcome"))["channels"][channel]["recovered"] is True
        assert (await stream.expect("event"))["data"] == "after"


async def test_positions_of_channels_that_were_not_joined_are_refused_and_the_rest_goes_on(
    herald: Herald, user: str
) -> None:
    channel = f"user:{user}"
    first = herald.publish(channel, 1)["positions"][channel]
    herald.publish(channel, 2)
    last_id = f"user:somebody@1-1,{channel}@{first},topic:t@2-2"
    async with streaming(herald, token=mint(user), last_id=last_id) as stream:
        assert list((await stream.expect("welcome"))["channels"]) == [channel, "all"]
        for name in ("user:somebody", "topic:t"):
            error = await stream.expect("error")
            assert (error["code"], error["channel"]) == ("not_subscribed", name)
        assert (await stream.expect("event"))["data"] == 2


# Replays and live events


async def test_ids_while_one_channel_is_replayed_and_another_is_live(
    start: Callable[..., Herald], user: str, new_name: Callable[[], str]
) -> None:
    """Cut anywhere in between, the next stream has the rest of both."""
    herald = start(send_queue_bytes="65536", history_size="1000")
    topic = new_name()
    big = [{"to": f"topic:{topic}", "type": "t", "data": [n, "x" * 20_000]} for n in range(400)]
    assert herald.post("/v1/events/batch", {"events": big}).status_code == 200  # 8 MB
    token = mint(user, topics=[topic])
    stream = await open_stream(herald, f"since=topic:{topic}@0-0", token=token)
    await stream.expect("welcome")
    replayed = live = sent = mixed = 0
    while replayed < 400 or live < 40:
        if sent < 40 and sent == live and replayed >= 10 * sent:
            await asyncio.to_thread(herald.publish, f"user:{user}", sent)
            sent += 1
        event = await stream.expect("event")
        if event["channel"] == f"user:{user}":
            assert event["data"] == live
            live += 1
            mixed += replayed < 400
        else:
            assert event["data"][0] == replayed
            replayed += 1
        if (replayed + live) % 60 == 0:
            last_id = read_last_id(stream)
            stream.writer.transport.abort()
            stream = await open_stream(herald, token=token, last_id=last_id)
            joined = (await stream.expect("welcome"))["channels"]
            assert all(channel["recovered"] for channel in joined.values())
    assert mixed >= 10
    await stream.close()


async def test_a_catch_up_that_is_too_large_is_read_at_the_streams_own_pace(
    start: Callable[..., Herald],
    engine: EmbeddedEngine,
    user: str,
    new_name: Callable[[], str],
) -> None:
    herald = start(send_queue_bytes="262144", position_check_interval="0.3")
    channel, topic = f"user:{user}", new_name()
    token = mint(user, topics=[topic])
    streams = [await _small_stream(herald, token) for _ in range(2)]
    for stream in streams:
        await stream.expect("welcome")
        stream.writer.transport.pause_reading()  # type: ignore[attr-defined]
    herald.publish(channel, [0, ""])
    lost = 90  # 5.4 MB, and nobody reads: much more than the queue and the kernel take
    for number in range(lost):
        store_without_push(engine.url, channel, json.dumps([1 + number, "x" * 60_000]))
    await eventually(lambda: herald.metrics()["herald_heals_total"] >= 1, "the loss is found")
    await asyncio.sleep(0.5)
    # What was not sent is not in the id of what comes in between.
    herald.publish(f"topic:{topic}", "in between")
    assert herald.metrics()["herald_connections"] == 2  # a catch-up is nobody's slowness
    assert herald.metrics()["herald_outbox_deepest_bytes"] <= 3 * 262144
    for stream in streams:
        stream.writer.transport.resume_reading()  # type: ignore[attr-defined]
    herald.publish(channel, [lost + 1, ""])
    for stream in streams:
        events = await stream.events(lost + 3)
        (other,) = (event for event in events if event["channel"] != channel)
        events.remove(other)
        assert [event["data"][0] for event in events] == list(range(lost + 2))
        await stream.close()


async def _small_stream(herald: Herald, token: str, query: str = "") -> Stream:
    """One whose kernel takes little ahead of its reader."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", herald.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    stream = Stream(reader, writer)
    writer.write(stream_request(query, token=token))
    await stream.head()
    assert stream.status == 200
    return stream


async def test_a_slow_reader_is_closed_with_4000_in_bounded_memory_and_resumes(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(send_queue_bytes="131072", history_size="10000")
    channel = f"user:{user}"
    quick = await open_stream(herald, token=mint(user))
    await quick.expect("welcome")
    slow = await _small_stream(herald, mint(user))
    await slow.expect("welcome")
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
    count = 0
    while herald.metrics().get('herald_disconnects_total{code="4000"}', 0.0) == 0:
        assert count < 2000
        for _ in range(10):
            await asyncio.to_thread(herald.publish, channel, [count, "x" * 30_000])
            count += 1
        assert herald.metrics()["herald_outbox_deepest_bytes"] <= 131072 + 40_000
        for number in range(count - 10, count):  # nobody else is held up
            assert (await quick.expect("event"))["data"][0] == number
    slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
    read = await _read_to_the_end(slow)
    last_id = read_last_id(slow)
    await slow.close()
    async with streaming(herald, token=mint(user), last_id=last_id) as stream:
        assert (await stream.expect("welcome"))["channels"][channel]["recovered"] is True
        for number in range(read, count):
            assert (await stream.expect("event"))["data"][0] == number
    await quick.close()


async def _read_to_the_end(stream: Stream) -> int:
    """How many events still come."""
    read = 0
    while (message := await stream.message()) is not None:
        read += json.loads(message.data)["type"] == "event"
    return read


async def test_a_slow_reader_that_reads_on_in_time_is_told_why(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(send_queue_bytes="65536", history_size="10000")
    channel = f"user:{user}"
    slow = await _small_stream(herald, mint(user))
    await slow.expect("welcome")
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
    count = 0
    while herald.metrics()["herald_channels"]:  # left at once, though the socket is still there
        assert count < 2000
        events = [{"to": channel, "type": "t", "data": "x" * 30_000}] * 10
        await asyncio.to_thread(herald.post, "/v1/events/batch", {"events": events})
        count += 10
    slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert await slow.closed() in (4000, 1006)  # cut off where it takes too long to read
    await slow.close()


async def test_one_event_larger_than_the_outbox_is_delivered(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(send_queue_bytes="1024")
    async with streaming(herald, token=mint(user)) as stream:
        await stream.expect("welcome")
        herald.publish(f"user:{user}", "x" * 60_000)
        assert len((await stream.expect("event"))["data"]) == 60_000


async def test_events_of_one_turn_come_whole_and_in_order(
    herald: Herald, user: str, new_name: Callable[[], str]
) -> None:
    """Bursts to several channels, with streams and WebSockets as members of the same ones."""
    topic = new_name()
    channels = [f"user:{user}", f"topic:{topic}"]
    token = mint(user, topics=[topic])
    streams = [await open_stream(herald, token=token) for _ in range(3)]
    sockets = [await open_plain(herald, token=token) for _ in range(3)]
    for client in (*streams, *sockets):
        await client.expect("welcome")
    events = [{"to": channels[n % 2], "type": "t", "data": n} for n in range(2000)]
    assert herald.post("/v1/events/batch", {"events": events}).status_code == 200
    for client in (*streams, *sockets):
        seen = [(e["channel"], e["data"]) for e in await client.events(2000)]
        for odd, channel in enumerate(channels):
            assert _numbers(seen, channel) == list(range(odd, 2000, 2))
        await client.close()


async def test_streams_and_websockets_are_told_the_same(
    herald: Herald, user: str, new_name: Callable[[], str]
) -> None:
    topic = new_name()
    token = mint(user, topics=[topic])
    stream = await open_stream(herald, "topics=secret", token=token)
    plain = await open_plain(herald, "topics=secret", token=token)
    for number in range(20):
        herald.publish(f"topic:{topic}", {"n": number, "text": "é\n\r😀\u2028"})
    for number in range(22):
        told, said = await stream.next(), await plain.next()
        if number == 0:
            assert told.pop("connection") != said.pop("connection")
        assert told == said
    await plain.close()
    await stream.close()


# Ends


async def test_an_expired_token_closes_its_streams(start: Callable[..., Herald], user: str) -> None:
    herald = start(jwt_leeway="0")
    async with streaming(herald, token=mint(user, ttl=1.5)) as stream:
        await stream.expect("welcome")
        herald.publish(f"user:{user}", 1)
        await stream.expect("event")
        assert await stream.closed() == 3000
    await eventually(lambda: herald.metrics()["herald_channels"] == 0, "nothing is left")


async def test_sigterm_tells_reconnect_closes_with_1012_and_exits_0(
    start: Callable[..., Herald], new_name: Callable[[], str]
) -> None:
    herald = start(drain_seconds="5")
    streams = [await open_stream(herald, token=mint(new_name())) for _ in range(20)]
    for stream in streams:
        await stream.expect("welcome")
    herald.signal(signal.SIGTERM)
    for stream in streams:
        assert 0 <= (await stream.expect("reconnect"))["after_ms"] <= 5000
        assert await stream.closed() == 1012
        await stream.close()
    assert await asyncio.to_thread(herald.process.wait, 30) == 0
    assert "Traceback" not in herald.log()


async def test_a_stream_that_nobody_reads_does_not_hold_up_the_drain(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(drain_seconds="1", send_queue_bytes="1048576")
    stream = await _small_stream(herald, mint(user))
    await stream.expect("welcome")
    stream.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(10):
        events = [{"to": f"user:{user}", "type": "t", "data": "x" * 30_000}] * 10
        await asyncio.to_thread(herald.post, "/v1/events/batch", {"events": events})
    herald.signal(signal.SIGTERM)
    assert await asyncio.to_thread(herald.process.wait, PATIENCE) == 0
    await stream.close()


async def test_clients_that_follow_the_advice_lose_nothing_in_a_rolling_restart(
    start: Callable[..., Herald], user: str
) -> None:
    old, new = start(drain_seconds="2"), start()
    channel = f"user:{user}"
    stream = await open_stream(old, token=mint(user))
    await stream.expect("welcome")
    old.publish(channel, 0)
    assert (await stream.expect("event"))["data"] == 0
    old.signal(signal.SIGTERM)
    await stream.expect("reconnect")
    new.publish(channel, 1)
    assert await stream.closed() == 1012
    last_id = stream.parser.last_id
    await stream.close()
    async with streaming(new, token=mint(user), last_id=last_id) as stream:
        assert (await stream.expect("welcome"))["channels"][channel]["recovered"] is True
        assert (await stream.expect("event"))["data"] == 1


async def test_a_client_of_a_killed_node_resumes_on_another(
    start: Callable[..., Herald], user: str
) -> None:
    doomed, other = start(), start()
    channel = f"user:{user}"
    stream = await open_stream(doomed, token=mint(user))
    await stream.expect("welcome")
    doomed.publish(channel, 1)
    await stream.expect("event")
    doomed.kill()
    other.publish(channel, 2)
    assert await stream.closed() == 1006
    last_id = stream.parser.last_id
    await stream.close()
    async with streaming(other, token=mint(user), last_id=last_id) as stream:
        assert (await stream.expect("welcome"))["channels"][channel]["recovered"] is True
        assert (await stream.expect("event"))["data"] == 2


async def test_a_hole_in_the_pushes_heals_itself_from_the_log(
    herald: Herald, engine: EmbeddedEngine, user: str
) -> None:
    channel = f"user:{user}"
    streams = [await open_stream(herald, token=mint(user)) for _ in range(2)]
    for stream in streams:
        await stream.expect("welcome")
    herald.publish(channel, 0)
    for number in (1, 2):
        store_without_push(engine.url, channel, str(number))
    herald.publish(channel, 3)
    for stream in streams:
        assert [event["data"] for event in await stream.events(4)] == [0, 1, 2, 3]
        await stream.close()


async def test_a_very_long_id_is_taken(
    start: Callable[..., Herald], user: str, new_name: Callable[[], str]
) -> None:
    """100 topics with the longest names: 25 kB, in a header and in a URL."""
    herald = start()
    topics = [f"{new_name()}-{'x' * 180}" for _ in range(100)]
    token = mint(user, topics=["*"])
    query = "topics=" + ",".join(topics)
    async with streaming(herald, query, token=token) as stream:
        await stream.expect("welcome")
        last_id = stream.parser.last_id
    assert len(last_id) > 20_000
    herald.publish(f"topic:{topics[99]}", 1)
    for in_url in (False, True):
        stream = await dial(
            herald,
            stream_request(
                query + (f"&last_event_id={quote(last_id)}" if in_url else ""),
                token=token,
                headers={} if in_url else {"last-event-id": last_id},
            ),
        )
        joined = (await stream.expect("welcome"))["channels"]
        assert all(channel["recovered"] for channel in joined.values())
        assert (await stream.expect("event"))["data"] == 1
        await stream.close()
