"""Runs a `ClientProtocol` over real sockets, in an event loop: the only I/O of receiving."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import ssl as _ssl
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from herald_client.errors import ConnectionRefused, LoggedOut, SubscriptionEnded, TokenRefused
from herald_client.events import Gap, Loads, read_event
from herald_client.inbox import Inbox, Item, Moved
from herald_client.position import BEGINNING
from herald_client.protocol import PONG, Actions, ClientProtocol, Message, State, Why

logger = logging.getLogger("herald_client")

_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_SUBPROTOCOL = Subprotocol("herald.v1")
_CLOSE_SECONDS = 5.0
_TOKEN_SECONDS = 30.0
_LOST = 1006
_AT_ONCE = 4000
"""As the server says where the next attempt needs no pause."""
_ANEW = "left for another position"


@dataclass(frozen=True, slots=True)
class Status:
    """How a subscription is doing.

    Attributes:
        state: connecting, live, waiting or closed.
        code: in `waiting` and `closed`, the close code of the last connection; 1006: none came.
        reason: and why it ended, in words.
        retry_in: in `waiting`, seconds until the next attempt.
    """

    state: State
    code: int | None = None
    reason: str = ""
    retry_in: float | None = None


@dataclass(frozen=True, slots=True)
class ServerError:
    """Something was refused; the subscription goes on without it.

    Attributes:
        code: a word, as `forbidden`; docs/protocol.md has them all.
        message: the server's words.
        channel: which channel it is about, or None.
    """

    code: str
    message: str
    channel: str | None


AskToken = Callable[[], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """What a runner needs beside the protocol and the inbox.

    `refreshes`: asking for a token again gives another one.
    """

    url: str
    ask_token: AskToken
    refreshes: bool
    on_state: Callable[[Status], None] | None
    on_error: Callable[[ServerError], None] | None
    loads: Loads
    ssl: _ssl.SSLContext
    headers: Mapping[str, str] = field(repr=False)
    open_timeout: float


class _Connect(connect):
    """Follows no redirects, as no browser does: the token is for the host that was named."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class Runner:
    """One subscription: connects, reads, waits and connects again, until it is cancelled or closed.

    Everything here happens in the loop that runs `run`.
    """

    def __init__(self, protocol: ClientProtocol, inbox: Inbox, options: RunnerOptions) -> None:
        self._protocol = protocol
        self._inbox = inbox
        self._options = options
        self._socket: ClientConnection | None = None
        self._room = asyncio.Event()
        self._chores: set[asyncio.Task[None]] = set()  # of the connection that is open
        self._refresh: asyncio.Task[None] | None = None
        self._asking = False
        self._pause = 0.0
        self._heard = 0.0
        self._live_since: float | None = None
        self._told: State | None = None

    def made_room(self) -> None:
        """The inbox has room again."""
        self._room.set()

    async def run(self) -> None:
        """Until the protocol is closed; the inbox is told how it ended."""
        error: BaseException | None = None
        try:
            await self._run()
            error = _ending(self._protocol)
        except asyncio.CancelledError:
            self._protocol.close()
            raise
        except Exception as mishap:  # of the application's functions, or ours: it must be seen
            error = mishap
        finally:
            await _cancel(self._refresh)
            self._inbox.end(error)
            self._tell()

    async def subscribe(self, topic: str, position: str | None) -> None:
        """Want a topic; from another position than this connection's on a connection anew."""
        socket = self._socket if position is not None and self._protocol.knows(topic) else None
        await self._apply(self._protocol.subscribe(topic, position))
        if socket is not None and socket is self._socket:
            self._socket = None
            await self._apply(self._protocol.lost(_AT_ONCE, _ANEW, self._lasted()))
            socket.transport.abort()

    async def unsubscribe(self, topic: str) -> None:
        """Want it no more."""
        await self._apply(self._protocol.unsubscribe(topic))

    async def _run(self) -> None:
        self._tell()
        while self._protocol.state is not State.CLOSED:
            if self._protocol.state is State.WAITING:
                await asyncio.sleep(self._pause)
            if self._protocol.token_wanted:
                if self._asking and self._refresh is not None:
                    await asyncio.wait([self._refresh])  # it was being asked for already
                else:
                    await self._ask_token()
                continue
            await self._apply(self._protocol.retry())
            await self._attempt()

    # One connection

    async def _attempt(self) -> None:
        options = self._options
        secure = options.url.startswith("wss:")
        try:
            socket = await _Connect(
                options.url,
                subprotocols=[_SUBPROTOCOL],
                compression=None,
                additional_headers=options.headers,
                open_timeout=options.open_timeout,
                close_timeout=_CLOSE_SECONDS,
                # Herald's own heartbeat tells dead connections; and a consumer that is slow for
                # long pauses reading, which would look like a missing pong.
                ping_interval=None,
                max_size=None,
                ssl=options.ssl if secure else None,
            )
        except (OSError, EOFError, WebSocketException) as error:
            reason = f"cannot connect: {error or type(error).__name__}"
            if isinstance(error, InvalidStatus) and error.response.status_code == 404:
                reason += "; is the URL right?"
            logger.warning("%s", reason)
            await self._apply(self._protocol.lost(_LOST, reason, 0.0))
            return
        try:
            try:
                await self._converse(socket)
            finally:
                await self._hang_up(socket)
        finally:
            # Should the loop end before the server has answered our goodbye.
            socket.transport.abort()

    async def _hang_up(self, socket: ClientConnection) -> None:
        self._socket = None
        for chore in list(self._chores):
            await _cancel(chore)
        if not self._asking:  # a token that is on its way is for the next connection
            await _cancel(self._refresh)
        # What is still on its way stands before the server's goodbye.
        rest = asyncio.create_task(_pass_over(socket))
        try:
            await socket.close()
        finally:
            rest.cancel()

    async def _converse(self, socket: ClientConnection) -> None:
        if socket.subprotocol != _SUBPROTOCOL:
            reason = "the server does not speak herald.v1; is the URL right?"
            await self._apply(self._protocol.lost(_LOST, reason, 0.0))
            return
        clock = asyncio.get_running_loop().time
        self._socket = socket
        self._heard = clock()
        self._live_since = None
        watch = self._chore(self._watch(socket))
        try:
            await self._apply(self._protocol.opened())
            while True:
                text = await socket.recv()
                if self._socket is not socket:
                    return  # it was left: what it says stands behind another position
                self._heard = clock()
                try:
                    item, actions = self._read(text)
                except _UNREADABLE as error:
                    logger.warning("the server sent what cannot be read: %r", error)
                    code, reason = _LOST, "a message that cannot be read"
                    break
                if self._live_since is None and self._protocol.state is State.LIVE:
                    self._live_since = clock()
                    await _cancel(watch)  # the heartbeat is known now
                    self._chore(self._watch(socket))
                await self._apply(actions, item)
        except ConnectionClosed as closed:
            code = _LOST if closed.rcvd is None else closed.rcvd.code
            reason = "connection lost" if closed.rcvd is None else closed.rcvd.reason
        if self._socket is not None:  # else it was dropped, and counts as lost already
            await self._apply(self._protocol.lost(code, reason, self._lasted()))

    def _lasted(self) -> float:
        since = self._live_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    def _read(self, text: str | bytes) -> tuple[Item | None, Actions]:
        item: Item | None = None
        try:
            message: Message = self._options.loads(text)
            match message.get("type"):
                # Read before the protocol holds its position: what cannot be read is not held.
                case "event":
                    item = read_event(message["channel"], message)
                case "gap":
                    item = Gap(message["channel"], message["from"], message["to"])
        except _UNREADABLE as error:
            message, item = self._read_around(text, error)
        return item, self._protocol.receive(message, time.time())

    def _read_around(self, text: str | bytes, error: Exception) -> tuple[Message, Gap]:
        """What to take an event for whose data cannot be read, as a number of 5,000 digits.

        It would come again and again, and nothing behind it ever. So it is missed, and told.
        """
        message: Message = json.loads(text, parse_int=str)
        if message.get("type") != "event":
            raise error
        channel, position = message["channel"], message["id"]
        after = self._protocol.positions.get(channel, BEGINNING)
        logger.warning("the event %s of %s cannot be read: %r", position, channel, error)
        return message, Gap(channel, after, position)

    async def _watch(self, socket: ClientConnection) -> None:
        """Drop a connection on which nothing is heard."""
        clock = asyncio.get_running_loop().time
        while True:
            patience = 2 * self._protocol.heartbeat
            silent = clock() - self._heard
            if self._inbox.is_full:
                # We do not listen, so nothing can be heard. A sign of life of ours keeps the
                # server from taking us for dead until the application has caught up.
                self._heard = clock()
                await self._send([PONG])
            elif silent >= patience:
                self._socket = None
                await self._apply(self._protocol.silent_for(silent))
                socket.transport.abort()
                return
            due = self._heard + patience - clock()
            await asyncio.sleep(max(0.0, min(due, self._protocol.heartbeat)))

    # What the protocol wants

    async def _apply(self, actions: Actions, item: Item | None = None) -> None:
        self._plan(actions)
        self._tell()
        for message in actions.errors:
            self._report(message)
        await self._send(actions.sends)
        if actions.joined or actions.left:
            self._inbox.put(Moved(actions.joined, actions.left))
        if item is not None and (actions.events or actions.gaps):
            while self._inbox.is_full:
                self._room.clear()
                await self._room.wait()
                self._heard = asyncio.get_running_loop().time()
            self._inbox.put(item)

    def _plan(self, actions: Actions) -> None:
        if actions.wait is not None:
            pause = random.uniform(*actions.wait)
            if self._protocol.state is State.LIVE:
                self._chore(self._subscribe_again(pause))
            else:
                self._pause = pause
        if actions.refresh_in is not None and self._options.refreshes and not self._asking:
            if self._refresh is not None and self._refresh is not asyncio.current_task():
                self._refresh.cancel()
            self._refresh = asyncio.create_task(self._refresh_token(actions.refresh_in))

    async def _subscribe_again(self, pause: float) -> None:
        await asyncio.sleep(pause)
        await self._apply(self._protocol.retry())

    async def _refresh_token(self, pause: float) -> None:
        await asyncio.sleep(pause)
        if self._protocol.refresh_due().asks_token:
            await self._ask_token()

    async def _ask_token(self) -> None:
        self._asking = True
        try:
            token = await self._token_in_time()
        except (Exception, asyncio.CancelledError) as error:
            # What it waited for may have been cancelled, which is not to end us in silence.
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            logger.warning("asking for a token failed", exc_info=True)
            actions = self._protocol.token_failed(time.time())
        else:
            actions = self._protocol.token(token)
        finally:
            self._asking = False
        await self._apply(actions)
        if self._protocol.state is State.CLOSED and self._socket is not None:
            await self._socket.close()

    async def _token_in_time(self) -> str | None:
        try:
            async with asyncio.timeout(_TOKEN_SECONDS) as limit:
                return await self._options.ask_token()
        except TimeoutError:
            if not limit.expired():  # it is the application's own
                raise
            raise TimeoutError(f"no token came within {_TOKEN_SECONDS:g} seconds") from None

    async def _send(self, messages: Any) -> None:
        for message in messages:
            if self._socket is None:
                return
            with contextlib.suppress(ConnectionClosed):  # the reader will see it
                await self._socket.send(json.dumps(message))

    def _report(self, message: Message) -> None:
        error = ServerError(message["code"], message.get("message", ""), message.get("channel"))
        if self._options.on_error is None:
            logger.warning("the server refused: %s: %s", error.code, error.message)
        else:
            _tell_application(self._options.on_error, error)

    def _tell(self) -> None:
        protocol = self._protocol
        if protocol.state is self._told:
            return
        self._told = protocol.state
        if self._options.on_state is None:
            return
        match protocol.state:
            case State.WAITING:
                status = Status(protocol.state, protocol.code, protocol.reason, self._pause)
            case State.CLOSED if protocol.why is not Why.DONE:
                status = Status(protocol.state, protocol.code, protocol.reason)
            case _:
                status = Status(protocol.state)
        _tell_application(self._options.on_state, status)

    def _chore(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
        return task


def _tell_application(function: Callable[[Any], None], news: Any) -> None:
    try:
        function(news)
    except Exception:
        logger.exception("a function of the application's failed on %r", news)


def _ending(protocol: ClientProtocol) -> SubscriptionEnded | None:
    match protocol.why:
        case Why.REFUSED:
            return ConnectionRefused(protocol.code, protocol.reason)
        case Why.UNAUTHORIZED:
            return TokenRefused(protocol.reason)
        case Why.LOGGED_OUT:
            return LoggedOut()
    return None


async def _pass_over(socket: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await socket.recv()


async def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None and not task.done() and task is not asyncio.current_task():
        task.cancel()
        await asyncio.wait([task])
