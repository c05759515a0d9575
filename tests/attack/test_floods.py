"""Floods and slow connections: the honest are served meanwhile, and nothing of it stays.

Each attack comes from a crowd in a process of its own (`tests/attack/crowd.py`). Before and while
it goes on, three people listen and one publishes to them; their latency is printed, and not judged:
it is the machine's. What must hold is that every event is stored, and reaches each of them once and
in order; that newcomers get in; that memory and descriptors stay within bounds; that the server
ends by itself what a limit says; and that afterwards all is as it was.

    ATTACK_SECONDS=60 ATTACK_CONNECTIONS=2000 pytest -s tests/attack/test_floods.py
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from websockets.exceptions import WebSocketException

from service.broker.embedded import EmbeddedEngine
from tests.attack.people import (
    People,
    Watch,
    besieged,
    footprint,
    is_as_before,
    people_of,
    quantile,
    troubles_of,
    watching,
)
from tests.harness.process import PATIENCE, Herald, clean_environment, eventually

SECONDS = float(os.environ.get("ATTACK_SECONDS", "1"))
CONNECTIONS = int(os.environ.get("ATTACK_CONNECTIONS", "0"))
SEED = int(os.environ.get("ATTACK_SEED", "1"))
GENEROUS = PATIENCE * 1000
"""Milliseconds: later than that nothing may come, on any machine."""


class Attack(NamedTuple):
    """How many attack in the short version; how much memory (MB) they may cost at most, together
    and each; and which ends, given by the server, must be seen after `seconds`."""

    connections: int
    memory: float = 40
    memory_each: float = 0.05
    ended: tuple[str, ...] = ()
    seconds: float = 0
    come_again: bool = False
    """They are ended so soon that there must have been more than those at a time."""
    most: int = 1_000_000
    """More than so many would be an attack on the machine, not on the server."""


ATTACKS = {
    "slow heads": Attack(100, ended=("ended: without a word",), seconds=12),
    "slow bodies": Attack(100, ended=("ended: 408",), seconds=40),
    "long heads": Attack(20, memory_each=1.5, come_again=True, most=200),
    "endless trailers": Attack(4, come_again=True, most=50),
    "silence": Attack(300, ended=("ended: without a word",), seconds=12),
    "idleness": Attack(300, ended=("ended: 404",), seconds=80),
    "half open": Attack(50, ended=("ended: without a word",)),
    "resets": Attack(50, ended=("reset",)),
    "bad handshakes": Attack(50, ended=("ended: 401", "ended: 3000")),
    "bad auths": Attack(10, memory_each=0.5, ended=("bytes read",), most=200),
    "pings": Attack(10, memory_each=0.5, ended=("bytes read",), most=200),
    "unread answers": Attack(20, memory_each=1, ended=("cut off",), seconds=40, most=500),
    "pipelines": Attack(4, memory_each=5, ended=("bytes read",), most=50),
}

_HEAD = "| attack | connections | p50 / p99 before, ms | during, ms | memory, MB | files | seen |"


@pytest.fixture(autouse=True)
def _no_debug_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the servers and crowds that are started: it makes them several times slower."""
    monkeypatch.delenv("PYTHONASYNCIODEBUG", raising=False)


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    rows = [_HEAD, "|---|---|---|---|---|---|---|"]
    yield rows
    print("", *rows, sep="\n")


def _pair(latencies: list[float]) -> str:
    return f"{quantile(latencies, 0.5):.1f} / {quantile(latencies, 0.99):.1f}"


@pytest.mark.parametrize("name", ATTACKS)
async def test_the_honest_are_served_and_nothing_of_the_attack_stays(
    start: Callable[..., Herald], user: str, table: list[str], name: str
) -> None:
    attack = ATTACKS[name]
    connections = min(CONNECTIONS or attack.connections, attack.most)
    herald = start(log_level="info")
    async with people_of(herald, user) as people:
        calm = await people.measure(min(SECONDS, 5.0))
        async with watching(herald) as watch, besieged(herald, name, connections, SEED) as siege:
            busy = await people.measure(SECONDS)
            await people.newcomer()
            await siege.end()
        assert max(busy) * 1000 < GENEROUS
        for seen in attack.ended if attack.seconds < SECONDS else ():
            assert siege.counts.get(seen, 0) > 0, siege.counts
        assert not attack.come_again or siege.counts["opened"] > connections
        _check_bounds(watch, attack, connections)
        await eventually(is_as_before(herald, watch.before, 3), "the attackers have gone")
        await people.go()
    await eventually(is_as_before(herald, watch.before, 0), "all have gone")
    table.append(
        f"| {name} | {connections} | {_pair(calm)} | {_pair(busy)} | +{watch.growth:.0f} "
        f"| {watch.before.files} → {watch.peak.files} | {siege.counts} |"
    )
    # A task that is left would be waited for, and complained about.
    assert herald.stop() == 0
    assert troubles_of(herald) == []


def _check_bounds(watch: Watch, attack: Attack, connections: int) -> None:
    assert watch.growth < attack.memory + connections * attack.memory_each, watch.growth
    # Each attacker holds one; the newcomer, and one whose end has not been seen yet, as many again.
    assert watch.peak.files <= watch.before.files + 2 * connections + 10, watch.peak


class NarrowHerald(Herald):
    """One that may open so few files that a crowd takes them all."""

    FILES = 300

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log_file.open("ab") as output:
            return subprocess.Popen(
                ["sh", "-c", f"ulimit -n {self.FILES}; exec {sys.executable} -m service serve"],
                env=clean_environment(**self.settings),
                stdout=output,
                stderr=subprocess.STDOUT,
            )


async def _gets_in(people: People) -> None:
    """A newcomer that comes again where it had to make room before it could say a word."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await people.newcomer()
        except (WebSocketException, OSError):
            assert time.monotonic() < deadline
        else:
            return


@pytest.mark.parametrize("name", ["silence", "idleness"])
async def test_connections_beyond_the_limit_of_files_lock_nobody_out(
    own_engine: EmbeddedEngine, tmp_path: Path, user: str, name: str
) -> None:
    """Not those who are in, whose link to the engine breaks meanwhile, and not who comes."""
    herald = NarrowHerald(own_engine.url, tmp_path, log_level="info")
    try:
        herald.wait_ready()
        async with people_of(herald, user) as people:
            await people.measure(0.5)
            before = footprint(herald)
            async with besieged(herald, name, 2 * NarrowHerald.FILES, SEED) as siege:
                await people.measure(1)
                with contextlib.closing(redis.Redis.from_url(own_engine.url)) as admin:
                    for kind in ("pubsub", "normal"):
                        admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
                await people.measure(max(1, SECONDS))
                for _ in range(5):
                    await _gets_in(people)
                await siege.end()
            print(f"{name} beyond the limit of files: {siege.counts}")
            await eventually(is_as_before(herald, before, 3), "the crowd has gone")
            await people.newcomer()
            await people.go()
        assert herald.stop() == 0
        assert troubles_of(herald) == []
    finally:
        if herald.process.poll() is None:
            herald.kill()
