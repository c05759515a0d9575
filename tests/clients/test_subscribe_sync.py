"""Receiving with `subscribe_sync`: the same, without asyncio."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from herald_client import (
    ConfigurationError,
    Event,
    Gap,
    LoggedOut,
    State,
    SyncSubscription,
    TokenRefused,
    subscribe_sync,
)

from tests.clients.conftest import Fragile
from tests.clients.test_subscribe import Watch, no_gap
from tests.harness.process import (
    PATIENCE,
    SECRET,
    Herald,
    clean_environment,
    eventually,
    mint,
)


def _until(condition: Callable[[], bool]) -> None:
    asyncio.run(eventually(condition))


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def _take(subscription: SyncSubscription[Any], count: int) -> list[Any]:
    taken = []
    for item in subscription:
        taken.append(item.data if isinstance(item, Event) else item)
        if len(taken) == count:
            break
    return taken


def test_the_shortest_loop(herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    for number in range(5):
        herald.publish(channel, number)
    start = {channel: "0-0"}
    taken = []
    for event in subscribe_sync(herald.url, mint(user), on_gap=no_gap, positions=start):
        taken.append(event.data)
        if event.data == 4:
            break
    assert taken == list(range(5))
    gc.collect()
    assert "herald-subscription" not in _threads(), "left by break, closed and gone"


def test_positions_move_when_the_loop_comes_back(herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    published = [herald.publish(channel, number)["positions"][channel] for number in range(3)]
    with subscribe_sync(
        herald.url, mint(user), on_gap=no_gap, positions={channel: "0-0"}
    ) as subscription:
        # 0-0 was answered with the place where what is retained begins.
        before = published[0].replace("-1", "-0")
        for position, event in zip(published, subscription, strict=False):
            assert subscription.positions[channel] == before
            assert event.position == position
            before = position
        assert subscription.positions[channel] == published[1]
        assert subscription.state is State.LIVE
    assert subscription.state is State.CLOSED


def test_a_gap_is_told_in_the_thread_that_iterates(herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    first = herald.publish(channel, 0)["positions"][channel]
    for number in range(1, 103):  # of which 100 are retained
        herald.publish(channel, number)
    gaps: list[Gap] = []

    def on_gap(gap: Gap) -> None:
        assert threading.current_thread() is threading.main_thread()
        gaps.append(gap)
        if len(gaps) == 1:
            raise OSError("the database is away")

    options: dict[str, Any] = {"positions": {channel: first}}
    with subscribe_sync(herald.url, mint(user), on_gap=on_gap, **options) as subscription:
        with pytest.raises(OSError, match="database"):
            next(subscription)
        assert _take(subscription, 2) == [3, 4]
    assert gaps[0] == gaps[1]
    with subscribe_sync(herald.url, mint(user), on_gap="yield", **options) as yielding:
        assert _take(yielding, 2) == [gaps[0], 3]


def test_topics_come_and_go(herald: Herald, user: str) -> None:
    herald.publish(f"topic:{user}", "before")
    token = mint(user, topics=[f"{user}*"])
    with subscribe_sync(herald.url, token, on_gap=no_gap) as subscription:
        subscription.subscribe(user, "0-0")
        assert _take(subscription, 1) == ["before"]
        subscription.unsubscribe(user)
        _until(lambda: f"topic:{user}" not in subscription._protocol.positions)
        herald.publish(f"topic:{user}", "unheard")
        herald.publish(f"user:{user}", "heard")
        assert _take(subscription, 1) == ["heard"]


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_token_function_may_block_or_be_async(herald: Herald, user: str, kind: str) -> None:
    asked: list[str] = []

    def token() -> str:
        asked.append(threading.current_thread().name)
        time.sleep(0.05)
        return mint(user, ttl=-60 if len(asked) == 1 else 3600)

    async def async_token() -> str:
        asked.append("async")
        return mint(user, ttl=-60 if len(asked) == 1 else 3600)

    herald.publish(f"user:{user}", 1)
    with subscribe_sync(
        herald.url,
        token if kind == "plain" else async_token,
        on_gap=no_gap,
        positions={f"user:{user}": "0-0"},
    ) as subscription:
        assert _take(subscription, 1) == [1]
    assert asked == ["herald-token" if kind == "plain" else "async"] * 2


def test_a_token_function_that_exits_is_asked_again(
    herald: Herald, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It only ends its own thread, which nobody would notice."""
    tokens = [mint(user)]

    def token() -> str:
        if len(caplog.records) == 0:
            sys.exit(3)
        return tokens[0]

    herald.publish(f"user:{user}", 1)
    with subscribe_sync(
        herald.url, token, on_gap=no_gap, positions={f"user:{user}": "0-0"}
    ) as subscription:
        assert _take(subscription, 1) == [1]
    assert "SystemExit(3)" in caplog.text


def test_an_async_gap_function_is_refused(herald: Herald) -> None:
    """Nobody would await it, and the gap would be missed in silence."""

    async def on_gap(gap: Gap) -> None:
        pass

    with pytest.raises(ConfigurationError, match="async def"):
        subscribe_sync(herald.url, mint(), on_gap=on_gap)  # type: ignore[arg-type]


