"""`herald listen`: a client that resumes and reconnects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from websockets.asyncio.client import connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
)
from websockets.typing import Subprotocol

from service.cli.environment import base_url, settings
from service.cli.token import mint
from service.core.backoff import full_jitter
from service.core.channel import parse_channel, topic_channel
from service.core.close import Advice, advice_for
from service.core.errors import InvalidChannel, InvalidPosition
from service.core.position import BEGINNING, Position, parse_position

_STABLE_SECONDS = 5.0
"""A connection that lasted so long starts the backoff anew."""


def listen(
    user: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Whose events; a token is made from HERALD_JWT_SECRET."),
    ] = None,
    token: Annotated[
        str | None, typer.Option(metavar="JWT", help="A ready token, instead of --user.")
    ] = None,
    topic: Annotated[
        list[str], typer.Option(metavar="NAME", help="A topic to subscribe to; repeatable.")
    ] = [],  # noqa: B006
    since: Annotated[
        list[str],
        typer.Option(metavar="CHANNEL@POSITION", help="Where to resume from; repeatable."),
    ] = [],  # noqa: B006
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where Herald is; unset: HERALD_URL, or the settings."),
    ] = None,
    count: Annotated[
        int, typer.Option(min=0, metavar="N", help="Stop after so many events; 0: never.")
    ] = 0,
) -> None:
    """Print a user's events, one JSON object a line; everything else goes to standard error.

    A lost connection is opened again and resumed: no event is missed or printed twice. Where
    events may be missing all the same, a line {"type":"gap",…} is printed.
    """
    if (user is None) == (token is None):
        raise typer.BadParameter("give either --user or --token")
    if token is None:
        assert user is not None
        token = mint(settings(), user, topic, 86400.0)
    positions: dict[str, Position] = {}
    try:
        for name in topic:
            topic_channel(name)
        for text in since:
            channel, at, position = text.rpartition("@")
            if not at:
                raise typer.BadParameter(
                    f"--since is CHANNEL@POSITION, as user:alice@0-0; this is {text!r}"
                )
            positions[parse_channel(channel)] = parse_position(position)
    except (InvalidChannel, InvalidPosition) as error:
        raise typer.BadParameter(str(error)) from None
    address = base_url(url, api=False)
    if address.startswith("http"):
        address = "ws" + address.removeprefix("http")
    if not address.endswith("/v1/ws"):
        address += "/v1/ws"
    listener = Listener(address, token, topic, count, positions)
    with contextlib.suppress(KeyboardInterrupt):
        raise typer.Exit(asyncio.run(listener.run()))


@dataclass
class Listener:
    """Keeps a connection open and prints what arrives, each event once and in order."""

    url: str
    token: str
    topics: list[str]
    count: int
    positions: dict[str, Position] = field(default_factory=dict)
    seen: int = 0

    async def run(self) -> int:
        """Listen until it makes no sense any more; gives back the exit status."""
        attempt = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                advice = await self._listen_once()
            except (OSError, InvalidHandshake, InvalidMessage, TimeoutError) as error:
                _say(f"cannot connect to {self.url}: {_reason(error)}")
                advice = Advice.RECONNECT_WITH_BACKOFF
            if self.count and self.seen >= self.count:
                return 0
            if advice in (Advice.STAY_AWAY, Advice.RECONNECT_WITH_NEW_TOKEN):
                return 1
            if loop.time() - began > _STABLE_SECONDS:
                attempt = 0
            if advice is Advice.RECONNECT_WITH_BACKOFF:
                await asyncio.sleep(full_jitter(attempt, random.random(), base=0.25, cap=15.0))
                attempt += 1

    async def _listen_once(self) -> Advice:
        after_ms = 0
        async with connect(
            self.url, subprotocols=[Subprotocol("herald.v1")], compression=None, max_size=None
        ) as socket:
            try:
                # The server may have closed before this: it is away from its engine, or full.
                await socket.send(
                    json.dumps(
                        {
                            "type": "connect",
                            "token": self.token,
                            "topics": self.topics,
                            "positions": {name: str(at) for name, at in self.positions.items()},
                        }
                    )
                )
                while True:
                    text = await socket.recv()
                    message = json.loads(text)
                    if message["type"] == "ping":
                        await socket.send('{"type":"pong"}')
                    elif message["type"] == "reconnect":
                        after_ms = message["after_ms"]
                    else:
                        self._take(message, text)
                    if self.count and self.seen >= self.count:
                        return Advice.STAY_AWAY
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd is not None else 1006
                reason = closed.rcvd.reason if closed.rcvd is not None else "connection lost"
                _say(f"closed: {code} {reason}")
                await asyncio.sleep(after_ms / 1000)
                return advice_for(code)

    def _take(self, message: dict[str, Any], text: str | bytes) -> None:
        match message["type"]:
            case "event":
                channel, position = message["channel"], parse_position(message["id"])
                last = self.positions.get(channel)
                if last is None or position > last:
                    self.positions[channel] = position
                    self.seen += 1
                    _print(text)
            case "gap":
                self.positions[message["channel"]] = parse_position(message["to"])
                _print(text)
            case "welcome":
                for channel, joined in message["channels"].items():
                    if self.positions.get(channel, BEGINNING) == BEGINNING:
                        self.positions[channel] = parse_position(joined["position"])
                _say(f"connected as {message['user']} to {', '.join(message['channels'])}")
            case "error":
                _say(f"{message['code']}: {message['message']}")


def _reason(error: Exception) -> str:
    """Why there is no connection, in the server's own words where it gave some."""
    text = str(error) or type(error).__name__
    if isinstance(error, InvalidStatus):
        try:
            detail = json.loads(error.response.body or b"")["detail"]
        except (ValueError, TypeError, KeyError):
            return text
        text = f"HTTP {error.response.status_code}: {detail}"
    return text


def _print(text: str | bytes) -> None:
    line = text.decode() if isinstance(text, bytes) else text
    # White space in the publisher's data may hold line ends; none can be inside a JSON text.
    print(line.replace("\r", " ").replace("\n", " "), flush=True)


def _say(text: str) -> None:
    print(f"herald: {text}", file=sys.stderr, flush=True)
