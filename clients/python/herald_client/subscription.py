"""Receiving events: `subscribe` for asyncio, `subscribe_sync` for everything else."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import json
import os
import ssl as _ssl
import threading
import weakref
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from difflib import get_close_matches
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NoReturn,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from herald_client.callbacks import check_plain
from herald_client.errors import ConfigurationError
from herald_client.events import Event, Gap, Loads
from herald_client.inbox import Inbox, Item
from herald_client.names import check_channel, check_topic
from herald_client.protocol import ClientProtocol, State
from herald_client.runner import AskToken, Runner, RunnerOptions, ServerError, Status
from herald_client.target import websocket_url
from herald_client.tls import tls_context

_T = TypeVar("_T", bound=Item)
_STOP_SECONDS = 6.0

TokenSource = str | Callable[[], str | None] | Callable[[], Awaitable[str | None]]
"""The user's JWT, or a function that gives a fresh one; None means that nobody is logged in."""


class SubscribeOptions(TypedDict, total=False):
    """Keyword arguments of `subscribe` and `subscribe_sync`."""

    topics: Collection[str]
    """Topics to join, beside those that the token names."""
    positions: Mapping[str, str]
    """Where to go on, by channel: what the application has stored. `0-0` asks for everything
    retained; a channel that is not named begins now."""
    on_state: Callable[[Status], None]
    """Told of each change between connecting, live, waiting and closed."""
    on_error: Callable[[ServerError], None]
    """Told what the server refused, as a forbidden topic. Unset: it is logged as a warning."""
    buffer: int
    """Events that may wait for the loop's body, 1,000 if unset. Beyond them nothing is read."""
    loads: Loads
    """Reads the messages' JSON, as `json.loads` does."""
    ssl: _ssl.SSLContext
    """The TLS context for `wss`; unset: the system's trusted certificates."""
    headers: Mapping[str, str]
    """Of the handshake, as a gateway may ask for."""
    open_timeout: float
    """Seconds that a connection may take to open, 10 if unset."""


class _Common(Generic[_T]):
    """What the two kinds of subscriptions share."""

    def __init__(
        self,
        url: str | None,
        token: TokenSource,
        call: Callable[[Callable[[], Any]], Awaitable[Any]],
        on_gap: Any,
        options: SubscribeOptions,
    ) -> None:
        if on_gap != "yield" and not callable(on_gap):
            raise ConfigurationError('`on_gap` is a function that takes a Gap, or "yield".')
        unknown = options.keys() - SubscribeOptions.__annotations__.keys()
        if unknown:
            raise TypeError(_unknown_options(unknown))
        check_plain("on_state", options.get("on_state"))
        check_plain("on_error", options.get("on_error"))
        topics = options.get("topics", ())
        if isinstance(topics, str):
            raise ConfigurationError("`topics` is a list of names.")
        for topic in topics:
            check_topic(topic)
        positions = options.get("positions") or {}
        for channel in positions:
            check_channel(channel)
        if not all(isinstance(position, str) for position in positions.values()):
            raise ConfigurationError("`positions` has a position, as 0-0, for each channel.")
        try:
            self._protocol = ClientProtocol(None, topics, positions)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        limit = options.get("buffer", 1000)
        if limit < 1:
            raise ConfigurationError("`buffer` is at least 1 event.")
        target = websocket_url(url)
        self._on_gap = None if on_gap == "yield" else on_gap
        self._inbox = Inbox(limit, self._protocol.positions)
        self._runner = Runner(
            self._protocol,
            self._inbox,
            RunnerOptions(
                url=target,
                ask_token=_asker(token, call),
                refreshes=not isinstance(token, str),
                on_state=options.get("on_state"),
                on_error=options.get("on_error"),
                loads=options.get("loads", json.loads),
                ssl=tls_context(target, options.get("ssl")),
                headers=options.get("headers", {}),
                open_timeout=options.get("open_timeout", 10.0),
            ),
        )

    @property
    def positions(self) -> dict[str, str]:
        """Where the application stands, by channel: what to store, and to give back after a crash.

        The last event that the loop was given counts once the loop comes back for the next one.
        """
        return dict(self._inbox.positions)

    @property
    def state(self) -> State:
        """Connecting, live, waiting or closed."""
        return self._protocol.state


