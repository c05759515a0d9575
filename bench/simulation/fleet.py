"""How large a fleet must be for a load, and how busy its parts are then. Plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.costs import Costs

AUDIT_SECONDS = 30.0
HEARTBEAT = 25.0


@dataclass(frozen=True)
class Load:
    """What users and publishers do. One connection a user; rates are per second.

    Attributes:
        to_user: events addressed to each user.
        topic_size, topic_rate: members of a topic and its events; everyone is in one topic.
        all_rate: events to everyone.
        session: how long a connection lasts, seconds.
        retained: events in each user's log, at most the history size.
    """

    connections: int
    to_user: float = 1 / 60
    topic_size: int = 1000
    topic_rate: float = 1 / 600
    all_rate: float = 1 / 3600
    session: float = 3600.0
    retained: int = 100

    @property
    def topics(self) -> float:
        return self.connections / self.topic_size if self.topic_size else 0.0

    @property
    def published(self) -> float:
        """Events a second, of all kinds."""
        return self.connections * self.to_user + self.topics * self.topic_rate + self.all_rate

    @property
    def delivered(self) -> float:
        """Events a second that reach a socket."""
        return self.connections * (
            self.to_user + (self.topic_rate if self.topic_size else 0.0) + self.all_rate
        )


@dataclass(frozen=True)
class Rules:
    """What the plan leaves free.

    Attributes:
        busy: share of a core that a pod, or a primary, may use in quiet times.
        pod_connections: so that one event to `all` holds a pod's loop for 0.15 s.
        shard_bytes: of a primary's data; a machine has about twice as much, for replication.
        shard_channels: so that after a failover all have subscribed again in about ten seconds.
    """

    busy: float = 0.5
    pod_connections: int = 25_000
    shard_bytes: float = 12e9
    shard_channels: int = 250_000


@dataclass(frozen=True)
class Plan:
    """A fleet under a load: counts, shares of one core, bytes, bytes a second."""

    load: Load
    pods: int
    shards: int
    pod_busy: float
    pod_memory: float
    pod_out: float
    shard_busy: float
    hottest_busy: float
    engine_bytes: float
    engine_out: float

    @property
    def per_pod(self) -> float:
        return self.load.connections / self.pods

    @property
    def links_per_shard(self) -> int:
        return 3 * self.pods

    @property
    def links(self) -> int:
        return 3 * self.pods * self.shards


def log_bytes(costs: Costs, retained: int) -> float:
    """The engine allots a log's first 4 KB at once."""
    return max(costs.first_event_bytes, retained * costs.event_bytes) if retained else 0.0


def pods_with_a_member(pods: int, members: int) -> float:
    """How many pods an event to so many members must reach, when they are spread evenly."""
    return pods * (1.0 - (1.0 - 1.0 / pods) ** members)


def work(load: Load, costs: Costs, pods: int, shards: int) -> Plan:
    """How busy so many pods and shards are."""
    users = load.connections
    events = users * load.to_user
    topic_events = load.topics * load.topic_rate
    reached = pods_with_a_member(pods, load.topic_size)
    connects = users / load.session

    # On a single engine the audit is part of what an idle connection costs.
    audited = users / pods / AUDIT_SECONDS if shards > 1 else 0.0

    pod_pushes = (events + topic_events * reached) / pods + load.all_rate
    pod = (
        costs.node_us
        + shards * costs.shard_us
        + users / pods * costs.idle_us
        + audited * costs.pod_audit_get_us
        + load.published / pods * costs.publish_us
        + pod_pushes * costs.push_us
        + load.delivered / pods * costs.delivery_us
        + connects / pods * costs.connect_us
    )
    listened = users + load.topics * reached + pods
    audit = costs.audit_us if shards == 1 else costs.audit_get_us
    spread = (
        load.published * costs.script_us
        + (events + topic_events * reached) * costs.engine_push_us
        + connects * costs.engine_connect_us
        + listened / AUDIT_SECONDS * audit
    ) / shards + pods * costs.engine_probe_us
    to_all = load.all_rate * pods * costs.engine_push_us  # of the one shard that has it
    channels = users + load.topics
    engine_bytes = (
        channels * (log_bytes(costs, load.retained) + costs.channel_bytes)
        + listened * costs.subscription_bytes
        + 3 * pods * shards * costs.link_kb * 1024
    )
    pushes = events + topic_events * reached + load.all_rate * pods
    return Plan(
        load,
        pods,
        shards,
        pod / 1e6,
        costs.process_mb * 2**20
        + users / pods * (costs.connection_kb + costs.socket_kb) * 1024
        + shards * (costs.shard_kb + 3 * costs.socket_kb) * 1024,
        (
            load.delivered * (costs.frame_bytes + costs.packet_bytes)
            + users / HEARTBEAT * (costs.ping_bytes + costs.packet_bytes)
            + load.published * costs.pushed_bytes
        )
        / pods,
        spread / 1e6,
        (spread + to_all) / 1e6,
        engine_bytes,
        pushes * (costs.pushed_bytes + costs.packet_bytes),
    )


