"""Publishers and subscribers that go on whatever breaks, and write down what they see."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from tests.chaos.books import (
    Event,
    Gap,
    Joined,
    Position,
    PublisherBook,
    SubscriberBook,
    read_position,
)
from tests.chaos.wire import ClientConnection, ClientSocket, ClientStream, HttpClient

_STAY_AWAY = {"1000", "1002", "1003", "1007", "1008", "1009", "3003", "400", "403"}
"""Ends that tell a client that it did something wrong; ours do not. Likewise 41xx."""
_OPEN_SECONDS = 10.0


Ports = Callable[[], Sequence[int]]
"""Where a gateway may be at the moment; some may be down."""


class Publisher:
    """Publishes to channels of its own, one event after the other, each until it has its 202."""

    def __init__(
        self, ports: Ports, key: str, channels: Sequence[str], pause: float, chance: random.Random
    ) -> None:
        self.book = PublisherBook()
        self.padding = ""
        """Goes into every event: what makes it larger."""
        self.channels = channels
        self._ports = ports
        self._key = key
        self._pause = pause
        self._chance = chance
        self._numbers = dict.fromkeys(channels, 0)
        self._run = secrets.token_hex(4)

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop; the last event is still repeated for a while."""
        http = HttpClient(self._key, timeout=5.0)
        try:
            while not stop.is_set():
                channel = self._chance.choice(self.channels)
                self._numbers[channel] += 1
                await self._publish(http, channel, self._numbers[channel], stop)
                await asyncio.sleep(self._pause * 2 * self._chance.random())
        finally:
            http.close()

    async def publish_to(self, channels: Sequence[str]) -> None:
        """One more event to each; returns once all are accepted."""
        http = HttpClient(self._key, timeout=5.0)
        for channel in channels:
            self._numbers[channel] += 1
            await self._publish(http, channel, self._numbers[channel], asyncio.Event())
        http.close()

    async def _publish(
        self, http: HttpClient, channel: str, number: int, stop: asyncio.Event
    ) -> None:
        body = {
            "to": channel,
            "type": "chaos",
            "data": {"n": number, "padding": self.padding},
            "id": f"{self._run}-{channel}-{number}",
        }
        patience = 200  # tries after the stop: the world is whole again by then
        while patience:
            patience -= stop.is_set()
            self.book.attempts += 1
            try:
                ports = self._ports()
                status, answer = await http.post(self._chance.choice(ports), "/v1/events", body)
            except OSError as error:
                self.book.failures[str(error)] += 1
            else:
                if status == 202:
                    self.book.accept(channel, answer["positions"][channel], number)
                    return
                self.book.failures[str(status)] += 1
                if status not in (429, 503):
                    raise AssertionError(f"a publisher was answered {status}: {answer}")
            await asyncio.sleep(0.05 + 0.1 * self._chance.random())
        self.book.abandoned += 1


