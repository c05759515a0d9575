"""The background queue against a real Herald: batches, back-pressure, failures, ends."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from herald_client import (
    AsyncPublisher,
    Closed,
    ConfigurationError,
    FailedEvent,
    InvalidEvent,
    NoAnswer,
    Publisher,
    QueueFull,
    QueueOptions,
    Rejected,
    Unauthorized,
    Unavailable,
    background,
)

from tests.chaos.proxy import Proxy
from tests.clients.conftest import Fragile, retained
from tests.harness.process import KEY, PATIENCE, Herald, eventually, free_port


def _nowhere() -> str:
    return f"http://127.0.0.1:{free_port()}"


def test_events_go_in_batches_and_in_order(herald: Herald, user: str) -> None:
    channels = [f"user:{user}", f"topic:{user}"]
    before = herald.metrics()["herald_events_accepted_total"]
    with Publisher(herald.url, KEY) as publisher:
        ids = [publisher.enqueue(to=channels[n % 2], type="t", data=n) for n in range(150)]
        assert publisher.flush(PATIENCE) is True
        assert retained(herald, channels[0]) == list(range(0, 150, 2))
        assert retained(herald, channels[1]) == list(range(1, 150, 2))
    assert len(set(ids)) == 150
    assert herald.metrics()["herald_events_accepted_total"] - before == 150


def test_nobody_need_flush(herald: Herald, user: str) -> None:
    publisher = Publisher(herald.url, KEY)
    publisher.enqueue(to=f"user:{user}", type="t", data=1)
    _until(lambda: retained(herald, f"user:{user}") == [1])
    publisher.close()


def test_close_flushes_and_takes_nothing_more(herald: Herald, user: str) -> None:
    publisher = Publisher(herald.url, KEY, queue=QueueOptions(linger=60.0))
    for number in range(10):
        publisher.enqueue(to=f"user:{user}", type="t", data=number)
    publisher.close()
    assert retained(herald, f"user:{user}") == list(range(10))
    with pytest.raises(Closed):
        publisher.enqueue(to=f"user:{user}", type="t")
    publisher.close()


def test_what_is_refused_is_told_with_the_reason_and_the_rest_goes(
    herald: Herald, user: str
) -> None:
    failed: list[FailedEvent] = []
    options = QueueOptions(on_failed=failed.append)
    with Publisher(herald.url, KEY, queue=options) as publisher:
        publisher.enqueue(to=f"user:{user}", type="t", data=1)
        publisher.enqueue(to="nobody", type="t", data={"big": 2**70}, id="refused", ttl=5)
        publisher.enqueue(to=f"user:{user}", type="t", data=3)
        with pytest.raises(InvalidEvent):
            publisher.enqueue(to=f"user:{user}", type="t", data=object())
        assert publisher.flush(PATIENCE)
        (one,) = failed
        assert one.fields == {
            "to": "nobody",
            "type": "t",
            "id": "refused",
            "data": {"big": 2**70},
            "ttl": 5,
        }
        assert isinstance(one.error, Rejected)
        assert "A channel is user:<id>" in one.error.detail
    assert retained(herald, f"user:{user}") == [1, 3]


def test_a_failure_that_nobody_wants_to_hear_of_is_logged_without_its_data(
    herald: Herald, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "herald_client"), Publisher(herald.url, KEY) as publisher:
        publisher.enqueue(to="nobody", type="note", data="private", id="mine")
    assert "an event was not published: to=nobody type='note' id=mine: 400" in caplog.text
    assert "private" not in caplog.text


def test_a_callback_that_fails_does_not_stop_the_queue(
    herald: Herald, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(failed: FailedEvent) -> None:
        raise RuntimeError(failed.error.detail)

    with Publisher(herald.url, KEY, queue=QueueOptions(on_failed=fail)) as publisher:
        publisher.enqueue(to="nobody", type="t")
        publisher.flush(PATIENCE)
        publisher.enqueue(to=f"user:{user}", type="t", data=1)
    assert "on_failed failed" in caplog.text
    assert retained(herald, f"user:{user}") == [1]


def test_a_refused_key_is_told_for_each_event(herald: Herald) -> None:
    failed: list[FailedEvent] = []
    options = QueueOptions(on_failed=failed.append)
    with Publisher(herald.url, "wrong", queue=options) as publisher:
        for number in range(3):
            publisher.enqueue(to="all", type="t", data=number)
    assert [one.fields["data"] for one in failed] == [0, 1, 2]
    assert all(isinstance(one.error, Unauthorized) for one in failed)


def test_what_cannot_be_sent_in_time_is_told() -> None:
    failed: list[FailedEvent] = []
    options = QueueOptions(on_failed=failed.append, keep_trying=0.3)
    with Publisher(_nowhere(), KEY, queue=options) as publisher:
        publisher.enqueue(to="all", type="t", data=1)
        assert publisher.flush(PATIENCE) is True, "told is done with"
        (one,) = failed
        assert isinstance(one.error, NoAnswer)
        assert one.error.attempts >= 1


def test_close_in_time_tells_what_is_left() -> None:
    failed: list[FailedEvent] = []
    publisher = Publisher(_nowhere(), KEY, queue=QueueOptions(on_failed=failed.append))
    for number in range(3):
        publisher.enqueue(to="all", type="t", data=number)
    assert publisher.flush(0.05) is False
    publisher.close(timeout=0.1)
    assert [one.fields["data"] for one in failed] == [0, 1, 2]
    assert all(isinstance(one.error, Unavailable) for one in failed)


@pytest.mark.parametrize("bound", [{"size": 3}, {"bytes": 250}])
def test_a_full_queue_raises(bound: dict[str, int]) -> None:
    options = QueueOptions(when_full="raise", on_failed=lambda failed: None, **bound)  # type: ignore[arg-type]
    publisher = Publisher(_nowhere(), KEY, queue=options)
    for _ in range(3):
        publisher.enqueue(to="all", type="t", data="x")
    with pytest.raises(QueueFull, match="wait to be published"):
        publisher.enqueue(to="all", type="t", data="x")
    publisher.close(timeout=0.0)


def test_a_full_queue_blocks_until_there_is_room(fragile_pair: Fragile, user: str) -> None:
    """Nothing is lost while the engine is away, and publishers are slowed down to what passes."""
    herald, engine = fragile_pair
    engine.kill()
    channel = f"user:{user}"
    failed: list[FailedEvent] = []
    options = QueueOptions(size=5, on_failed=failed.append)
    with Publisher(herald.url, KEY, queue=options) as publisher:
        done = threading.Event()
        put: list[int] = []

        def work() -> None:
            for number in range(50):
                publisher.enqueue(to=channel, type="t", data=number)
                put.append(number)
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        _until(lambda: len(put) == 5)
        with pytest.raises(QueueFull):
            publisher.enqueue(to=channel, type="t", data="too much", timeout=0.1)
        assert not done.wait(0.1)
        assert len(put) == 5
        engine.restart()
        thread.join(PATIENCE)
        assert publisher.flush(PATIENCE)
    assert failed == []
    assert retained(herald, channel) == list(range(50))


def test_close_wakes_who_waits_for_room() -> None:
    options = QueueOptions(size=1, on_failed=lambda failed: None)
    publisher = Publisher(_nowhere(), KEY, queue=options)
    publisher.enqueue(to="all", type="t")
    outcome: list[BaseException] = []

    def work() -> None:
        try:
            publisher.enqueue(to="all", type="t")
        except Closed as closed:
            outcome.append(closed)

    thread = threading.Thread(target=work)
    thread.start()
    publisher.close(timeout=0.1)
    thread.join(PATIENCE)
    assert len(outcome) == 1


async def test_lost_answers_double_nothing(proxy: Proxy, herald: Herald, user: str) -> None:
    channel = f"user:{user}"
    proxy.weather.reset_after = 0
    publisher = Publisher(f"http://127.0.0.1:{proxy.port}", KEY)
    for number in range(40):
        publisher.enqueue(to=channel, type="t", data=number)
    await eventually(lambda: proxy.cuts >= 2, "answers are lost")
    proxy.weather.reset_after = None
    await asyncio.to_thread(publisher.close)
    assert retained(herald, channel) == list(range(40))


async def test_async_enqueue_waits_without_blocking(fragile: Fragile, user: str) -> None:
    herald, engine = fragile
    engine.kill()
    channel = f"user:{user}"
    async with AsyncPublisher(herald.url, KEY, queue=QueueOptions(size=5)) as publisher:
        put: list[int] = []

        async def work() -> None:
            for number in range(50):
                await publisher.enqueue(to=channel, type="t", data=number)
                put.append(number)

        task = asyncio.create_task(work())
        await eventually(lambda: len(put) == 5)
        with pytest.raises(QueueFull):
            await publisher.enqueue(to=channel, type="t", data="too much", timeout=0.05)
        assert await publisher.flush(0.05) is False
        assert len(put) == 5
        engine.restart()
        await task
        assert await publisher.flush(PATIENCE)
        assert retained(herald, channel) == list(range(50))


async def test_async_enqueue_may_raise_instead() -> None:
    options = QueueOptions(size=2, when_full="raise", on_failed=lambda failed: None)
    publisher = AsyncPublisher(_nowhere(), KEY, queue=options)
    await publisher.enqueue(to="all", type="t")
    await publisher.enqueue(to="all", type="t")
    with pytest.raises(QueueFull):
        await publisher.enqueue(to="all", type="t")
    await publisher.close(timeout=0.0)
    with pytest.raises(Closed):
        await publisher.enqueue(to="all", type="t")


def _exit(publisher: Publisher, failed: FailedEvent) -> None:
    sys.exit(3)


def _flush(publisher: Publisher, failed: FailedEvent) -> None:
    publisher.flush()


def _close(publisher: Publisher, failed: FailedEvent) -> None:
    publisher.close()


def _put_again(publisher: Publisher, failed: FailedEvent) -> None:
    publisher.enqueue(**failed.fields)


@pytest.mark.parametrize("on_failed", [_exit, _flush, _close, _put_again])
def test_whatever_on_failed_does_the_queue_goes_on(
    herald: Herald, user: str, caplog: pytest.LogCaptureFixture, on_failed: Callable[..., None]
) -> None:
    """It would wait for itself, or end the thread, and everybody wait for ever."""

    def tell(failed: FailedEvent) -> None:
        if filled.wait(PATIENCE):
            on_failed(publisher, failed)

    filled = threading.Event()
    publisher = Publisher(herald.url, KEY, queue=QueueOptions(size=1, on_failed=tell))
    publisher.enqueue(to="nobody", type="t", id=user)
    if on_failed is not _close:
        publisher.enqueue(to=f"user:{user}", type="t", data=1)
    filled.set()
    assert publisher.flush(PATIENCE)
    publisher.close(PATIENCE)
    assert retained(herald, f"user:{user}") == ([] if on_failed is _close else [1])
    assert "on_failed failed" in caplog.text


def test_a_request_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the environment names a proxy that makes no sense."""
    monkeypatch.setenv("HTTP_PROXY", "nonsense://127.0.0.1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    failed: list[FailedEvent] = []
    options = QueueOptions(keep_trying=0.2, on_failed=failed.append)
    with Publisher(_nowhere(), KEY, queue=options) as publisher:
        publisher.enqueue(to="all", type="t")
        assert publisher.flush(PATIENCE)
    (one,) = failed
    assert isinstance(one.error, NoAnswer)
    assert "nonsense" in one.error.detail


def test_a_flush_waits_for_what_was_put_before_it_and_not_for_more(
    herald: Herald, user: str
) -> None:
    stop = threading.Event()
    put: list[str] = []

    def feed() -> None:
        while not stop.is_set():
            put.append(publisher.enqueue(to=f"topic:{user}", type="t"))

    with Publisher(herald.url, KEY, queue=QueueOptions(size=1_000)) as publisher:
        feeding = threading.Thread(target=feed)
        feeding.start()
        _until(lambda: len(put) >= 1_000)
        publisher.enqueue(to=f"user:{user}", type="t", data="mine")
        try:
            assert publisher.flush(PATIENCE)
            assert retained(herald, f"user:{user}") == ["mine"]
        finally:
            stop.set()
            feeding.join(PATIENCE)


def test_at_the_end_all_queues_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Spy:
        def hurry(self) -> None:
            told.append("hurry")

        def close_at_exit(self, since: float) -> None:
            told.append(since)

    with monkeypatch.context() as patch:
        patch.setattr(background, "_live", [Spy(), Spy()])
        background.close_all_at_exit()
    assert told[:2] == ["hurry", "hurry"]
    assert told[2] == told[3]
    with Publisher(_nowhere(), KEY, queue=QueueOptions(on_failed=lambda failed: None)) as publisher:
        publisher.enqueue(to="all", type="t")
        waited: list[float | None] = []
        assert publisher._queue is not None
        with monkeypatch.context() as patch:
            patch.setattr(publisher._queue, "close", waited.append)
            publisher._queue.close_at_exit(time.monotonic() - 3600.0)
        assert waited == [0.0]
        publisher.close(timeout=0.0)


async def test_async_enqueue_that_gives_up_leaves_nothing_behind() -> None:
    options = QueueOptions(size=1, on_failed=lambda failed: None)
    publisher = AsyncPublisher(_nowhere(), KEY, queue=options)
    await publisher.enqueue(to="all", type="t")
    for _ in range(3):
        with pytest.raises(QueueFull):
            await publisher.enqueue(to="all", type="t", timeout=0.01)
    assert publisher._queue is not None
    assert publisher._queue._room_listeners == []
    await publisher.close(timeout=0.0)


def test_the_thread_goes_when_it_is_not_needed(
    herald: Herald, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("herald_client.background._IDLE_SECONDS", 0.05)
    with Publisher(herald.url, KEY) as publisher:
        for number in range(3):
            publisher.enqueue(to=f"user:{user}", type="t", data=number)
            publisher.flush(PATIENCE)
            _until(lambda: "herald-publisher" not in {t.name for t in threading.enumerate()})
    assert retained(herald, f"user:{user}") == [0, 1, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"bytes": 0},
        {"max_batch": 0},
        {"max_batch": 10_001},
        {"keep_trying": 241},
        {"when_full": "drop"},
        {"linger": float("nan")},
        {"exit_timeout": -1},
        {"on_failed": "print"},
        {"on_failed": asyncio.sleep},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        QueueOptions(**options)


def _until(condition: Callable[[], bool]) -> None:
    asyncio.run(eventually(condition))