class Subscription(_Common[_T]):
    """An asynchronous iterator of events; made by `subscribe`."""

    def __init__(
        self, url: str | None, token: TokenSource, on_gap: Any, options: SubscribeOptions
    ) -> None:
        super().__init__(url, token, _call_here, on_gap, options)
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._inbox.wake_reader = self._news.set
        self._inbox.wake_writer = self._runner.made_room

    def __aiter__(self) -> Self:
        return self

    if not TYPE_CHECKING:  # a checker is to say so by itself

        def __iter__(self) -> NoReturn:
            raise TypeError("Write `async for`; without asyncio, subscribe_sync is for `for`.")

    def __anext__(self) -> Coroutine[Any, Any, _T]:
        self._start()
        # Not a method: the traceback of a cancelled task would hold `self`, and so the connection,
        # for as long as somebody holds the task.
        return _next_item(self._inbox, self._news, self._on_gap)

    async def subscribe(self, topic: str, position: str | None = None) -> None:
        """Join one more topic, after `position` where one is given, now and at each reconnect."""
        check_topic(topic)
        await self._runner.subscribe(topic, position)

    async def unsubscribe(self, topic: str) -> None:
        """Leave a topic."""
        check_topic(topic)
        await self._runner.unsubscribe(topic)

    async def aclose(self) -> None:
        """Close the connection and end the iteration. Leaving the loop does the same, soon."""
        self._protocol.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._inbox.drop()

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _start(self) -> None:
        if self._task is None and not self._inbox.ended:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._runner.run())
            # A loop that is left by `break` drops its iterator: then nobody wants the connection.
            weakref.finalize(self, _cancel_soon, loop, self._task).atexit = False


async def _next_item(inbox: Inbox, news: asyncio.Event, on_gap: Any) -> Any:
    with inbox.turn:
        inbox.came_back()
        while True:
            item = inbox.first()
            if item is None:
                if inbox.is_over():
                    raise StopAsyncIteration
                news.clear()
                await news.wait()
                continue
            if isinstance(item, Gap) and on_gap is not None:
                outcome = on_gap(item)
                if inspect.isawaitable(outcome):
                    await outcome
                inbox.take()
                inbox.came_back()
                continue
            inbox.take()
            return item


class SyncSubscription(_Common[_T]):
    """An iterator of events; made by `subscribe_sync`. One thread iterates; any may close."""

    def __init__(
        self, url: str | None, token: TokenSource, on_gap: Any, options: SubscribeOptions
    ) -> None:
        if on_gap != "yield":
            check_plain("on_gap", on_gap)
        super().__init__(url, token, _call_in_thread, on_gap, options)
        self._news = threading.Event()
        self._inbox.wake_reader = self._news.set
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()
        self._process = 0
        self._closer: weakref.finalize[Any, Any] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _T:
        self._start()
        with self._inbox.turn:
            item = self._next_item()
        if item is None:
            raise StopIteration
        return cast(_T, item)

    def _next_item(self) -> Item | None:
        inbox = self._inbox
        inbox.came_back()
        while True:
            item = inbox.first()
            if item is None:
                if inbox.is_over():
                    return None
                self._news.wait()
                self._news.clear()
                continue
            if isinstance(item, Gap) and self._on_gap is not None:
                self._on_gap(item)
                inbox.take()
                inbox.came_back()
                continue
            inbox.take()
            return item

    def subscribe(self, topic: str, position: str | None = None) -> None:
        """Join one more topic, after `position` where one is given, now and at each reconnect."""
        check_topic(topic)
        self._do(self._runner.subscribe(topic, position))

    def unsubscribe(self, topic: str) -> None:
        """Leave a topic."""
        check_topic(topic)
        self._do(self._runner.unsubscribe(topic))

    def close(self) -> None:
        """Close the connection and end the iteration, also one that waits in another thread.

        Leaving the loop does the same.
        """
        if self._closer is not None:
            self._closer()
        self._inbox.drop()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        with self._starting:
            if self._inbox.ended:
                return
            if self._thread is None:
                self._start_thread()
            elif self._process != os.getpid():
                raise RuntimeError("A subscription does not survive a fork: begin it in the child.")

    def _start_thread(self) -> None:
        loop, stop = asyncio.new_event_loop(), asyncio.Event()
        made_room = self._runner.made_room
        self._inbox.wake_writer = lambda: _call_in(loop, made_room)
        thread = threading.Thread(
            target=_serve, args=(loop, self._runner, stop), name="herald-subscription", daemon=True
        )
        self._loop, self._thread, self._process = loop, thread, os.getpid()
        try:
            thread.start()
        except RuntimeError:  # as where the program ends
            self._loop = self._thread = None
            loop.close()
            raise
        # Runs when nobody holds this any more, as after `break`, and when the program ends.
        self._closer = weakref.finalize(self, _stop, loop, stop, thread)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        self._start()
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or self._inbox.ended:
            work.close()
            return
        if threading.current_thread() is thread:
            work.close()
            raise RuntimeError("This would wait for itself: call it from another thread.")
        try:
            done = asyncio.run_coroutine_threadsafe(work, loop)
        except RuntimeError:  # it ended just now
            work.close()
            return
        while not concurrent.futures.wait([done], 0.1).done and thread.is_alive():
            pass
        if done.done() and not done.cancelled():
            done.result()
        else:
            work.close()