def test_a_subscription_says_that_it_does_not_survive_a_fork(herald: Herald, user: str) -> None:
    program = """
import os, sys
from herald_client import subscribe_sync
channel, token = sys.argv[1:]
subscription = subscribe_sync(None, token, on_gap=print, positions={channel: "0-0"})
print(next(subscription).data, flush=True)
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
else:
    try:
        next(subscription)
    except RuntimeError as error:
        print(error, flush=True)
        os._exit(0)
"""
    herald.publish(f"user:{user}", 1)
    done = subprocess.run(
        [sys.executable, "-c", program, f"user:{user}", mint(user)],
        env=clean_environment(url=herald.url),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "does not survive a fork" in done.stdout


def test_a_topic_for_a_subscription_that_ends_just_now_is_dropped(herald: Herald) -> None:
    """Its loop takes the wish and never gets to it: that is nothing to wait for."""
    subscription = subscribe_sync(herald.url, mint(), on_gap=no_gap)
    thread = threading.Thread(target=print)
    thread.start()
    thread.join()
    subscription._loop, subscription._thread = asyncio.new_event_loop(), thread
    subscription._process = os.getpid()
    asking = threading.Thread(target=subscription.subscribe, args=("news",), daemon=True)
    asking.start()
    asking.join(PATIENCE)
    assert not asking.is_alive()
    subscription._loop.close()


def test_the_end_is_raised(herald: Herald, user: str) -> None:
    bad = mint(user, secret=SECRET[::-1])
    with pytest.raises(TokenRefused):
        next(subscribe_sync(herald.url, bad, on_gap=no_gap))
    with pytest.raises(LoggedOut):
        next(subscribe_sync(herald.url, lambda: None, on_gap=no_gap))


def test_close_from_another_thread_ends_the_loop(herald: Herald, user: str) -> None:
    watch = Watch()
    subscription = subscribe_sync(herald.url, mint(user), on_gap=no_gap, on_state=watch)
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.extend(subscription))
    thread.start()
    _until(lambda: watch.count(State.LIVE) == 1)
    subscription.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert taken == []
    assert list(subscription) == []
    subscription.close()
    assert "herald-subscription" not in _threads()


def test_a_body_that_takes_long_keeps_the_connection(
    start: Callable[..., Herald], user: str
) -> None:
    """The connection's thread answers pings while the application's is busy."""
    herald = start(heartbeat_interval="0.4", heartbeat_timeout="1.2")
    channel = f"user:{user}"
    watch = Watch()
    with subscribe_sync(
        herald.url, mint(user), on_gap=no_gap, on_state=watch, positions={channel: "0-0"}
    ) as subscription:
        herald.publish(channel, 0)
        next(subscription)
        time.sleep(2.0)
        herald.publish(channel, 1)
        assert _take(subscription, 1) == [1]
    assert herald.metrics().get('herald_disconnects_total{code="3008"}', 0) == 0


async def test_a_server_that_is_killed_and_restarted(fragile: Fragile, user: str) -> None:
    herald = fragile.herald
    channel = f"user:{user}"
    watch = Watch()

    def consume() -> Iterator[list[Any]]:
        with subscribe_sync(
            herald.url, mint(user), on_gap=no_gap, on_state=watch, buffer=10
        ) as subscription:
            yield _take(subscription, 1)
            yield _take(subscription, 59)

    steps = consume()
    first = asyncio.create_task(asyncio.to_thread(next, steps))
    await watch.live()
    herald.publish(channel, 0)
    assert await first == [0]
    for number in range(1, 30):
        herald.publish(channel, number)
    herald.kill()
    await asyncio.to_thread(herald.restart)
    for number in range(30, 60):
        herald.publish(channel, number)
    assert await asyncio.to_thread(next, steps) == list(range(1, 60))
    steps.close()  # type: ignore[attr-defined]
    assert watch.count(State.LIVE) >= 2


@pytest.mark.parametrize("end", ["", "import sys; sys.exit(3)", "raise RuntimeError('the end')"])
def test_a_program_that_ends_in_the_middle_says_goodbye(
    herald: Herald, user: str, end: str
) -> None:
    """Nothing hangs and nothing complains, though the subscription was never closed."""
    herald.publish(f"user:{user}", 1)
    normal = herald.metrics().get('herald_disconnects_total{code="1000"}', 0)
    program = f"""
import sys
from herald_client import subscribe_sync
channel, token = sys.argv[1:]
subscription = subscribe_sync(None, lambda: token, on_gap=print, positions={{channel: "0-0"}})
print(next(subscription).data)
{end}
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, f"user:{user}", mint(user)],
        env=clean_environment(url=herald.url),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == "1\n", done.stderr
    assert done.returncode == {"": 0, "import sys; sys.exit(3)": 3}.get(end, 1)
    if not end.startswith("raise"):
        assert done.stderr == ""
    _until(lambda: herald.metrics().get('herald_disconnects_total{code="1000"}', 0) > normal)
