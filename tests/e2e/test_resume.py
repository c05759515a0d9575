"""Guarantees 1 and 2: a client that comes back misses nothing, or is told with `gap`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest
import redis

from service.broker import keys
from service.broker.embedded import EmbeddedEngine
from tests.harness.lost_push import store_without_push
from tests.harness.process import Client, Herald, eventually, mint, open_herald, open_plain

ROUNDS = int(os.environ.get("RESUME_ROUNDS", "25"))
"""How often the race of replay and live is run; 1,000 for a report."""


async def test_resume_is_exact(herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    first = await open_herald(herald, token=mint(user))
    position = (await first.expect("welcome"))["channels"][channel]["position"]
    await first.close()
    for number in range(5):
        herald.publish(channel, number)
    second = await open_herald(herald, token=mint(user), positions={channel: position})
    joined = (await second.expect("welcome"))["channels"][channel]
    assert joined == {"position": position, "recovered": True}
    assert [event["data"] for event in await second.events(5)] == [0, 1, 2, 3, 4]
    herald.publish(channel, "live")
    assert (await second.expect("event"))["data"] == "live"
    await second.close()


async def test_plain_resume_by_url(herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    answers = [herald.publish(channel, number) for number in range(3)]
    since = answers[0]["positions"][channel]
    client = await open_plain(herald, f"since={channel}@{since}", token=mint(user))
    assert (await client.expect("welcome"))["channels"][channel]["recovered"] is True
    assert [event["data"] for event in await client.events(2)] == [1, 2]
    await client.close()


async def test_an_empty_channel_has_a_position_from_which_nothing_is_missed(
    herald: Herald, user: str
) -> None:
    channel = f"user:{user}"
    client = await open_plain(herald, token=mint(user))
    empty = (await client.expect("welcome"))["channels"][channel]["position"]
    await client.close()
    herald.publish(channel, "first ever")
    client = await open_herald(herald, token=mint(user), positions={channel: empty})
    assert (await client.expect("welcome"))["channels"][channel]["recovered"] is True
    assert (await client.expect("event"))["data"] == "first ever"
    await client.close()


async def test_the_beginning_is_everything_retained_and_no_gap(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(history_size="3")
    channel = f"user:{user}"
    for number in range(5):
        herald.publish(channel, number)
    client = await open_herald(herald, token=mint(user), positions={channel: "0-0"})
    assert (await client.expect("welcome"))["channels"][channel]["recovered"] is True
    assert [event["data"] for event in await client.events(3)] == [2, 3, 4]
    await client.close()


async def test_without_a_position_only_what_is_published_from_now_on(
    herald: Herald, user: str
) -> None:
    herald.publish(f"user:{user}", "old")
    client = await open_plain(herald, token=mint(user))
    await client.expect("welcome")
    herald.publish(f"user:{user}", "new")
    assert (await client.expect("event"))["data"] == "new"
    await client.close()


@pytest.mark.parametrize("kind", ["trimmed", "other epoch", "beyond the end", "future epoch"])
async def test_guarantee_2_what_cannot_be_kept_is_told_with_a_gap_before_anything_later(
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
    client = await open_herald(herald, token=mint(user), positions={channel: since})
    joined = (await client.expect("welcome"))["channels"][channel]
    assert joined == {"position": ids[1], "recovered": False}
    gap = await client.expect("gap")
    assert gap == {"type": "gap", "channel": channel, "from": since, "to": ids[1]}
    assert [event["id"] for event in await client.events(3)] == ids[2:]
    await client.close()


def _promote(engine: EmbeddedEngine, channel: str) -> None:
    """As if the channel's last position had been given out by an engine that is no more."""
    with redis.Redis.from_url(engine.url) as client:
        epoch, seq, _ = client.get(keys.meta_key(channel)).split()
        client.set(keys.meta_key(channel), b"%b %b %b" % (epoch, seq, b"0" * 40), keepttl=True)


def _start_of(position: str) -> str:
    return position.partition("-")[0] + "-0"


@pytest.mark.parametrize("size", [1, 20_000], ids=["one page", "many pages"])
async def test_where_epochs_end_a_gap_stands_between_their_events(
    herald: Herald, engine: EmbeddedEngine, user: str, size: int
) -> None:
    channel = f"user:{user}"
    epochs: list[list[str]] = []
    for _ in range(3):
        events = range(20)
        epochs.append([herald.publish(channel, "x" * size)["positions"][channel] for _ in events])
        _promote(engine, channel)
    since = epochs[0][4]
    client = await open_herald(herald, token=mint(user), positions={channel: since})
    joined = (await client.expect("welcome"))["channels"][channel]
    assert joined == {"position": since, "recovered": False}
    at, left = since, epochs[0][5:]
    for ids in [*epochs[1:], []]:
        assert [event["id"] for event in await client.events(len(left))] == left
        at = left[-1]
        gap = await client.expect("gap")
        assert (gap["channel"], gap["from"]) == (channel, at)
        if ids:
            assert gap["to"] == _start_of(ids[0])
        left = ids
    # The last epoch has no event yet. It is told once, and to live clients and resuming ones alike.
    await client.close()
    client = await open_herald(herald, token=mint(user), positions={channel: gap["to"]})
    joined = (await client.expect("welcome"))["channels"][channel]
    assert joined == {"position": gap["to"], "recovered": True}
    live = herald.publish(channel, "live")["positions"][channel]
    assert (await client.expect("event"))["id"] == live
    assert _start_of(live) == gap["to"]
    await client.close()
    # Who asks for what is retained misses nothing.
    client = await open_herald(herald, token=mint(user), positions={channel: "0-0"})
    assert (await client.expect("welcome"))["channels"][channel]["recovered"] is True
    retained = [*(event for ids in epochs for event in ids), live]
    assert [event["id"] for event in await client.events(len(retained))] == retained
    await client.close()


