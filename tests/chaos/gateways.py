"""Gateways that are killed, told to stop, stopped, blocked, or starved."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from datetime import datetime
from pathlib import Path

from tests.chaos import skewed
from tests.chaos.world import CALM, CALM_SILENCE, PATIENCE, Scenario, World
from tests.harness.process import Herald, mint


async def _killed(world: World) -> None:
    for number in range(world.scale.repeats):
        node = world.nodes[number % len(world.nodes)]
        node.kill()
        await world.go_on()
        await asyncio.to_thread(node.restart)
        await world.go_on()


async def _rolling_restart(world: World) -> None:
    for node in world.nodes:
        node.signal(signal.SIGTERM)
        status = await asyncio.to_thread(node.process.wait, 60)
        assert status == 0, f"a drained gateway ended with {status}"
        await asyncio.to_thread(node.restart)
        await world.go_on()


async def _stopped(world: World) -> None:
    for node in world.nodes[: world.scale.repeats]:
        node.signal(signal.SIGSTOP)
        try:
            # Until its clients have gone elsewhere, or almost.
            await world.hold(3.0)
        finally:
            node.signal(signal.SIGCONT)
        await world.go_on()


async def _blocked(world: World) -> None:
    """See `blockable`: the signal's handler sleeps in the event loop's thread."""
    for _ in range(world.scale.repeats):
        for node in world.nodes:
            node.signal(signal.SIGUSR2)
        await world.hold()
        await world.go_on()


async def _out_of_descriptors(world: World) -> None:
    for node in world.nodes:
        used = len(list(Path(f"/proc/{node.process.pid}/fd").iterdir()))
        _limit(node, resource.RLIMIT_NOFILE, used + 2)
    # Those that come now are not let in, those that are in hear everything.
    for subscriber in world.subscribers[:3]:
        subscriber.break_off()
    newcomers = [world.subscribe(f"new{n}") for n in range(10)]
    await world.go_on()
    await world.hold()
    for node in world.nodes:
        _limit(node, resource.RLIMIT_NOFILE, 1 << 16)
    await world.connected(newcomers)


async def _out_of_memory(world: World) -> None:
    """A limit of the address space, as far as a process can be told so from outside.

    What it then does is its own: it may fail requests, close connections, or end.
    """
    limited = world.nodes[0]
    statm = Path(f"/proc/{limited.process.pid}/statm").read_text().split()
    _limit(limited, resource.RLIMIT_AS, int(statm[0]) * resource.getpagesize())
    for publisher in world.publishers:
        publisher.padding = "x" * 50_000
    newcomers = [world.subscribe(f"new{n}") for n in range(world.scale.users)]
    await world.go_on(60)
    await world.hold()
    for publisher in world.publishers:
        publisher.padding = ""
    if limited.process.poll() is None:
        _limit(limited, resource.RLIMIT_AS, resource.RLIM_INFINITY)
    else:
        await asyncio.to_thread(limited.restart)
    await world.connected(newcomers)


async def _wrong_clocks(world: World) -> None:
    """One gateway five minutes ahead, one as much behind, then the other way round.

    The subscribers' tokens live for an hour. What has less to live than the clock is ahead is
    refused there, and only there.
    """
    for _ in range(world.scale.repeats):
        for ahead, behind in (world.nodes, world.nodes[::-1]):
            await _put_clock(ahead, skewed.AHEAD, 300.0)
            await _put_clock(behind, skewed.BEHIND, -300.0)
            await world.go_on()
            statuses = [await asyncio.to_thread(_token_of_a_minute, n) for n in (ahead, behind)]
            assert statuses == [401, 200]
            for subscriber in world.subscribers[::2]:
                subscriber.welcomed.clear()
                subscriber.break_off()
            await world.connected()
            await world.hold()  # the clocks of those who stay are looked at, at their pings
            await world.go_on()
    for node in world.nodes:
        await _put_clock(node, skewed.RIGHT, 0.0)
    ends = {end for subscriber in world.subscribers for end in subscriber.book.closes}
    assert not ends & {"3000", "401"}, ends


async def _put_clock(node: Herald, which: signal.Signals, ahead: float) -> None:
    """Returns once what the gateway accepts has that time, more or less."""
    node.signal(which)
    channel = "topic:clock"

    def stands() -> bool:
        before = node.publish(channel)["positions"][channel]
        epoch, _, seq = before.partition("-")
        answer = node.get(f"/v1/channels/{channel}/events", after=f"{epoch}-{int(seq) - 1}")
        accepted = datetime.fromisoformat(answer.json()["events"][0]["time"])
        return abs(accepted.timestamp() - time.time() - ahead) < 60.0

    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(stands):
            await asyncio.sleep(0.05)


def _token_of_a_minute(node: Herald) -> int:
    """The status with which a stream is opened with it."""
    headers = {"authorization": f"Bearer {mint('u0', ttl=60.0)}"}
    with node.http.stream("GET", "/v1/stream", headers=headers) as answer:
        return answer.status_code


def _limit(node: Herald, what: int, soft: int) -> None:
    _, hard = resource.prlimit(node.process.pid, what)
    most = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.prlimit(node.process.pid, what, (most, hard))


SCENARIOS = (
    Scenario(
        "gateway killed",
        "`kill -9` of a gateway, started again after a while",
        _killed,
    ),
    Scenario(
        "rolling restart",
        "SIGTERM to each of three gateways in turn, drained and started again",
        _rolling_restart,
        nodes=3,
        size=lambda scale: scale.fleet,
        settings=CALM,
        silence=CALM_SILENCE,
    ),
    Scenario(
        "gateway stopped",
        "SIGSTOP of a gateway, SIGCONT later",
        _stopped,
    ),
    Scenario(
        "event loop blocked",
        "the event loop of all gateways stands still for 3 s",
        _blocked,
        module="tests.chaos.blockable",
    ),
    Scenario(
        "wrong clocks",
        "the wall clock of one gateway 5 min ahead, of another 5 min behind, and exchanged",
        _wrong_clocks,
        module="tests.chaos.skewed",
    ),
    Scenario(
        "out of file descriptors",
        "RLIMIT_NOFILE of all gateways lowered to what they use and two more",
        _out_of_descriptors,
    ),
    Scenario(
        "out of memory",
        "RLIMIT_AS of a gateway lowered to what it has, with events of 50 kB",
        _out_of_memory,
        breaks=True,
    ),
)
