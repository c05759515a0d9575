"""What is easily done wrong ends at once, in a sentence that says what is wrong."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from herald_client import (
    Closed,
    ConfigurationError,
    ConnectionRefused,
    InvalidEvent,
    NoAnswer,
    Publisher,
    Rejected,
    Status,
    Subscription,
    TokenRefused,
    Unauthorized,
    subscribe,
    subscribe_sync,
)
from herald_client.target import find_target, websocket_url

from tests.clients.test_subscribe import no_gap
from tests.harness.process import KEY, PATIENCE, Herald, eventually, free_port, mint

WRONG_NAMES = ["se cret", "", "news.*", "ä", "a\n", "x" * 201, 1, None]


@pytest.fixture
def quiet() -> Subscription[Any]:
    """A subscription that is not begun."""
    return subscribe("http://127.0.0.1:1", "t", on_gap=no_gap)


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_name_that_no_topic_has_is_refused_at_once(name: Any) -> None:
    """The server would refuse all of `connect`, again and again."""
    for make in (subscribe, subscribe_sync):
        with pytest.raises(ConfigurationError) as raised:
            make("http://127.0.0.1:1", "t", on_gap=no_gap, topics=["news", name])
        assert "1 to 200 of A-Z a-z 0-9 . _ : @ / -" in str(raised.value)
        assert repr(name)[:60] in str(raised.value)


@pytest.mark.parametrize("name", WRONG_NAMES)
async def test_a_name_that_is_asked_for_later_too(quiet: Subscription[Any], name: Any) -> None:
    sync = subscribe_sync("http://127.0.0.1:1", "t", on_gap=no_gap)
    for ask in (sync.subscribe, sync.unsubscribe):
        with pytest.raises(ConfigurationError, match="1 to 200 of"):
            ask(name)
    for ask_later in (quiet.subscribe, quiet.unsubscribe):
        with pytest.raises(ConfigurationError, match="1 to 200 of"):
            await ask_later(name)


@pytest.mark.parametrize(
    "channel", ["news", "", "all ", "user:", "topic:", "topic:a b", "user:a\n"]
)
def test_positions_are_those_of_channels(channel: str) -> None:
    positions = {"all": "0-0", "topic:a.b": "0-0", "user:ä 🎉": "0-0"}
    subscribe("http://127.0.0.1:1", "t", on_gap=no_gap, positions=positions)
    with pytest.raises(ConfigurationError, match="A channel is user:<id>, topic:<name> or all; "):
        subscribe("http://127.0.0.1:1", "t", on_gap=no_gap, positions={**positions, channel: "0-0"})


@pytest.mark.parametrize(
    ("option", "hint"),
    [("topic", ": did you mean topics?"), ("position", ": did you mean positions?"), ("xyz", "")],
)
def test_an_option_that_there_is_not_is_named_with_the_nearest(option: str, hint: str) -> None:
    options: Any = {option: None}
    with pytest.raises(TypeError) as raised:
        subscribe("http://127.0.0.1:1", "t", on_gap=no_gap, **options)
    assert str(raised.value) == f"subscribe has no option {option}{hint}"


@pytest.mark.parametrize("name", ["a", "A-Z.0_9:@/-", "x" * 200])
def test_good_names_are_taken(name: str) -> None:
    subscribe("http://127.0.0.1:1", "t", on_gap=no_gap, topics=[name])


@pytest.mark.parametrize("words", ["it has expired", "It has expired.", "..."])
def test_no_sentence_has_two_full_stops(words: str) -> None:
    for error in (TokenRefused(words), ConnectionRefused(3003, words)):
        assert ".." not in str(error)
        assert ".)" not in str(error)
        assert str(error).endswith(".")
        assert error.reason == words


PREFIXES = ["", "/herald", "/a/b", "/v1", "/events", "/v1/events-of-ours", "/xv1/ws"]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    "endpoint", ["", "/", "/v1/events", "/v1/events/", "/v1/events/batch", "/v1/ws", "/v1/stream"]
)
def test_an_endpoint_in_the_url_may_be_left_out_and_a_prefix_counts(
    prefix: str, endpoint: str
) -> None:
    url = f"http://h:1{prefix}{endpoint}"
    assert find_target(url, "k").url == f"http://h:1{prefix}"
    assert websocket_url(url) == f"ws://h:1{prefix}/v1/ws"


def test_a_prefix_that_looks_like_an_endpoint_is_given_with_the_endpoint() -> None:
    url = "https://h/v1/events/v1/events"
    assert find_target(url, "k").url == "https://h/v1/events"
    assert websocket_url(url) == "wss://h/v1/events/v1/ws"


async def test_the_url_of_the_endpoint_does(herald: Herald, user: str) -> None:
    with Publisher(f"{herald.url}/v1/events", KEY) as publisher:
        publisher.publish(to=f"user:{user}", type="t", data=1)
        publisher.publish_many([{"to": f"user:{user}", "type": "t", "data": 2}])
    start = {f"user:{user}": "0-0"}
    async with asyncio.timeout(PATIENCE):
        url = f"{herald.url}/v1/events"
        async for event in subscribe(url, mint(user), on_gap=no_gap, positions=start):
            if event.data == 2:
                break


def test_another_path_is_named_as_what_may_be_wrong(herald: Herald) -> None:
    with (
        Publisher(f"{herald.url}/v1", KEY) as publisher,
        pytest.raises(Rejected, match=r"^404: There is nothing here.*\. Is the URL right\?$"),
    ):
        publisher.publish(to="all", type="t")


async def test_another_path_of_a_subscription_too(herald: Herald) -> None:
    reasons: list[str] = []

    def watch(status: Status) -> None:
        if status.reason:
            reasons.append(status.reason)

    url = f"{herald.url}/v1"
    async with subscribe(url, mint(), on_gap=no_gap, on_state=watch):
        await eventually(lambda: bool(reasons), "it was refused")
    assert reasons[0].endswith("HTTP 404; is the URL right?")


async def test_two_loops_over_one_subscription_are_refused(herald: Herald, user: str) -> None:
    async with subscribe(herald.url, mint(user), on_gap=no_gap) as subscription:
        first = asyncio.create_task(anext(subscription))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="Two loops wait for one subscription"):
            await anext(subscription)
        # One that was given up leaves room for another.
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.create_task(anext(subscription))
        await eventually(lambda: subscription.state == "live", "live")
        herald.publish(f"user:{user}", 1)
        assert (await asyncio.wait_for(second, PATIENCE)).data == 1


def test_two_threads_over_one_subscription_are_refused(herald: Herald, user: str) -> None:
    start = {f"user:{user}": "0-0"}
    with subscribe_sync(herald.url, mint(user), on_gap=no_gap, positions=start) as subscription:
        given: list[Any] = []
        thread = threading.Thread(target=lambda: given.append(next(subscription)))
        thread.start()
        while not subscription._inbox.turn._lock.locked():
            assert thread.is_alive()
        with pytest.raises(RuntimeError, match="Two loops wait for one subscription"):
            next(subscription)
        herald.publish(f"user:{user}", 1)
        thread.join(PATIENCE)
        assert [event.data for event in given] == [1]


def test_a_loop_without_async_is_told_how(quiet: Subscription[Any]) -> None:
    with pytest.raises(TypeError, match=r"Write `async for`.*subscribe_sync"):
        list(quiet)  # type: ignore[call-overload]


# What ended in a sentence before, and is to stay so


def test_nobody_listens_on_that_port() -> None:
    with (
        Publisher(f"http://127.0.0.1:{free_port()}", KEY, deadline=2.0) as publisher,
        pytest.raises(NoAnswer, match=r"refused"),
    ):
        publisher.publish(to="all", type="t")


def test_https_where_there_is_only_http(herald: Herald) -> None:
    url = herald.url.replace("http:", "https:")
    with Publisher(url, KEY, deadline=2.0) as publisher, pytest.raises(NoAnswer, match=r"(?i)ssl"):
        publisher.publish(to="all", type="t")


def test_a_token_is_no_key(publisher: Publisher, herald: Herald, user: str) -> None:
    with (
        Publisher(herald.url, "another-key") as other,
        pytest.raises(Unauthorized, match=r"^401: .*key"),
    ):
        other.publish(to="all", type="t")


@pytest.mark.parametrize("token", [KEY, mint(secret="another secret of at least 32 bytes")])
async def test_a_key_is_no_token_nor_is_one_of_another_secret(herald: Herald, token: str) -> None:
    subscription = subscribe(herald.url, token, on_gap=no_gap)
    with pytest.raises(TokenRefused, match=r"^The token was refused again and again: .*[^.]\.$"):
        await asyncio.wait_for(anext(subscription), PATIENCE)


@pytest.mark.parametrize("to", ["alice", "users:alice", "topic:se cret", ""])
def test_what_is_no_channel_is_named(publisher: Publisher, to: str) -> None:
    with pytest.raises(Rejected, match=r"^400: A (channel|topic name) is "):
        publisher.publish(to=to, type="t")


def test_data_that_is_no_json_is_named(publisher: Publisher) -> None:
    with pytest.raises(InvalidEvent, match="not JSON serializable"):
        publisher.publish(to="all", type="t", data=object())


def test_nothing_is_published_after_close(publisher: Publisher) -> None:
    publisher.close()
    for publish in (publisher.publish, publisher.enqueue):
        with pytest.raises(Closed, match="was closed"):
            publish(to="all", type="t")
