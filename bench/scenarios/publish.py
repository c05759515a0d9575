"""(d) Publishing, with nobody listening: single POSTs, batches of 100, NDJSON."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from typing import Any

import hiredis

from bench.floors.systems import AcceptedFloor
from bench.herald import BATCH, DATA, NDJSON, HeraldServer, event, events
from bench.lab import Lab, Station
from bench.machine import cpu_seconds, engine_version
from bench.peers.peer import MARK, SERVER_CPU, Peer, Post
from bench.progress import Progress
from bench.scenarios.rounds import Measurement, Record, measure, per_second
from service.broker import keys, scripts
from service.core.event import Event, encode_fragment

NAME = "publish"
SINGLE_PUBLISHERS, BATCH_PUBLISHERS = 64, 8
BATCH_EVENTS = 100
USERS = 15_000
DEPTHS = (1, 32, BATCH_PUBLISHERS * BATCH_EVENTS)
"""In flight at the engine: one, what the bar is about, and as many as Herald's batches."""


def seconds(systems: int, rounds: int, quick: bool) -> float:
    """About how long it takes."""
    return rounds * ((systems + 1) * (5 if quick else 6) + 9)


def run(
    lab: Lab, peers: Sequence[Peer], rounds: int, quick: bool, progress: Progress
) -> dict[str, Any]:
    record = Record(progress)
    each = 1.0 if quick else 2.0

    def publish(system: Peer | EngineAlone, number: int) -> Measurement:
        if isinstance(system, EngineAlone):
            row = system.run(lab, each)
        else:
            with lab.station(system, USERS) as station:
                row = {"single": _posts(station, _single(system), SINGLE_PUBLISHERS, each)}
                for name, post in _batches(system).items():
                    row[name] = _posts(station, post, BATCH_PUBLISHERS, each)
        progress.saw(", ".join(f"{name} {row[name]['rate']:,.0f} events/s" for name in row))
        return row

    systems: list[Peer | EngineAlone] = [*peers, AcceptedFloor(), EngineAlone()]
    record.run(systems, rounds, publish)
    return record.result(
        single_publishers=SINGLE_PUBLISHERS,
        batch_publishers=BATCH_PUBLISHERS,
        batch_events=BATCH_EVENTS,
        users=USERS,
    )


def _posts(station: Station, post: Post, publishers: int, seconds: float) -> Measurement:
    load = station.load
    load.publish(post)
    load.closed(publishers, 0.3)  # warm
    load.reset()
    result: dict[str, Any] = {}

    def work() -> dict[str, Any]:
        result.update(load.closed(publishers, seconds))
        return result

    row = measure(station, work)
    row["rate"] = per_second(result["events"], result["seconds"])
    row["answered_ms"] = result["answer_ms"]
    return row


def _single(system: Peer) -> Post:
    # The floor reads what Herald reads.
    if isinstance(system, AcceptedFloor):
        return HeraldServer().post_to_user()
    return system.post_to_user()


def _batches(system: Peer) -> dict[str, Post]:
    """Requests with 100 events for as many users, where the system has them."""
    if system.name == "herald":
        lines = "\n".join([event("user:{user}")] * BATCH_EVENTS)
        return {
            "batch": Post(BATCH, events("user:{user}", BATCH_EVENTS)),
            "ndjson": Post(NDJSON, lines),
        }
    post = None if isinstance(system, AcceptedFloor) else system.post_to_all(BATCH_EVENTS)
    if post is None:
        return {}
    # The same request, addressed to users: in the name of a channel `all` becomes one of theirs.
    return {"batch": Post(post.head, post.body.replace('"all"', '"user:{user}"'))}


class EngineAlone:
    """The engine on a core of its own, given Herald's publish script for as many users."""

    name = "engine"
    label = "*floor: the engine alone, Herald's script*"

    def version(self) -> str:
        return engine_version()

    def run(self, lab: Lab, seconds: float) -> Measurement:
        """By depth: how many commands are in flight."""
        return {f"depth {depth}": self._at(lab, depth, seconds) for depth in DEPTHS}

    def _at(self, lab: Lab, depth: int, seconds: float) -> Measurement:
        with lab.engine(SERVER_CPU) as (engine, port), contextlib.ExitStack() as ends:
            load = lab.load([("u00000", "-")])
            ends.callback(load.close)
            load.aim(port, port)
            with socket.create_connection(("127.0.0.1", port), 5) as link:
                command = ("SCRIPT", "LOAD", scripts.PUBLISH.source)
                link.sendall(_pack(command))
                link.recv(100)
            commands = [_publish_command(f"user:u{number:05}") for number in range(USERS)]
            load.engine_alone(commands, depth, 0.3)  # warm
            before = cpu_seconds([engine.pid])
            result = load.engine_alone(commands, depth, seconds)
            busy = (cpu_seconds([engine.pid]) - before) / result["seconds"]
        return {
            "seconds": result["seconds"],
            "engine_busy": round(busy, 4),
            "rate": per_second(result["replies"], result["seconds"]),
        }


def _pack(command: tuple[str | bytes, ...]) -> bytes:
    return bytes(hiredis.pack_command(command))  # type: ignore[arg-type]


def _publish_command(channel: str) -> bytes:
    """The command that Herald sends for an event like those of this benchmark."""
    data = DATA.replace("{mark}", "@" * MARK)
    now = int(time.time() * 1e6)
    event = Event((channel,), "order.shipped", data.encode(), None, None)
    return _pack(
        (
            *(b"EVALSHA", scripts.PUBLISH.sha, b"2", keys.meta_key(channel), keys.log_key(channel)),
            *(encode_fragment(event, now // 1000), keys.live_channel(channel)),
            *("100", "86400000", "2678400000", str(now), ""),
        )
    )