async def test_a_client_that_saw_more_than_the_promoted_engine_has_is_told_so_from_there(
    herald: Herald, engine: EmbeddedEngine, user: str
) -> None:
    channel = f"user:{user}"
    old = herald.publish(channel, "old")["positions"][channel]
    _promote(engine, channel)
    new = herald.publish(channel, "new")["positions"][channel]
    lost = f"{old.partition('-')[0]}-3"
    client = await open_herald(herald, token=mint(user), positions={channel: lost})
    joined = (await client.expect("welcome"))["channels"][channel]
    assert joined == {"position": _start_of(new), "recovered": False}
    gap = await client.expect("gap")
    assert (gap["from"], gap["to"]) == (lost, _start_of(new))
    assert (await client.expect("event"))["id"] == new
    await client.close()


async def test_connected_clients_get_what_is_left_of_an_epoch_before_the_gap(
    herald: Herald, engine: EmbeddedEngine, user: str
) -> None:
    channel = f"user:{user}"
    clients = [await open_plain(herald, token=mint(user)) for _ in range(2)]
    for client in clients:
        await client.expect("welcome")
    store_without_push(engine.url, channel, '"first"')
    last = store_without_push(engine.url, channel, '"second"')
    _promote(engine, channel)
    new = herald.publish(channel, "new")["positions"][channel]
    for client in clients:
        assert [event["data"] for event in await client.events(2)] == ["first", "second"]
        gap = await client.expect("gap")
        assert (gap["from"], gap["to"]) == (last, _start_of(new))
        assert (await client.expect("event"))["id"] == new
        await client.close()


async def test_an_event_whose_ttl_has_passed_is_not_delivered_and_is_no_gap(
    herald: Herald, user: str
) -> None:
    channel = f"user:{user}"
    first = herald.publish(channel, "before")["positions"][channel]
    herald.publish(channel, "short-lived", ttl=0.05)
    herald.publish(channel, "after")
    await asyncio.sleep(0.1)
    client = await open_herald(herald, token=mint(user), positions={channel: first})
    assert (await client.expect("welcome"))["channels"][channel]["recovered"] is True
    assert (await client.expect("event"))["data"] == "after"
    await client.close()


async def test_a_topic_is_resumed_by_subscribe(
    herald: Herald, user: str, new_name: Callable[[], str]
) -> None:
    topic = new_name()
    first = herald.publish(f"topic:{topic}", 0)["positions"][f"topic:{topic}"]
    herald.publish(f"topic:{topic}", 1)
    client = await open_herald(herald, token=mint(user, topics=["*"]))
    await client.expect("welcome")
    await client.send(type="subscribe", topic=topic, position=first)
    said = await client.expect("subscribed")
    assert (said["position"], said["recovered"]) == (first, True)
    assert (await client.expect("event"))["data"] == 1
    await client.close()


