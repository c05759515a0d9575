"""Herald on a real Cluster: does any node do another's work? `python -m bench.cluster`.

Starts three primaries with a replica each and two `herald serve` on them. Of 3,000 users 1,250 are
connected to each node and 500 to none; all get events, published at either node in turn. Then every
counter is held against what the slots of the channels say it must be. The tables go to
docs/scaling.md. Takes about half a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.herald import HeraldServer
from bench.lab import Lab, settle
from bench.limits import CannotMeasureError, most_connections
from bench.load.driver import BenchError, Load
from bench.machine import describe, engine_version
from bench.peers.peer import LOAD_CPU, SERVER_CPU, Running, Workplace
from bench.results import DOCS
from bench.simulation.document import command, put, table
from service.broker import keys
from service.broker.topology import slot_of
from tests.harness.cluster import EngineCluster, Node, running_cluster

NODES, CONNECTED, ABSENT = 2, 1250, 500
TURNS, TURN_SECONDS = 6, 1.0
"""Publishing goes to one node, then to the other, so many times."""
TO_ALL = 20


@dataclass
class Found:
    """Counters over the run, by primary or Herald node, beside what they must be."""

    events: int = 0
    delivered: int = 0
    expected: int = 0
    misordered: int = 0
    skipped: int = 0
    refused: int = 0
    rows: list[list[Any]] = field(default_factory=list)
    replicas: list[list[Any]] = field(default_factory=list)
    heralds: list[list[Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def count(self, result: Mapping[str, Any]) -> None:
        """Add what the generator said of one turn."""
        for name in ("events", "expected", "delivered"):
            setattr(self, name, getattr(self, name) + result[name])
        for name in ("misordered", "skipped", "refused"):
            setattr(self, name, getattr(self, name) + result[name])

    def must_be(self, what: str, seen: Any, due: Any) -> Any:
        """Remember where a counter is not what it must be."""
        if seen != due:
            self.wrong.append(f"{what}: {seen}, and it must be {due}")
        return seen


def run(lab: Lab) -> Found:
    """Everything, once.

    Raises:
        BenchError: a connection did not open.
    """
    found = Found()
    with running_cluster(3, 3) as cluster, contextlib.ExitStack() as ends:
        directory = Path(ends.enter_context(TemporaryDirectory()))
        herald = HeraldServer({"redis_url": cluster.url})
        workplace = Workplace(directory, 0, (SERVER_CPU, LOAD_CPU))
        ends.callback(workplace.stop)
        nodes = [herald.start(workplace) for _ in range(NODES)]
        _until_ready(nodes)
        users = [f"u{number:05}" for number in range(NODES * CONNECTED + ABSENT)]
        load = lab.load([(user, herald.token(user)) for user in users])
        ends.callback(load.close)
        load.aim(nodes[0].port, nodes[0].port)
        load.speak(herald.dialect())
        for node in nodes:
            load.aim(node.port, node.port)
            load.connect(CONNECTED)
        settle(2)
        _watch(cluster, nodes, users, load, herald, found)
    return found


def _watch(
    cluster: EngineCluster,
    nodes: Sequence[Running],
    users: Sequence[str],
    load: Load,
    herald: HeraldServer,
    found: Found,
) -> None:
    channels = [f"user:{user}" for user in users]
    owners = _owners(cluster, [*channels, "all"])
    for node in cluster.nodes:
        node.do("CONFIG", "RESETSTAT")
    before = [_pushes(node) for node in nodes]
    load.publish(herald.post_to_user())
    load.reset()
    last = {"misordered": 0, "skipped": 0, "delivered": 0}
    for turn in range(TURNS):
        port = nodes[turn % NODES].port
        load.aim(port, port)
        result = load.closed(16, TURN_SECONDS)
        # The generator counts these from its last reset on.
        found.count({**result, **{name: result[name] - last[name] for name in last}})
        last = {name: result[name] for name in last}
    one = herald.post_to_all()
    assert one is not None
    load.publish(one)
    load.reset()
    found.count(load.lockstep(TO_ALL))
    settle(1)

    stored = {channel: _stored(owners[channel], channel) for channel in owners}
    for number, node in enumerate(cluster.primaries, 1):
        found.rows.append(_primary(found, f"primary {number}", node, owners, stored))
    for number, node in enumerate(cluster.replicas, 1):
        found.replicas.append(_replica(found, f"replica {number}", node))
    for number, node in enumerate(nodes, 1):
        first = (number - 1) * CONNECTED
        mine = [*channels[first : first + CONNECTED], "all"]
        due = sum(stored[channel] for channel in mine)
        name = f"herald {number}"
        seen = found.must_be(f"{name}, pushes received", _pushes(node) - before[number - 1], due)
        found.heralds.append([name, CONNECTED, len(mine), due, seen])
    found.must_be("events stored", sum(stored.values()), found.events)
    found.must_be("events delivered", found.delivered, found.expected)
    for name in ("misordered", "skipped", "refused"):
        found.must_be(f"events {name}", getattr(found, name), 0)


def _primary(
    found: Found, name: str, node: Node, owners: Mapping[str, Node], stored: Mapping[str, int]
) -> list[Any]:
    mine = {channel for channel, owner in owners.items() if owner is node}
    due = sum(stored[channel] for channel in mine)
    calls = _calls(node)
    with_listener = {c for c in mine if c == "all" or int(c[-5:]) < NODES * CONNECTED}
    shown = [
        name,
        len(mine),
        due,
        found.must_be(f"{name}, publish scripts", calls["evalsha"], due),
        found.must_be(f"{name}, events appended", calls["xadd"], due),
        found.must_be(f"{name}, redirects", _redirects(node), 0),
        found.must_be(
            f"{name}, channels listened to", len(node.shard_channels()), len(with_listener)
        ),
    ]
    found.must_be(f"{name}, which channels", node.shard_channels(), with_listener)
    return shown


def _replica(found: Found, name: str, node: Node) -> list[Any]:
    calls = _calls(node)
    listened = node.shard_channels()
    return [
        name,
        found.must_be(f"{name}, scripts", calls["evalsha"], 0),
        found.must_be(f"{name}, subscribed links", _subscribed(node), 0),
        found.must_be(f"{name}, channels listened to", len(listened), 0),
        calls["xadd"],
    ]


def _owners(cluster: EngineCluster, channels: Sequence[str]) -> dict[str, Node]:
    by_port = {node.port: node for node in cluster.nodes}
    ranges: Any = cluster.nodes[0].do("CLUSTER", "SLOTS")
    owners = {}
    for channel in channels:
        slot = slot_of(channel)
        port = next(row[2][1] for row in ranges if row[0] <= slot <= row[1])
        owners[channel] = by_port[port]
    return owners


def _stored(owner: Node, channel: str) -> int:
    """How many events a channel was given: its positions begin with 1 and have no holes."""
    meta = owner.client.get(keys.meta_key(channel))
    return int(meta.split()[1]) if meta else 0


def _calls(node: Node) -> Counter[str]:
    stats = node.client.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()})


def _redirects(node: Node) -> int:
    errors = node.client.info("errorstats")
    return sum(
        one["count"] for name, one in errors.items() if name.endswith(("MOVED", "ASK", "TRYAGAIN"))
    )


def _subscribed(node: Node) -> int:
    return len(node.client.client_list(_type="pubsub"))


def _pushes(node: Running) -> int:
    text = _get(node, "/metrics")
    found = re.search(r"^herald_engine_pushes_total ([\d.e+]+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else -1


def _get(node: Running, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{node.port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def _until_ready(nodes: Sequence[Running]) -> None:
    deadline = time.monotonic() + 30
    for node in nodes:
        while True:
            try:
                _get(node, "/healthz/ready")
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise BenchError("a node did not get ready") from None
                time.sleep(0.1)


def report(found: Found) -> Iterator[str]:
    """What stands in docs/scaling.md."""
    yield f"{describe()}; {engine_version()}. Repeat: `{command('bench.cluster')}`."
    yield (
        f"{found.events:,} events, of which {TO_ALL} to `all`: {found.delivered:,} of "
        f"{found.expected:,} deliveries, {found.misordered} out of order, {found.skipped} skipped, "
        f"{found.refused} publishes refused."
    )
    yield table(
        [
            *("engine", "channels of its slots", "events for them", "publish scripts run"),
            *("events appended", "redirects", "channels with a listener"),
        ],
        found.rows,
    )
    yield table(
        [
            *("engine", "scripts run", "subscribed links"),
            *("channels with a listener", "events replicated"),
        ],
        found.replicas,
    )
    yield table(
        ["node", "connections", "its channels", "events in them", "pushes received"],
        found.heralds,
    )
    yield (
        "**Not as it must be:** " + "; ".join(found.wrong)
        if found.wrong
        else "Every counter is exactly what the slots say: each event was stored by the owner of "
        "its slot alone and pushed to the nodes that have a listener, and to no other. "
        f"Events to the {ABSENT} users who were not connected were stored and pushed to nobody."
    )


def main() -> None:
    argparse.ArgumentParser(prog="python -m bench.cluster", description=__doc__).parse_args()
    try:
        most = most_connections()
        with contextlib.closing(Lab(most)) as lab:
            found = run(lab)
    except (CannotMeasureError, BenchError) as error:
        sys.exit(str(error))
    put(DOCS / "scaling.md", "cluster", "\n\n".join(report(found)))
    print("\n\n".join(report(found)))
    if found.wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
