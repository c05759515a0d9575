"""The honest users of a Herald under attack, and what the attack costs them and the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.harness.process import KEY, PATIENCE, Client, Herald, mint, open_herald, open_plain

ROOT = Path(__file__).parents[2]
PAUSE = 0.02
"""Seconds between two events."""


class People:
    """Three who listen and one who publishes to them, an event at a time, on one connection."""

    def __init__(self, herald: Herald, user: str) -> None:
        self.herald = herald
        self.user = user
        self.sent: list[float] = []
        """When each event was sent; its number is its place."""
        self.latencies: list[float] = []
        """In the order of arrival, of all listeners; see `measured_from`."""
        self.newcomers = 0
        self._heard: list[list[int]] = []
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def come(self) -> None:
        for client in (
            await open_plain(self.herald, token=mint(self.user)),
            await open_herald(self.herald, token=mint(self.user)),
            await open_herald(self.herald, token=mint(self.user)),
        ):
            await client.expect("welcome")
            heard: list[int] = []
            self._heard.append(heard)
            self._tasks.append(asyncio.create_task(self._listen(client, heard)))
        self._tasks.append(asyncio.create_task(self._publish()))

    async def _listen(self, client: Client, heard: list[int]) -> None:
        try:
            while not (self._stop.is_set() and len(heard) == len(self.sent)):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):  # to look whether that was all
                        message = json.loads(await client.socket.recv())
                        if message["type"] != "ping":
                            assert message["type"] == "event", message
                            self.latencies.append(time.perf_counter() - self.sent[message["data"]])
                            heard.append(message["data"])
        finally:
            await client.close()

    async def _publish(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.herald.api_port)
        try:
            while not self._stop.is_set():
                number = len(self.sent)
                event = {
                    "to": f"user:{self.user}",
                    "type": "t",
                    "data": number,
                    "id": f"{self.user}-{number}",
                }
                self.sent.append(time.perf_counter())
                writer.write(_post(event))
                # The engine's link may break; the same id makes it safe to repeat.
                while (status := await _status(reader)) == 503:
                    await asyncio.sleep(PAUSE)
                    writer.write(_post(event))
                assert status == 202
                await asyncio.sleep(PAUSE)
        finally:
            writer.close()

    async def newcomer(self) -> None:
        """One who comes now, is let in, and goes."""
        client = await open_plain(self.herald, token=mint(f"{self.user}-new"))
        await client.expect("welcome")
        await client.close()
        self.newcomers += 1

    def check(self) -> None:
        """Nobody has failed so far."""
        for task in self._tasks:
            if task.done():
                task.result()
                raise AssertionError("one of the people went before the end")

    async def measure(self, seconds: float, least: int = 20) -> list[float]:
        """The latencies from now on, for so long, and until there are so many."""
        begun, since = time.monotonic(), len(self.latencies)
        deadline = begun + seconds + PATIENCE
        while time.monotonic() < begun + seconds or len(self.latencies) < since + least:
            assert time.monotonic() < deadline, "events do not come any more"
            self.check()
            await asyncio.sleep(0.05)
        return self.latencies[since:]

    async def go(self) -> None:
        """All have heard everything, in order, once."""
        self.check()
        self._stop.set()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self._tasks)
        for heard in self._heard:
            assert heard == list(range(len(self.sent)))

    async def give_up(self) -> None:
        """After a failure."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _post(event: dict[str, Any]) -> bytes:
    body = json.dumps(event).encode()
    return (
        b"POST /v1/events HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (KEY.encode(), len(body), body)
    )


async def _status(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(PATIENCE):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
    return int(head.split(" ")[1])


@contextlib.asynccontextmanager
async def people_of(herald: Herald, user: str) -> AsyncIterator[People]:
    people = People(herald, user)
    try:
        await people.come()
        yield people
    finally:
        await people.give_up()


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of them do not exceed, in milliseconds."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)] * 1000


class Footprint(NamedTuple):
    """What a process has: resident bytes and open files."""

    memory: int
    files: int


def footprint(herald: Herald) -> Footprint:
    process = Path(f"/proc/{herald.process.pid}")
    pages = int((process / "statm").read_text().split()[1])
    return Footprint(pages * 4096, len(list((process / "fd").iterdir())))


class Watch:
    """The most that the process had, looked at a few times a second."""

    def __init__(self, herald: Herald) -> None:
        self.peak = self.before = footprint(herald)
        self._herald = herald

    async def run(self) -> None:
        while True:
            now = await asyncio.to_thread(footprint, self._herald)
            self.peak = Footprint(
                max(self.peak.memory, now.memory), max(self.peak.files, now.files)
            )
            await asyncio.sleep(0.1)

    @property
    def growth(self) -> float:
        """Of memory, in MB."""
        return (self.peak.memory - self.before.memory) / 1e6


@contextlib.asynccontextmanager
async def watching(herald: Herald) -> AsyncIterator[Watch]:
    watch = Watch(herald)
    running = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class Siege:
    """A crowd at work, and how it saw it in the end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.counts: dict[str, int] = {}

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            assert self._process.stdout is not None
            text = await self._process.stdout.read()
            await self._process.wait()
        assert self._process.returncode == 0
        self.counts = json.loads(text)


@contextlib.asynccontextmanager
async def besieged(
    herald: Herald, attack: str, connections: int, seed: int, **more: Any
) -> AsyncIterator[Siege]:
    """A crowd of so many attacks until the end of the block, or until `Siege.end`."""
    plan = {
        "attack": attack,
        "port": herald.port,
        "connections": connections,
        "seed": seed,
        "token": mint("attacker"),
        "key": KEY,
        **more,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.attack.crowd",
        json.dumps(plan),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    siege = Siege(process)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == b"begun\n"
        yield siege
        if process.returncode is None:
            await siege.end()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def is_as_before(herald: Herald, before: Footprint, connections: int) -> Callable[[], bool]:
    """Whether the attack's connections and files have gone, and so many connections are left."""

    def check() -> bool:
        return (
            herald.metrics()["herald_connections"] == connections
            and footprint(herald).files <= before.files
        )

    return check


def troubles_of(herald: Herald) -> list[str]:
    """What the log says at `error` and above, and what is no line of the log's at all."""
    lines = herald.log().splitlines()
    return [
        line
        for line in lines
        if not line.startswith("{") or json.loads(line)["level"] in ("error", "critical")
    ]
