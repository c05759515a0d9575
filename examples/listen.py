"""Herald's events with nothing but the `websockets` library, as docs/protocol.md describes it.

    python examples/listen.py ws://127.0.0.1:8000/v1/ws TOKEN positions.json [topic …]

Prints one JSON object a line. Positions are kept in a file, so that the next run goes on where
this one was killed. `herald_client.subscribe` does all this, and refreshes tokens.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

USAGE = "Usage: python examples/listen.py ws://127.0.0.1:8000/v1/ws TOKEN positions.json [topic …]"
STAY_AWAY = {1000, 1002, 1003, 1007, 1008, 1009, 3000, 3003}
"""Close codes after which the same attempt would end the same way; 3000: with this token."""


def later(position: str, other: str) -> bool:
    """Whether a position comes after another; they are two numbers, never text."""
    epoch, seq = map(int, position.split("-"))
    other_epoch, other_seq = map(int, other.split("-"))
    return (epoch, seq) > (other_epoch, other_seq)


class Listener:
    """Positions per channel, kept in a file."""

    def __init__(self, url: str, token: str, file: Path, topics: list[str]) -> None:
        self.url = url
        self.token = token
        self.file = file
        self.topics = topics
        self.positions: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        self.pause = 0.0

    def store(self, channel: str, position: str) -> None:
        """In one step, so that a crash leaves the old file or the new one."""
        self.positions[channel] = position
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.positions))
        new.replace(self.file)

    def take(self, message: dict[str, Any]) -> None:
        """Deal with what the server says."""
        match message["type"]:
            case "welcome":
                for channel, joined in message["channels"].items():
                    if self.positions.get(channel, "0-0") == "0-0":
                        self.store(channel, joined["position"])
            case "event":
                channel, position = message["channel"], message["id"]
                held = self.positions.get(channel)
                if held is None or later(position, held):
                    print(json.dumps(message), flush=True)  # deal with it, then store
                    self.store(channel, position)
            case "gap":
                print(json.dumps(message), flush=True)  # load your state afresh here
                self.store(message["channel"], message["to"])
            case "reconnect":
                self.pause = message["after_ms"] / 1000
            case "error":
                print(f"{message['code']}: {message['message']}", file=sys.stderr)

    async def listen_once(self) -> None:
        """One connection, until it ends."""
        query = [("since", f"{channel}@{at}") for channel, at in self.positions.items()]
        if self.topics:
            query.append(("topics", ",".join(self.topics)))
        headers = {"Authorization": f"Bearer {self.token}"}
        # The server pings; the library answers by itself, and pings as well.
        async with connect(
            f"{self.url}?{urlencode(query)}", additional_headers=headers, compression=None
        ) as socket:
            while True:
                self.take(json.loads(await socket.recv()))

    async def listen(self) -> int:
        """For ever, or until it makes no sense any more."""
        failures = 0
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            try:
                await self.listen_once()
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else 1006
                if code in STAY_AWAY or 4100 <= code <= 4199:
                    print(f"closed: {closed}", file=sys.stderr)
                    return 1
                if clock() - began > 5.0:
                    failures = 0
            except InvalidStatus as refused:
                status, body = refused.response.status_code, refused.response.body or b""
                print(f"refused: {status} {body.decode(errors='replace')}", file=sys.stderr)
                if status in (400, 401, 403, 404):
                    return 1
            except (OSError, InvalidHandshake) as failure:  # it restarts, or the network is away
                print(f"not connected, trying again: {failure}", file=sys.stderr)
            bound = min(15.0, 0.25 * 2 ** min(failures, 10))  # hours of them would overflow
            failures += 1
            await asyncio.sleep(self.pause + random.uniform(0, bound))
            self.pause = 0.0


def main(arguments: list[str]) -> int:
    """The program; gives back its exit status."""
    match arguments:
        case [url, token, file, *topics] if url.startswith(("ws://", "wss://")):
            return asyncio.run(Listener(url, token, Path(file), topics).listen())
    print(USAGE, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
