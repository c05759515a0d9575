"""Guarantee 1: what was answered with 202 reaches every connection of the addressed, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.harness.process import Herald, mint, open_herald, open_plain


async def test_every_connection_of_a_user_receives_an_event(herald: Herald, user: str) -> None:
    clients = [await open_plain(herald, token=mint(user)) for _ in range(3)]
    clients.append(await open_herald(herald, token=mint(user)))
    for client in clients:
        await client.expect("welcome")
    answer = herald.publish(f"user:{user}", {"order": 17}, type="order.shipped")
    for client in clients:
        event = await client.expect("event")
        assert event["id"] == answer["positions"][f"user:{user}"]
        assert event["channel"] == f"user:{user}"
        assert (event["event"], event["data"]) == ("order.shipped", {"order": 17})
        assert event["time"].endswith("Z")
        await client.close()


async def test_nobody_else_receives_it(
    herald: Herald, user: str, new_name: Callable[[], str]
) -> None:
    other = new_name()
    client = await open_plain(herald, token=mint(other))
    await client.expect("welcome")
    herald.publish(f"user:{user}", "not yours")
    herald.publish(f"user:{other}", "yours")
    assert (await client.expect("event"))["data"] == "yours"
    await client.close()


async def test_all_reaches_everyone(herald: Herald, new_name: Callable[[], str]) -> None:
    clients = [await open_plain(herald, token=mint(new_name())) for _ in range(5)]
    for client in clients:
        await client.expect("welcome")
    mark = new_name()
    herald.publish("all", mark)
    for client in clients:
        while (event := await client.expect("event"))["data"] != mark:
            assert event["channel"] == "all"  # another test's
        await client.close()


async def test_events_of_one_publisher_arrive_in_their_order(herald: Herald, user: str) -> None:
    client = await open_herald(herald, token=mint(user))
    await client.expect("welcome")
    lines = [
        f'{{"to":"user:{user}","type":"n","data":{number}}}'.encode() for number in range(1000)
    ]
    answer = await asyncio.to_thread(
        herald.post, "/v1/events/batch", b"\n".join(lines), content_type="application/x-ndjson"
    )
    assert len(answer.json()["results"]) == 1000
    events = await client.events(1000)
    assert [event["data"] for event in events] == list(range(1000))
    sequence = [int(event["id"].partition("-")[2]) for event in events]
    assert sequence == list(range(sequence[0], sequence[0] + 1000))
    await client.close()


async def test_data_arrives_as_the_json_that_was_sent(herald: Herald, user: str) -> None:
    client = await open_plain(herald, token=mint(user))
    await client.expect("welcome")
    text = '{"big":123456789012345678901234567890,"f":1.10,"e":1e400,"u":"é\\u00e9😀","z":-0.0}'
    body = f'{{"to":"user:{user}","type":"t","data":{text}}}'.encode()
    assert herald.post("/v1/events", body).status_code == 202
    raw = await client.socket.recv(decode=False)
    assert f'"data":{text},'.encode() in raw
    await client.close()


async def test_topics_join_by_token_by_request_and_by_subscribe(
    herald: Herald, user: str, new_name: Callable[[], str]
) -> None:
    by_token, asked, later, forbidden = (new_name() for _ in range(4))
    prefix = f"{new_name()}."
    token = mint(user, topics=[by_token, asked, prefix + "*"])
    client = await open_herald(herald, token=token, topics=[asked, prefix + "a", forbidden])
    welcome = await client.expect("welcome")
    assert set(welcome["channels"]) == {
        f"user:{user}",
        "all",
        f"topic:{by_token}",
        f"topic:{asked}",
        f"topic:{prefix}a",
    }
    error = await client.expect("error")
    assert (error["code"], error["channel"]) == ("forbidden", f"topic:{forbidden}")
    await client.send(type="subscribe", topic=prefix + later)
    assert (await client.expect("subscribed"))["channel"] == f"topic:{prefix}{later}"
    for topic in (by_token, asked, prefix + "a", prefix + later):
        herald.publish(f"topic:{topic}", topic)
        assert (await client.expect("event"))["data"] == topic
    await client.send(type="unsubscribe", topic=by_token)
    assert (await client.expect("unsubscribed"))["channel"] == f"topic:{by_token}"
    herald.publish(f"topic:{by_token}", "unheard")
    herald.publish(f"topic:{asked}", "heard")
    assert (await client.expect("event"))["data"] == "heard"
    await client.close()


async def test_two_nodes_on_one_engine_deliver_each_other_s_events(
    herald: Herald, start: Callable[..., Herald], user: str
) -> None:
    other = start()
    here = await open_plain(herald, token=mint(user))
    there = await open_plain(other, token=mint(user))
    for client in (here, there):
        await client.expect("welcome")
    for node in (herald, other):
        node.publish(f"user:{user}", node.port)
    for client in (here, there):
        assert [event["data"] for event in await client.events(2)] == [herald.port, other.port]
        await client.close()