def plan(load: Load, costs: Costs, rules: Rules = Rules()) -> Plan:
    """The smallest fleet within the rules, and one pod more, for when one is lost.

    Raises:
        ValueError: no count suffices (the fleet's own links and probes are too much).
    """
    pods = max(1, math.ceil(load.connections / rules.pod_connections))
    shards = max(1, math.ceil(load.connections / rules.shard_channels))
    for _ in range(1000):
        found = work(load, costs, pods, shards)
        if found.engine_bytes / shards > rules.shard_bytes or found.shard_busy > rules.busy:
            more = max(found.engine_bytes / shards / rules.shard_bytes, 1.01)
            shards = max(shards + 1, math.ceil(shards * min(more, 2.0)))
        elif found.pod_busy > rules.busy:
            pods = max(pods + 1, math.ceil(pods * 1.05))
        else:
            return work(load, costs, pods + 1, shards)
        if pods > load.connections + 1000 or shards > 100_000:
            break
    raise ValueError(f"{load.connections:,} connections do not fit one fleet")


@dataclass(frozen=True)
class Limit:
    """Something that ends: from how many connections on, and what is done about it."""

    name: str
    connections: float
    remedy: str


MAXCLIENTS = 10_000
ENGINES = 1000
"""Nodes of a Cluster that Redis and Valkey recommend at most."""


def limits(load: Load, costs: Costs, rules: Rules = Rules()) -> list[Limit]:
    """What a single fleet meets as it grows under the same load a user, the nearest first."""

    def single(connections: int) -> Plan:
        return work(replace(load, connections=connections), costs, _pods(connections, rules), 1)

    def grown(connections: int) -> Plan:
        return plan(replace(load, connections=connections), costs, rules)

    checks: list[tuple[str, Callable[[int], bool], str]] = [
        (
            "one process: events to `all` hold its loop 0.15 s",
            lambda n: n > rules.pod_connections,
            "more pods; nothing is shared among them",
        ),
        (
            "one engine: subscribing all again after a failover takes 10 s",
            lambda n: n > rules.shard_channels,
            "a Cluster: each shard has its channels",
        ),
        (
            f"one engine: {rules.shard_bytes / 1e9:.0f} GB of logs",
            lambda n: single(n).engine_bytes > rules.shard_bytes,
            "a shorter history, or a Cluster",
        ),
        (
            "one engine: half a core",
            lambda n: single(n).shard_busy > rules.busy,
            "a Cluster",
        ),
        (
            "a Cluster of ten shards: one away, and no pod is ready",
            lambda n: grown(n).shards > 10,
            "cells",
        ),
        (
            f"a Cluster of {ENGINES:,} engines with replicas (gossip)",
            lambda n: 2 * grown(n).shards > ENGINES,
            "cells",
        ),
        (
            f"links to one shard: three a pod, over `maxclients` {MAXCLIENTS:,}",
            lambda n: grown(n).links_per_shard > MAXCLIENTS,
            "raise `maxclients`; cells",
        ),
        (
            "probes: a tenth of each shard's core",
            lambda n: _pods(n, rules) * costs.engine_probe_us > 1e5,
            "cells",
        ),
        (
            "probes: a tenth of each pod's core",
            lambda n: grown(n).shards * costs.shard_us > 1e5,
            "cells",
        ),
    ]
    found = [Limit(name, _first(over), remedy) for name, over, remedy in checks]
    return sorted(found, key=lambda limit: limit.connections)


def _pods(connections: int, rules: Rules) -> int:
    return math.ceil(connections / rules.pod_connections) + 1


def _first(over: Callable[[int], bool], highest: int = 1_000_000_000) -> float:
    """The fewest connections at which it is so, to two digits; inf where it never is."""

    def is_over(connections: int) -> bool:
        try:
            return over(connections)
        except ValueError:  # no plan: certainly
            return True

    low, high = 1, highest
    if not is_over(high):
        return math.inf
    while high - low > max(1, low // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if is_over(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class Cells:
    """Several fleets that know nothing of each other; a user's hash says which is theirs."""

    cells: int
    each: Plan

    @property
    def pods(self) -> int:
        return self.cells * self.each.pods

    @property
    def shards(self) -> int:
        return self.cells * self.each.shards


def in_cells(load: Load, costs: Costs, size: int = 1_000_000, rules: Rules = Rules()) -> Cells:
    """The same load in cells of `size` connections. A topic's members are in every cell, so each
    cell has as many topics as there are, with its share of the members.
    """
    cells = max(1, math.ceil(load.connections / size))
    if cells == 1:
        return Cells(1, plan(load, costs, rules))
    # What topics and `all` publish is published in every cell.
    members = max(1, round(load.topic_size / cells))
    part = replace(load, connections=math.ceil(load.connections / cells), topic_size=members)
    return Cells(cells, plan(part, costs, rules))
