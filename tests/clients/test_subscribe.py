"""Receiving with `subscribe` from a real Herald, and through real faults."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import ssl
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from herald_client import (
    ConfigurationError,
    ConnectionRefused,
    Event,
    Gap,
    LoggedOut,
    ServerError,
    State,
    Status,
    Subscription,
    TokenRefused,
    runner,
    subscribe,
)
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from service.broker.embedded import EmbeddedEngine
from tests.chaos.proxy import Proxy, proxying
from tests.clients.conftest import Fragile
from tests.harness.certificates import Authority, server_context
from tests.harness.process import PATIENCE, SECRET, Herald, eventually, mint, running
from tests.harness.servers import end_of


def no_gap(gap: Gap) -> None:
    raise AssertionError(gap)


async def take(subscription: Subscription[Any], count: int) -> list[Any]:
    """The next items; the data of events."""
    taken: list[Any] = []
    async with asyncio.timeout(PATIENCE):
        while len(taken) < count:
            item = await anext(subscription)
            taken.append(item.data if isinstance(item, Event) else item)
    return taken


@pytest.fixture(scope="module")
def nervous(engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herald]:
    """A Herald with little patience and little room."""
    settings = {
        "heartbeat_interval": "0.4",
        "heartbeat_timeout": "1.6",
        "send_queue_bytes": "50000",
        "history_size": "1000",
        "max_connections_per_user": "2",
    }
    with running(engine.url, tmp_path_factory.mktemp("nervous"), **settings) as herald:
        yield herald


class Watch:
    """Keeps what `on_state` is told."""

    def __init__(self) -> None:
        self.told: list[Status] = []

    def __call__(self, status: Status) -> None:
        self.told.append(status)

    def count(self, state: State) -> int:
        return sum(status.state is state for status in self.told)

    async def live(self, times: int = 1) -> None:
        await eventually(lambda: self.count(State.LIVE) >= times, f"live for time {times}")


@contextlib.asynccontextmanager
async def listening(
    url: str, token: Any, **options: Any
) -> AsyncIterator[tuple[Subscription[Any], Watch]]:
    """A subscription that is live, and its states."""
    watch = Watch()
    options = {"on_gap": no_gap, "on_state": watch, **options}
    async with subscribe(url, token, **options) as subscription:
        await watch.live()
        yield subscription, watch


def _connections(herald: Herald) -> float:
    return herald.metrics()["herald_connections"]


async def test_events_come_typed_and_in_order(herald: Herald, user: str) -> None:
    async with listening(herald.url, mint(user)) as (subscription, watch):
        channel = f"user:{user}"
        first = herald.publish(channel, {"order": 17}, type="order.shipped")
        event = await anext(subscription)
        assert event == Event(
            channel, first["positions"][channel], "order.shipped", {"order": 17}, event.time
        )
        assert abs((datetime.now(UTC) - event.time).total_seconds()) < PATIENCE
        for number in range(20):
            herald.publish(channel, number)
        assert await take(subscription, 20) == list(range(20))
        assert subscription.state is State.LIVE
    assert [status.state for status in watch.told] == ["connecting", "live", "closed"]
    assert subscription.state is State.CLOSED


async def test_the_shortest_loop(herald: Herald, user: str) -> None:
    herald.publish(f"user:{user}", 1)
    start = {f"user:{user}": "0-0"}
    async for event in subscribe(herald.ws_url, mint(user), on_gap=no_gap, positions=start):
        assert event.data == 1
        break


async def test_topics_come_and_go(herald: Herald, user: str) -> None:
    token = mint(user, topics=[f"{user}.*"])
    topics = [f"{user}.{number}" for number in range(3)]
    async with listening(herald.url, token, topics=topics[:1]) as (subscription, _):
        herald.publish(f"topic:{topics[0]}", 0)
        assert await take(subscription, 1) == [0]
        await subscription.subscribe(topics[1])
        await eventually(lambda: f"topic:{topics[1]}" in subscription._protocol.positions)
        herald.publish(f"topic:{topics[2]}", "before")
        herald.publish(f"topic:{topics[1]}", 1)
        await subscription.subscribe(topics[2], "0-0")
        assert await take(subscription, 2) == [1, "before"]
        await subscription.unsubscribe(topics[0])
        await eventually(lambda: f"topic:{topics[0]}" not in subscription._protocol.positions)
        herald.publish(f"topic:{topics[0]}", "unheard")
        herald.publish(f"user:{user}", "heard")
        assert await take(subscription, 1) == ["heard"]
        await asyncio.wait_for(_nothing(subscription), PATIENCE)
        assert f"topic:{topics[0]}" not in subscription.positions


@pytest.mark.parametrize("left_before", [False, True])
async def test_a_position_counts_for_a_topic_that_is_joined_or_just_left(
    herald: Herald, user: str, left_before: bool
) -> None:
    token = mint(user, topics=[user])
    async with listening(herald.url, token, topics=[user]) as (subscription, _):
        for number in range(4):
            herald.publish(f"topic:{user}", number)
        assert await take(subscription, 3) == [0, 1, 2]
        first = subscription.positions[f"topic:{user}"].partition("-")[0] + "-1"
        if left_before:
            await subscription.unsubscribe(user)
        await subscription.subscribe(user, first)
        given = await take(subscription, 1)
        if given == [3]:  # it was here already
            given = await take(subscription, 1)
        assert given + await take(subscription, 2) == [1, 2, 3]
        herald.publish(f"topic:{user}", 4)
        assert await take(subscription, 1) == [4]


async def _nothing(subscription: Subscription[Any]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await anext(subscription)


async def test_a_forbidden_topic_is_told_and_the_rest_goes_on(
    herald: Herald, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[ServerError] = []
    options: dict[str, Any] = {"topics": ["secret"]}
    async with listening(herald.url, mint(user), on_error=errors.append, **options) as (s, _):
        herald.publish(f"user:{user}", 1)
        assert await take(s, 1) == [1]
        assert [(error.code, error.channel) for error in errors] == [("forbidden", "topic:secret")]
    async with listening(herald.url, mint(user), **options) as (s, _):
        await eventually(lambda: "the server refused: forbidden" in caplog.text)


async def test_json_may_be_read_in_another_way(herald: Herald, user: str) -> None:
    loads = partial(json.loads, parse_float=Decimal)
    async with listening(herald.url, mint(user), loads=loads) as (subscription, _):
        body = b'{"to":"user:%b","type":"t","data":[1.10,12345678901234567890]}' % user.encode()
        assert herald.post("/v1/events", body).status_code == 202
        assert await take(subscription, 1) == [[Decimal("1.10"), 12345678901234567890]]


async def test_tls(herald: Herald, user: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = server_context(*authority.certify("herald"))
    trusting = ssl.create_default_context(cafile=authority.ca)
    watch = Watch()
    async with proxying(lambda: ("127.0.0.1", herald.port), certificate) as proxy:
        url = f"https://127.0.0.1:{proxy.port}"
        async with listening(url, mint(user), ssl=trusting) as (subscription, _):
            herald.publish(f"user:{user}", 1)
            assert await take(subscription, 1) == [1]
        async with subscribe(url, mint(user), on_gap=no_gap, on_state=watch):
            await eventually(lambda: watch.count(State.WAITING) >= 1, "it is refused")
        assert "certificate" in watch.told[1].reason
        assert watch.count(State.LIVE) == 0


# Positions


async def test_positions_move_when_the_loop_comes_back(herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    async with listening(herald.url, mint(user)) as (subscription, _):
        published = [herald.publish(channel, number)["positions"][channel] for number in range(3)]
        seen: list[str] = []
        async for event in subscription:
            # `welcome` said where the channel stood before the first one.
            before = seen[-1] if seen else published[0].partition("-")[0] + "-0"
            assert subscription.positions[channel] == before, "this one is not dealt with yet"
            seen.append(event.position)
            if len(seen) == 3:
                break
        assert seen == published
        assert subscription.positions[channel] == published[1], "the last was not come back from"


async def test_an_application_that_crashes_gets_again_what_it_had_not_dealt_with(
    herald: Herald, user: str
) -> None:
    channel = f"user:{user}"
    for number in range(6):
        herald.publish(channel, number)
    stored = {channel: "0-0"}
    handled: list[int] = []

    async def work() -> None:
        async for event in subscribe(herald.url, mint(user), on_gap=no_gap, positions=stored):
            if event.data in (2, 4) and handled.count(event.data) == 0:
                handled.append(event.data)
                raise RuntimeError("a crash in the middle")
            handled.append(event.data)
            stored[event.channel] = event.position
            if event.data == 5:
                break

    for _ in range(2):
        with pytest.raises(RuntimeError):
            await work()
    await work()
    assert handled == [0, 1, 2, 2, 3, 4, 4, 5]


# Gaps


async def _lose_everything(engine: EmbeddedEngine) -> None:
    with redis.Redis.from_url(engine.url) as admin:
        await asyncio.to_thread(admin.flushall)


async def test_a_gap_is_told_in_order_and_its_position_counts(fragile: Fragile, user: str) -> None:
    herald, engine = fragile
    channel = f"user:{user}"
    order: list[Any] = []

    async def on_gap(gap: Gap) -> None:
        await asyncio.sleep(0)
        order.append(gap)

    async with listening(herald.url, mint(user), on_gap=on_gap) as (subscription, _):
        position = herald.publish(channel, "before")["positions"][channel]
        order += await take(subscription, 1)
        await _lose_everything(engine)
        herald.publish(channel, "after")
        order += await take(subscription, 1)
        (gap,) = [item for item in order if isinstance(item, Gap) and item.channel == channel]
        assert gap.after == position
        of_channel = [i for i in order if not isinstance(i, Gap) or i.channel == channel]
        assert of_channel == ["before", gap, "after"]
        assert subscription.positions[channel] == gap.position

        async with subscribe(
            herald.url, mint(user), on_gap="yield", positions={channel: position}
        ) as other:
            gap_again, event = await take(other, 2)
            assert isinstance(gap_again, Gap)
            assert event == "after"


async def test_a_gap_function_that_fails_is_called_again(herald: Herald, user: str) -> None:
    """It failed, so the state was not loaded: the gap is not done with."""
    channel = f"user:{user}"
    first = herald.publish(channel, 0)["positions"][channel]
    for number in range(1, 103):  # of which 100 are retained
        herald.publish(channel, number)
    calls: list[Gap] = []

    def on_gap(gap: Gap) -> None:
        calls.append(gap)
        if len(calls) == 1:
            raise OSError("the database is away")

    options: dict[str, Any] = {"on_gap": on_gap, "positions": {channel: first}}
    async with subscribe(herald.url, mint(user), **options) as subscription:
        with pytest.raises(OSError, match="database"):
            await take(subscription, 1)
        assert subscription.positions[channel] == first
        assert await take(subscription, 2) == [3, 4]
    assert calls[0] == calls[1]


def test_gaps_cannot_be_missed_by_accident(herald: Herald) -> None:
    with pytest.raises(TypeError, match="on_gap"):
        subscribe(herald.url, mint())  # type: ignore[call-overload]
    for wrong in (None, "ignore", 3):
        with pytest.raises(ConfigurationError, match="on_gap"):
            subscribe(herald.url, mint(), on_gap=wrong)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((None, "t"), {}),
        (("127.0.0.1:8000", "t"), {}),
        (("http://127.0.0.1:1", None), {}),
        (("http://127.0.0.1:1", "t"), {"positions": {"all": "seven"}}),
        (("http://127.0.0.1:1", "t"), {"positions": {"all": None}}),
        (("http://127.0.0.1:1", "t"), {"topics": "news"}),
        (("http://127.0.0.1:1", "t"), {"topics": [1]}),
        (("http://127.0.0.1:1", "t"), {"on_state": asyncio.sleep}),
        (("http://127.0.0.1:1", "t"), {"on_error": asyncio.sleep}),
        (("http://127.0.0.1:port", "t"), {}),
        (("http://127.0.0.1:1", "t"), {"buffer": 0}),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: Any, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HERALD_URL", raising=False)
    with pytest.raises(ConfigurationError):
        subscribe(*arguments, on_gap=no_gap, **options)
    with pytest.raises(TypeError, match="no option"):
        subscribe("http://x", "t", on_gap=no_gap, topic="news")  # type: ignore[call-overload]


# Tokens


async def test_an_expired_token_is_asked_for_again(herald: Herald, user: str) -> None:
    asked: list[str] = []

    async def token() -> str:
        # The first has run out, beyond what clocks may differ.
        asked.append(mint(user, ttl=-60 if not asked else 3600))
        return asked[-1]

    async with listening(herald.url, token) as (subscription, watch):
        herald.publish(f"user:{user}", 1)
        assert await take(subscription, 1) == [1]
    assert len(asked) == 2
    assert [status.state for status in watch.told][:4] == [
        "connecting",
        "waiting",
        "connecting",
        "live",
    ]
    assert watch.told[1].code == 3000


async def test_a_token_is_refreshed_before_it_expires(herald: Herald, user: str) -> None:
    """One connection outlives several tokens."""
    asked = 0
    before = herald.metrics()["herald_connects_total"]

    def token() -> str:
        nonlocal asked
        asked += 1
        return mint(user, ttl=1.5)

    async with listening(herald.url, token) as (subscription, watch):
        await eventually(lambda: asked >= 3, "refreshed twice")
        herald.publish(f"user:{user}", "still here")
        assert await take(subscription, 1) == ["still here"]
        assert watch.count(State.WAITING) == 0
    assert herald.metrics()["herald_connects_total"] == before + 1


async def test_a_token_that_is_refused_again_and_again_ends_it(herald: Herald, user: str) -> None:
    bad = mint(user, secret=SECRET[::-1])
    for token in (bad, lambda: bad):
        with pytest.raises(TokenRefused):
            await take(subscribe(herald.url, token, on_gap=no_gap), 1)


async def test_asking_may_fail_and_is_tried_again(
    herald: Herald, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise OSError("no network")
        return mint(user)

    async with listening(herald.url, token) as (subscription, _):
        herald.publish(f"user:{user}", 1)
        assert await take(subscription, 1) == [1]
    assert asked == 3
    assert "asking for a token failed" in caplog.text


async def test_a_token_function_that_was_cancelled_is_asked_again(
    herald: Herald, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What it waits for may be cancelled by somebody: that is not the end, and not in silence."""
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise asyncio.CancelledError
        return mint(user)

    async with listening(herald.url, token):
        assert asked == 2
    assert "asking for a token failed" in caplog.text