async def test_a_replay_larger_than_the_outbox_reaches_a_client_that_reads(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(send_queue_bytes="32768", history_size="300")
    channel = f"user:{user}"
    for number in range(300):
        herald.publish(channel, [number, "x" * 20_000])
    client = await open_herald(herald, token=mint(user), positions={channel: "0-0"})
    await client.expect("welcome")
    for number in range(300):
        if number % 50 == 0:
            await asyncio.sleep(0.1)
        assert (await client.expect("event"))["data"][0] == number
    herald.publish(channel, "live")
    assert (await client.expect("event"))["data"] == "live"
    await client.close()


async def _read_until(client: Client, last: int, seen: list[int]) -> None:
    while not seen or seen[-1] < last:
        message = await client.next()
        assert message["type"] == "event", message
        seen.append(message["data"])


async def test_replay_and_live_join_without_loss_or_duplicate_under_publishing(
    start: Callable[..., Herald], user: str
) -> None:
    """Clients come and go in the middle of a stream that never stops, on two nodes."""
    nodes = [start(history_size="100000"), start(history_size="100000")]
    channel = f"user:{user}"
    first = nodes[0].publish(channel, 0)["positions"][channel]
    published = 0
    stop = asyncio.Event()

    async def publish() -> None:
        nonlocal published
        while not stop.is_set():
            size = 1 + published % 7
            events = [
                {"to": channel, "type": "n", "data": published + 1 + index} for index in range(size)
            ]
            node = nodes[published % 2]
            answer = await asyncio.to_thread(node.post, "/v1/events/batch", {"events": events})
            assert all("positions" in result for result in answer.json()["results"])
            published += size

    publishing = asyncio.create_task(publish())
    position, at = first, 0
    lost = duplicated = 0
    try:
        for number in range(ROUNDS):
            client = await open_herald(
                nodes[number % 2], token=mint(user), positions={channel: position}
            )
            joined = (await client.expect("welcome"))["channels"][channel]
            assert joined == {"position": position, "recovered": True}
            goal = published + 3
            while at < goal:
                event = await client.expect("event")
                lost += max(0, event["data"] - at - 1)
                duplicated += event["data"] <= at
                position, at = event["id"], event["data"]
            client.socket.transport.abort()  # no closing handshake: the line is cut
    finally:
        stop.set()
        await publishing
    print(f"rounds {ROUNDS}, events {published}, lost {lost}, duplicated {duplicated}")
    assert (lost, duplicated) == (0, 0)


async def test_a_hole_in_the_pushes_heals_itself_from_the_log(
    herald: Herald, engine: EmbeddedEngine, user: str
) -> None:
    channel = f"user:{user}"
    clients = [await open_plain(herald, token=mint(user)) for _ in range(2)]
    for client in clients:
        await client.expect("welcome")
    herald.publish(channel, 0)
    for number in (1, 2):
        store_without_push(engine.url, channel, str(number))
    herald.publish(channel, 3)
    for client in clients:
        assert [event["data"] for event in await client.events(4)] == [0, 1, 2, 3]
        await client.close()


async def test_a_lost_last_push_is_found(
    start: Callable[..., Herald], engine: EmbeddedEngine, user: str
) -> None:
    herald = start(position_check_interval="0.2")
    client = await open_plain(herald, token=mint(user))
    await client.expect("welcome")
    store_without_push(engine.url, f"user:{user}", '"silent"')
    assert (await client.expect("event"))["data"] == "silent"
    assert herald.metrics()["herald_heals_total"] >= 1
    await client.close()


async def test_a_client_of_a_killed_node_resumes_on_another(
    start: Callable[..., Herald], user: str
) -> None:
    doomed, other = start(), start()
    channel = f"user:{user}"
    client = await open_herald(doomed, token=mint(user))
    await client.expect("welcome")
    doomed.publish(channel, 1)
    seen = await client.expect("event")
    doomed.kill()
    other.publish(channel, 2)
    assert await client.closed() == 1006
    client = await open_herald(other, token=mint(user), positions={channel: seen["id"]})
    assert (await client.expect("welcome"))["channels"][channel]["recovered"] is True
    assert (await client.expect("event"))["data"] == 2
    await client.close()


async def test_leaving_frees_the_channel(
    start: Callable[..., Herald], user: str, new_name: Callable[[], str]
) -> None:
    herald = start()
    clients = [
        await open_herald(herald, token=mint(new_name(), topics=["shared", new_name()]))
        for _ in range(20)
    ]
    for client in clients:
        await client.expect("welcome")

    def gauges() -> dict[str, Any]:
        now = herald.metrics()
        return {name: now[f"herald_{name}"] for name in ("connections", "users", "channels")}

    assert gauges() == {"connections": 20, "users": 20, "channels": 42}
    for client in clients[:10]:
        await client.close()
    for client in clients[10:]:
        client.socket.transport.abort()
    nothing = {"connections": 0, "users": 0, "channels": 0}
    await eventually(lambda: gauges() == nothing, "nothing left")


async def test_a_replay_of_many_channels_never_cuts_off_a_client_that_reads(
    start: Callable[..., Herald], user: str, new_name: Callable[[], str]
) -> None:
    herald = start(send_queue_bytes="262144", history_size="20")
    topics = [new_name() for _ in range(30)]
    for topic in topics:
        for number in range(8):
            herald.publish(f"topic:{topic}", [number, "x" * 30_000])
    token = mint(user, topics=topics)
    positions = {f"topic:{topic}": "0-0" for topic in topics}
    client = await open_herald(herald, token=token, positions=positions)
    await client.expect("welcome")
    seen: dict[str, list[int]] = {topic: [] for topic in topics}
    deepest = live = 0.0
    while live < 10 or any(len(numbers) < 8 for numbers in seen.values()):
        event = await client.expect("event")
        if event["channel"] == f"user:{user}":
            live += 1
            continue
        numbers = seen[event["channel"].removeprefix("topic:")]
        numbers.append(event["data"][0])
        if sum(map(len, seen.values())) % 24 == 0:
            # Something live in the middle of it: room in the outbox was left for it.
            await asyncio.to_thread(herald.publish, f"user:{user}", "x" * 30_000)
            deepest = max(deepest, herald.metrics()["herald_outbox_deepest_bytes"])
    assert all(numbers == list(range(8)) for numbers in seen.values())
    assert deepest <= 2 * 262144
    await client.close()