class Subscriber:
    """Listens as a good client does: resumes, obeys close codes, notices a dead server.

    This one has a WebSocket; see also `StreamSubscriber`.
    """

    def __init__(
        self,
        name: str,
        ports: Ports,
        token: Callable[[], str],
        topics: Sequence[str],
        silence: float,
        chance: random.Random,
    ) -> None:
        self.book = SubscriberBook(name)
        self.positions: dict[str, str] = {}
        self.stalled = False
        """Set: it reads nothing more, until `resume_reading`."""
        self._ports = ports
        self._token = token
        self._topics = list(topics)
        self._silence = silence
        self._chance = chance
        self._at: dict[str, Position] = {}
        self._socket: ClientConnection | None = None
        self._told_to_wait = 0.0  # seconds, by `reconnect`
        self._present = asyncio.Event()
        self._present.set()
        self.welcomed = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether it has its welcome, and no end yet."""
        return self._socket is not None and self.welcomed.is_set()

    def begin_at(self, positions: Mapping[str, str]) -> None:
        """Go on from there, as another client would that was told these positions."""
        for channel, text in positions.items():
            position = read_position(text)
            self.book.write(channel, Joined(position))
            self._move(channel, text, position)

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop."""
        failures = 0
        while not stop.is_set():
            self.welcomed.clear()
            if not self._present.is_set():
                await _first(self._present, stop)
                continue
            ended = await self._listen(stop)
            self.book.closes[ended] += 1
            if (ended in _STAY_AWAY or ended.startswith("41")) and not stop.is_set():
                self.book.complaints.append(f"was told to stay away with {ended}")
                return
            failures = 0 if self.welcomed.is_set() else failures + 1
            if not stop.is_set():
                most = min(0.5, 0.05 * 2 ** min(failures, 4))
                pause, self._told_to_wait = self._told_to_wait, 0.0
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause + most * self._chance.random())

    def break_off(self) -> None:
        """Lose the connection, as a laptop that is closed."""
        if self._socket is not None:
            self._socket.abort()

    def leave(self) -> None:
        """Break off, and stay away until `come_back`."""
        self._present.clear()
        self.welcomed.clear()
        self.break_off()

    def come_back(self) -> None:
        """Resume from where it was."""
        self._present.set()

    def stall(self) -> None:
        """Stop reading."""
        self.stalled = True
        if self._socket is not None:
            self._socket.stop_reading()

    def resume_reading(self) -> None:
        """The process goes on: what was buffered is read, then the end is seen."""
        self.stalled = False
        socket = self._socket
        if socket is not None and socket.transport is not None:
            socket.heard_at = asyncio.get_running_loop().time()
            if not socket.transport.is_closing():
                socket.transport.resume_reading()

    async def _listen(self, stop: asyncio.Event) -> str:
        loop = asyncio.get_running_loop()
        ports = self._ports()
        if not ports:
            return "nowhere"
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                _, socket = await loop.create_connection(
                    self._connection, "127.0.0.1", self._chance.choice(ports)
                )
        except OSError:
            return "unreachable"
        self.book.connections += 1
        self._socket = socket
        if not self._present.is_set():
            socket.abort()  # it left on the way
        stopping = asyncio.ensure_future(stop.wait())
        either: set[asyncio.Future[Any]] = {socket.ended, stopping}
        try:
            while not socket.ended.done() and not stop.is_set():
                await asyncio.wait(either, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
                quiet = loop.time() - socket.heard_at
                if quiet > self._silence and not self.stalled and not socket.ended.done():
                    socket.abort()
                    return "silent"
            return socket.ended.result() if socket.ended.done() else "stopped"
        finally:
            stopping.cancel()
            socket.abort()
            self._socket = None

    def _connection(self) -> ClientConnection:
        connect = {
            "type": "connect",
            "token": self._token(),
            "positions": dict(self.positions),
            "topics": self._topics,
        }
        return ClientSocket(connect, self._take)

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "event":
            self._event(message)
        elif kind == "welcome":
            self.welcomed.set()
            for channel, joined in message["channels"].items():
                if channel not in self.positions:
                    position = read_position(joined["position"])
                    self.book.write(channel, Joined(position))
                    self._move(channel, joined["position"], position)
        elif kind == "gap":
            channel, to = message["channel"], read_position(message["to"])
            self.book.write(channel, Gap(read_position(message["from"]), to))
            self._move(channel, message["to"], to)
        elif kind == "reconnect":
            self._told_to_wait = message["after_ms"] / 1000
        elif kind == "error":
            self.book.complaints.append(f"error {message['code']}: {message['message']}")

    def _event(self, message: dict[str, Any]) -> None:
        channel, position = message["channel"], read_position(message["id"])
        self.book.received += 1
        self.book.write(channel, Event(position, message["data"]["n"]))
        if position > self._at.get(channel, (0, 0)):
            self._move(channel, message["id"], position)

    def _move(self, channel: str, text: str, position: Position) -> None:
        self.positions[channel] = text
        self._at[channel] = position


class StreamSubscriber(Subscriber):
    """Listens to server-sent events, and resumes as a browser does: with the last id alone.

    Each id must say where everything that was told has brought it, channel by channel.
    """

    _last_id: str | None = None

    def _connection(self) -> ClientConnection:
        query = "topics=" + ",".join(self._topics)
        if self._last_id is None:
            for channel, position in self.positions.items():
                query += "&since=" + quote(f"{channel}@{position}")
        return ClientStream(f"/v1/stream?{query}", self._token(), self._last_id, self._hear)

    def _hear(self, message: dict[str, Any], last_id: str) -> None:
        self._take(message)
        if message["type"] == "welcome":
            for channel, joined in message["channels"].items():
                if joined["recovered"] and self.positions[channel] == "0-0":
                    # Who asks for everything is told where that begins, and goes on from there.
                    position = read_position(joined["position"])
                    self._move(channel, joined["position"], position)
        self._last_id = last_id
        for place in last_id.split(","):
            name, _, there = place.rpartition("@")
            channel = unquote(name)
            if self.positions.get(channel) != there:
                self.book.complaints.append(
                    f"an id has {channel} at {there}, after {message} "
                    f"it is at {self.positions.get(channel)}"
                )


async def _first(*events: asyncio.Event) -> None:
    """Until one of them is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiting:
            waiter.cancel()