@overload
def subscribe(
    url: str | None,
    token: TokenSource,
    *,
    on_gap: Literal["yield"],
    **options: Unpack[SubscribeOptions],
) -> Subscription[Event | Gap]: ...
@overload
def subscribe(
    url: str | None,
    token: TokenSource,
    *,
    on_gap: Callable[[Gap], Awaitable[None] | None],
    **options: Unpack[SubscribeOptions],
) -> Subscription[Event]: ...
def subscribe(
    url: str | None,
    token: TokenSource,
    *,
    on_gap: Callable[[Gap], Awaitable[None] | None] | Literal["yield"],
    **options: Unpack[SubscribeOptions],
) -> Subscription[Event] | Subscription[Event | Gap]:
    """Receive a user's events.

        async for event in subscribe(url, token, on_gap=reload): ...

    Lost connections are opened again and resumed. Each event comes once and in its channel's
    order, except that one whose handling was cut short by a crash comes again, where the
    application gives back what it stored as `positions`. The connection is closed when the loop
    is left, or its task cancelled; to wait until it is closed use `async with subscribe(…) as
    events`.

    Args:
        url: `ws://…` or `http://…`, with or without `/v1/ws`; None: the environment's
            `HERALD_URL`.
        token: the user's JWT, or a function, plain or async, that gives a fresh one: it is asked
            at the beginning, before the token expires, and where it was refused; again where it
            fails, or takes 30 seconds. A plain one must not block.
        on_gap: what to do where events may be missing, in order with the events: a function,
            plain or async, that loads the state afresh; or "yield": gaps come out of the loop as
            `Gap` objects. There is no default, so that nobody misses a gap by accident.
        options: see `SubscribeOptions`.

    Raises:
        ConfigurationError: an argument makes no sense.
        SubscriptionEnded: from the loop, where going on makes no sense: `ConnectionRefused`,
            `TokenRefused`, `LoggedOut`.
    """
    return Subscription(url, token, on_gap, options)


@overload
def subscribe_sync(
    url: str | None,
    token: TokenSource,
    *,
    on_gap: Literal["yield"],
    **options: Unpack[SubscribeOptions],
) -> SyncSubscription[Event | Gap]: ...
@overload
def subscribe_sync(
    url: str | None,
    token: TokenSource,
    *,
    on_gap: Callable[[Gap], None],
    **options: Unpack[SubscribeOptions],
) -> SyncSubscription[Event]: ...
def subscribe_sync(
    url: str | None,
    token: TokenSource,
    *,
    on_gap: Callable[[Gap], None] | Literal["yield"],
    **options: Unpack[SubscribeOptions],
) -> SyncSubscription[Event] | SyncSubscription[Event | Gap]:
    """Receive a user's events without asyncio; the arguments are those of `subscribe`.

        for event in subscribe_sync(url, token, on_gap=reload): ...

    The connection is kept by a thread of its own, so that it stays alive however long the loop's
    body takes; a forked child has no such thread, so begin after a fork. `on_gap` is called in the
    thread that iterates, the token function in one of its own (it may block), `on_state` and
    `on_error` in the connection's.
    """
    return SyncSubscription(url, token, on_gap, options)


def _unknown_options(names: Iterable[str]) -> str:
    text = f"subscribe has no option {', '.join(sorted(names))}"
    known = list(SubscribeOptions.__annotations__)
    near = [found for name in sorted(names) for found in get_close_matches(name, known, 1)]
    return f"{text}: did you mean {', '.join(near)}?" if near else text


def _asker(token: TokenSource, call: Callable[[Callable[[], Any]], Awaitable[Any]]) -> AskToken:
    if isinstance(token, str):
        fixed = token

        async def give() -> str | None:
            return fixed

        return give
    if not callable(token):
        raise ConfigurationError("`token` is a JWT, or a function that gives one.")
    source = token

    async def ask() -> str | None:
        answer = await call(source)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is not None and not isinstance(answer, str):
            raise TypeError(f"The token function gave {type(answer).__name__}, not a str or None.")
        return answer

    return ask


async def _call_here(function: Callable[[], Any]) -> Any:
    return function()


async def _call_in_thread(function: Callable[[], Any]) -> Any:
    """Not asyncio's executor: that waits for its threads when the loop ends."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is None:
            outcome.set_result(result)
        else:
            outcome.set_exception(error)

    def work() -> None:
        try:
            result = function()
        except BaseException as error:  # SystemExit too would end this thread, and nobody know
            _call_in(loop, settle, None, error if isinstance(error, Exception) else _ended(error))
        else:
            _call_in(loop, settle, result, None)

    threading.Thread(target=work, name="herald-token", daemon=True).start()
    return await outcome


def _ended(error: BaseException) -> Exception:
    return RuntimeError(f"The token function ended with {error!r}.")


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    """In a loop that may be closed by now."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)


def _cancel_soon(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    _call_in(loop, task.cancel)


def _serve(loop: asyncio.AbstractEventLoop, runner: Runner, stop: asyncio.Event) -> None:
    """The thread of a synchronous subscription."""

    async def serve() -> None:
        work = {asyncio.create_task(runner.run()), asyncio.create_task(stop.wait())}
        _, rest = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.wait(work)

    with asyncio.Runner(loop_factory=lambda: loop) as loop_runner:
        loop_runner.run(serve())


def _stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, thread: threading.Thread) -> None:
    _call_in(loop, stop.set)
    if thread is not threading.current_thread():
        thread.join(_STOP_SECONDS)
