"""The main job: from POST to socket."""

from __future__ import annotations

from tests.harness.process import Herald, mint, open_herald, open_plain


async def test_event_reaches_a_plain_client(herald: Herald, user: str) -> None:
    client = await open_plain(herald, token=mint(user))
    welcome = await client.expect("welcome")
    assert welcome["user"] == user
    answer = herald.publish(f"user:{user}", {"order": 17}, type="order.shipped")
    event = await client.expect("event")
    assert event["id"] == answer["positions"][f"user:{user}"]
    assert (event["event"], event["data"]) == ("order.shipped", {"order": 17})
    await client.close()


async def test_event_reaches_a_herald_client_after_resume(herald: Herald, user: str) -> None:
    first = await open_herald(herald, token=mint(user))
    position = (await first.expect("welcome"))["channels"][f"user:{user}"]["position"]
    await first.close()
    for number in range(5):
        herald.publish(f"user:{user}", number)
    second = await open_herald(herald, token=mint(user), positions={f"user:{user}": position})
    joined = (await second.expect("welcome"))["channels"][f"user:{user}"]
    assert joined == {"position": position, "recovered": True}
    assert [event["data"] for event in await second.events(5)] == [0, 1, 2, 3, 4]
    await second.close()
