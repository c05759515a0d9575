"""(f) Workers of one server and nodes on one engine: what the work costs with one and with two.

Two cores are shared with the load, so wall-clock figures say little: CPU seconds of all processes
of the server are counted for the same work.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Sequence
from typing import Any

from bench.herald import HeraldServer
from bench.lab import Lab, Station, settle
from bench.peers.peer import HEARTBEAT, LOAD_CPU, SERVER_CPU, Peer, Running, Workplace
from bench.progress import Progress
from bench.scenarios.rounds import Measurement, Record, measure, per_second

NAME = "scaleout"
CONNECTIONS = 5000
SINGLES = 40


class Nodes(HeraldServer):
    """So many servers on one engine, each with so many workers."""

    def __init__(self, nodes: int, workers: int) -> None:
        super().__init__({"workers": str(workers)})
        self.nodes, self.workers = nodes, workers
        self.name = f"{nodes}x{workers}"
        self.label = f"{_count(nodes, 'node')} with {_count(workers, 'worker')}"
        self.ports: list[int] = []

    def start(self, workplace: Workplace) -> Running:
        servers = [super(Nodes, self).start(workplace) for _ in range(self.nodes)]
        self.ports = [server.port for server in servers]
        pids = [pid for server in servers for pid in server.pids]
        return Running(pids, self.ports[0], self.ports[0])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def seconds(systems: int, rounds: int, quick: bool) -> float:
    """About how long it takes."""
    return rounds * 4 * (10 if quick else 14) + 3 * (HEARTBEAT + 2)


def run(
    lab: Lab, peers: Sequence[Peer], rounds: int, quick: bool, progress: Progress
) -> dict[str, Any]:
    record = Record(progress)
    connections = min(2000 if quick else CONNECTIONS, lab.most_connections)
    if not any(isinstance(peer, HeraldServer) for peer in peers):
        record.note("only Herald is measured here")
        return record.result(connections=connections)

    def cost(system: Nodes, number: int) -> Measurement:
        servers = system.nodes * system.workers
        cores = (SERVER_CPU,) if servers == 1 else (SERVER_CPU, LOAD_CPU)
        with lab.station(system, connections, cores) as station:
            row = costs(station, system, connections, idle=number == 0)
        progress.saw(
            f"µs of CPU: {row['connect']['each_us']:.0f} a connect, "
            f"{row['fanout']['each_us']:.2f} a delivery to all, "
            f"{row['to_users']['each_us']:.0f} a publish and delivery; shares {row['shares']}"
        )
        return row

    record.run([Nodes(1, 1), Nodes(1, 2), Nodes(2, 1)], rounds, cost)
    return record.result(connections=connections)


def costs(station: Station, system: Nodes, connections: int, *, idle: bool) -> Measurement:
    """CPU per connect, delivery to all, publish with delivery to one, and idle connection."""
    load = station.load
    row: Measurement = {"connect": _connect(station, system, connections)}
    row["shares"] = _shares(system)

    one = system.post_to_all()
    assert one is not None
    load.publish(one)
    load.lockstep(5)
    load.reset()
    row["fanout"] = _each(measure(station, lambda: load.lockstep(SINGLES)), "delivered")

    load.publish(system.post_to_user())
    load.closed(64, 0.5)
    load.reset()
    row["to_users"] = _each(measure(station, lambda: load.closed(64, 2.0)), "delivered")

    if idle:
        settle()
        row["idle"] = measure(station, lambda: load.idle(HEARTBEAT), connections=connections)
        row["idle"]["each_us_per_second"] = round(1e6 * row["idle"]["server_busy"] / connections, 3)
    return row


def _connect(station: Station, system: Nodes, connections: int) -> Measurement:
    """An even part of the connections to each node."""
    load, part = station.load, connections // system.nodes

    def work() -> dict[str, Any]:
        found = []
        for port in system.ports:
            load.aim(port, system.ports[0])
            found.append(load.connect(part))
        return {
            **found[-1],
            "seconds": sum(one["seconds"] for one in found),
            "load_cpu": sum(one["load_cpu"] for one in found),
        }

    settle(0.5)
    row = measure(station, work)
    row["count"] = part * system.nodes
    row["rate"] = per_second(row["count"], row["seconds"])
    row["each_us"] = round(1e6 * row["server_cpu"] / row["count"], 2)
    return row


def _each(row: Measurement, what: str) -> Measurement:
    row["rate"] = per_second(row[what], row["all_seconds"])
    row["each_us"] = round(1e6 * row["server_cpu"] / row[what], 3)
    row["engine_each_us"] = round(1e6 * row["engine_cpu"] / row[what], 3)
    return row


def _shares(system: Nodes) -> list[int]:
    """Connections of each process, as Herald's own metrics say."""
    shares: list[int] = []
    for port in system.ports:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.findall(r"^herald_connections(?:\{[^}]*\})? ([\d.e+]+)$", text, re.MULTILINE)
        shares += [int(float(value)) for value in found]
    return shares