async def test_a_token_function_that_hangs_is_asked_again(
    herald: Herald, user: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_TOKEN_SECONDS", 0.1)
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.Event().wait()
        return mint(user)

    async with listening(herald.url, token):
        assert asked == 2
    assert "no token came within 0.1 seconds" in caplog.text


async def test_nobody_logged_in_ends_it(herald: Herald, user: str) -> None:
    with pytest.raises(LoggedOut):
        await take(subscribe(herald.url, lambda: None, on_gap=no_gap), 1)


async def test_a_logout_during_a_refresh_ends_it(herald: Herald, user: str) -> None:
    tokens = [mint(user, ttl=1.5), None]
    async with listening(herald.url, lambda: tokens.pop(0)) as (subscription, _):
        with pytest.raises(LoggedOut):
            await take(subscription, 1)


# Ends


async def test_stay_away_ends_it_after_what_was_received(nervous: Herald, user: str) -> None:
    herald = nervous
    async with listening(herald.url, mint(user)), listening(herald.url, mint(user)):
        with pytest.raises(ConnectionRefused) as raised:
            await take(subscribe(herald.url, mint(user), on_gap=no_gap), 1)
        assert raised.value.code == 4101
        assert "too many connections" in raised.value.reason


@pytest.mark.parametrize("how", ["break", "raise", "cancel", "timeout"])
async def test_leaving_the_loop_closes_the_connection(herald: Herald, user: str, how: str) -> None:
    before = _connections(herald)
    channel = f"user:{user}"
    herald.publish(channel, 1)
    started = asyncio.Event()

    async def work() -> None:
        options: dict[str, Any] = {"on_gap": no_gap, "positions": {channel: "0-0"}}
        async for _ in subscribe(herald.url, mint(user), **options):
            started.set()
            if how == "break":
                break
            if how == "raise":
                raise LookupError

    if how == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await work()
    else:
        task = asyncio.create_task(work())
        await started.wait()
        if how == "cancel":
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
        ended = None if task.cancelled() else task.exception()
        assert task.cancelled() == (how == "cancel")
        assert isinstance(ended, LookupError if how == "raise" else type(None))
    await eventually(lambda: _connections(herald) == before, "the server sees it closed")
    codes = herald.metrics()
    assert codes['herald_disconnects_total{code="1000"}'] >= 1


async def test_closing_does_not_wait_for_a_consumer_that_is_behind(
    nervous: Herald, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's goodbye stands behind what was not read."""
    monkeypatch.setattr(runner, "_CLOSE_SECONDS", 10 * PATIENCE)
    channel = f"user:{user}"
    events = [{"to": channel, "type": "t", "data": "x" * 10_000} for _ in range(100)]
    assert nervous.post("/v1/events/batch", {"events": events}).status_code == 200
    start = {channel: "0-0"}
    subscription = subscribe(nervous.url, mint(user), on_gap=no_gap, positions=start, buffer=1)
    await take(subscription, 1)
    await asyncio.sleep(0.1)
    await asyncio.wait_for(subscription.aclose(), PATIENCE)


async def test_a_closed_subscription_ends(herald: Herald, user: str) -> None:
    async with listening(herald.url, mint(user)) as (subscription, _):
        waiting = asyncio.create_task(take(subscription, 1))
        await asyncio.sleep(0.05)
        await subscription.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting
    await subscription.aclose()
    assert [event async for event in subscription] == []


def test_nothing_is_left_over_when_the_loop_ends(
    herald: Herald, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whenever it ends: before, while and after the connection is closed."""
    herald.publish(f"user:{user}", 1)

    async def main(turns: int) -> None:
        start = {f"user:{user}": "0-0"}
        async for _ in subscribe(herald.url, mint(user), on_gap=no_gap, positions=start):
            break
        for _ in range(turns):
            await asyncio.sleep(0)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for turns in range(8):
            asyncio.run(main(turns))
            gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert "destroyed" not in caplog.text


# Faults


async def _publish_while(herald: Herald, channel: str, total: int, pace: float = 0.002) -> None:
    for number in range(total):
        await asyncio.to_thread(herald.publish, channel, number)
        await asyncio.sleep(pace)


async def test_cuts_in_the_middle_of_frames_lose_and_double_nothing(
    proxy: Proxy, herald: Herald, user: str
) -> None:
    channel = f"user:{user}"
    total = 90
    url = f"ws://127.0.0.1:{proxy.port}"
    async with listening(url, mint(user)) as (subscription, watch):
        proxy.weather.reset_after = 1500  # every connection, somewhere in a frame
        publishing = asyncio.create_task(_publish_while(herald, channel, total))
        await eventually(lambda: proxy.cuts >= 2, "two cuts")
        proxy.weather.reset_after = None
        assert await take(subscription, total) == list(range(total))
        await publishing
        await _nothing(subscription)
        assert watch.count(State.WAITING) >= 2


async def test_a_server_that_is_killed_and_restarted(fragile: Fragile, user: str) -> None:
    herald = fragile.herald
    channel = f"user:{user}"
    async with listening(herald.url, mint(user)) as (subscription, watch):
        herald.publish(channel, 0)
        assert await take(subscription, 1) == [0]
        herald.publish(channel, 1)
        herald.kill()
        await eventually(lambda: watch.count(State.WAITING) >= 2, "it tries")
        await asyncio.to_thread(herald.restart)
        herald.publish(channel, 2)
        assert await take(subscription, 2) == [1, 2]
        assert any("cannot connect" in status.reason for status in watch.told)


async def test_a_drain_moves_it_to_the_next_server_without_loss(
    herald: Herald, start: Callable[..., Herald], user: str
) -> None:
    old, new = start(drain_seconds="1"), herald
    channel = f"user:{user}"
    port = old.port
    async with proxying(lambda: ("127.0.0.1", port)) as proxy:
        async with listening(f"ws://127.0.0.1:{proxy.port}", mint(user)) as (subscription, watch):
            publishing = asyncio.create_task(_publish_while(new, channel, 60, 0.02))
            assert await take(subscription, 5) == list(range(5))
            port = new.port
            old.signal(signal.SIGTERM)
            assert await take(subscription, 55) == list(range(5, 60))
            await publishing
        waits = [status for status in watch.told if status.state is State.WAITING]
        assert [status.code for status in waits] == [1012]
    assert await asyncio.to_thread(old.process.wait, PATIENCE) == 0


async def test_missed_heartbeats_drop_a_connection_that_is_dead(nervous: Herald, user: str) -> None:
    herald = nervous
    channel = f"user:{user}"
    async with proxying(lambda: ("127.0.0.1", herald.port)) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}"
        async with listening(url, mint(user)) as (subscription, watch):
            proxy.weather.swallow = True
            herald.publish(channel, "unheard")
            await eventually(lambda: watch.count(State.WAITING) >= 1, "it noticed")
            assert any("nothing was heard" in status.reason for status in watch.told)
            proxy.weather.swallow = False
            assert await take(subscription, 1) == ["unheard"]


async def test_an_engine_that_is_away_and_comes_back(fragile: Fragile, user: str) -> None:
    """What an engine lost at its end cannot be known, so a gap is told; the events come all."""
    herald, engine = fragile
    channel = f"user:{user}"
    async with listening(herald.url, mint(user), on_gap="yield") as (subscription, _):
        herald.publish(channel, 1)
        assert await take(subscription, 1) == [1]
        engine.kill()
        await eventually(lambda: not herald.is_ready(), "readiness fails")
        engine.restart()
        await eventually(herald.is_ready, "readiness returns")
        herald.publish(channel, 2)
        items: list[Any] = []
        while 2 not in items:
            items += await take(subscription, 1)
        kinds = [i for i in items if not isinstance(i, Gap) or i.channel == channel]
        assert isinstance(kinds[0], Gap)
        assert kinds[-1] == 2


async def test_a_slow_consumer_gets_everything_once_and_in_order(
    nervous: Herald, user: str
) -> None:
    """More than all buffers on the way hold: the server cuts it off, and it resumes."""
    herald = nervous
    channel = f"user:{user}"
    total, filler = 0, "x" * 60_000

    def is_cut_off() -> bool:
        return herald.metrics().get('herald_disconnects_total{code="4000"}', 0) >= 1

    async with listening(herald.url, mint(user), buffer=5) as (subscription, watch):
        # How much the system takes depends on its moods; and who does not answer a close is
        # counted as gone after some seconds.
        while total < 980 and not is_cut_off():
            events = [
                {"to": channel, "type": "t", "data": [n, filler]} for n in range(total, total + 140)
            ]
            await asyncio.to_thread(herald.post, "/v1/events/batch", {"events": events})
            total += 140
            if total >= 280:
                with contextlib.suppress(AssertionError):
                    await eventually(is_cut_off, "cut off as too slow", 6.0)
        await eventually(is_cut_off, "cut off as too slow")
        taken = [data[0] for data in await take(subscription, total)]
        assert taken == list(range(total))
        await _nothing(subscription)
        assert watch.count(State.LIVE) >= 2


async def test_a_consumer_that_sleeps_is_not_taken_for_dead(nervous: Herald, user: str) -> None:
    """Its buffer is full, so it hears no ping; signs of life of its own keep the connection."""
    herald = nervous
    reaped = herald.metrics().get('herald_disconnects_total{code="3008"}', 0)
    channel = f"user:{user}"
    async with listening(herald.url, mint(user), buffer=1) as (subscription, _):
        for number in range(40):
            herald.publish(channel, number)
        await asyncio.sleep(2.8)  # longer than the server lets anybody be silent
        assert await take(subscription, 40) == list(range(40))
    assert herald.metrics().get('herald_disconnects_total{code="3008"}', 0) == reaped


async def test_an_event_that_cannot_be_read_is_a_gap(
    herald: Herald, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It would come again and again, and nothing behind it ever."""
    channel = f"user:{user}"
    async with listening(herald.url, mint(user), on_gap="yield") as (subscription, watch):
        first = herald.publish(channel, 1)["positions"][channel]
        digits = "9" * 5_000  # more than Python reads
        body = f'{{"to":"{channel}","type":"t","data":{digits}}}'.encode()
        answer = herald.post("/v1/events", body)
        assert answer.status_code == 202
        herald.publish(channel, 2)
        unread = answer.json()["positions"][channel]
        assert await take(subscription, 3) == [1, Gap(channel, first, unread), 2]
        assert watch.count(State.WAITING) == 0
    assert "cannot be read" in caplog.text


async def test_an_error_without_words_is_told(user: str) -> None:
    """The protocol's keys may be fewer than we know; no error ends a subscription."""

    async def serve_client(socket: ServerConnection) -> None:
        await socket.recv()
        for message in (
            {"type": "error", "code": "strange"},
            {"type": "welcome", "channels": {"all": {"position": "5-0", "recovered": False}}},
        ):
            await socket.send(json.dumps(message))
        await socket.wait_closed()

    errors: list[ServerError] = []
    async with serve(serve_client, "127.0.0.1", 0, subprotocols=[Subprotocol("herald.v1")]) as s:
        port = next(iter(s.sockets)).getsockname()[1]
        async with listening(f"ws://127.0.0.1:{port}", "t", on_error=errors.append):
            assert errors == [ServerError("strange", "", None)]


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """Something that is no Herald, and gives every request this answer; its URL."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await end_of(server)


async def test_a_redirect_is_not_followed(herald: Herald, user: str) -> None:
    """The token is for the host that was named."""
    watch = Watch()
    answer = f"HTTP/1.1 302 Found\r\nLocation: {herald.ws_url}/v1/ws\r\nContent-Length: 0\r\n\r\n"
    async with (
        answering(answer.encode()) as url,
        subscribe(url, mint(user), on_gap=no_gap, on_state=watch),
    ):
        await eventually(lambda: watch.count(State.WAITING) >= 1 or watch.count(State.LIVE) >= 1)
    assert "302" in watch.told[1].reason
    assert watch.count(State.LIVE) == 0


async def test_something_else_at_that_url(user: str, caplog: pytest.LogCaptureFixture) -> None:
    """Tried again, for a deployment may be under way, but not in silence."""
    watch = Watch()
    options: dict[str, Any] = {"on_gap": no_gap, "on_state": watch}
    async with answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as url:
        async with subscribe(url, "t", **options):
            await eventually(lambda: watch.count(State.WAITING) >= 2, "tried again")
        assert "404" in watch.told[1].reason
    assert "404" in caplog.text


async def test_functions_of_the_application_that_fail_do_not_stop_it(
    herald: Herald, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(status: Status) -> None:
        raise RuntimeError(status.state)

    herald.publish(f"user:{user}", 1)
    options: dict[str, Any] = {"on_gap": no_gap, "on_state": fail}
    options["positions"] = {f"user:{user}": "0-0"}
    async with subscribe(herald.url, mint(user), **options) as subscription:
        assert await take(subscription, 1) == [1]
    assert "a function of the application's failed" in caplog.text
