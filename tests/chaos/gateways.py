"""Gateways that are killed, told to stop, stopped, blocked, or starved."""

from __future__ import annotations

import asyncio
import resource
import signal
from pathlib import Path

from tests.chaos.world import CALM, CALM_SILENCE, Scenario, World
from tests.harness.process import Herald


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
