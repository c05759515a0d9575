"""What happens at once: a pod dies, all pods are restarted, a shard fails over.

Work is a fluid: in each step it comes in, waits, and is done as far as the core has room beside
its quiet load.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.costs import Costs
from bench.simulation.fleet import AUDIT_SECONDS, HEARTBEAT, Plan, work

STEP = 0.05
AUDIT_BATCH = 256
"""Positions that a node compares with one MGET."""
DRAIN = 24.0
"""Seconds over which a pod moves its clients away: 0.8 of HERALD_DRAIN_SECONDS."""


@dataclass(frozen=True)
class Curve:
    """One core in a storm: its busy share and its clients' wait, by step."""

    busy: list[float]
    wait: list[float]

    @property
    def longest_wait(self) -> float:
        return max(self.wait, default=0.0)

    @property
    def over(self) -> float:
        """Seconds until the last piece of the storm's work was done."""
        return STEP * len(self.busy)

    @property
    def saturated(self) -> float:
        """Seconds at the core's limit."""
        return STEP * sum(share > 0.999 for share in self.busy)


def absorb(arriving: Sequence[float], each_us: float, quiet: float) -> Curve:
    """A core that is busy to the share `quiet` takes so many pieces of work a step."""
    room = STEP * (1.0 - quiet)
    if room <= 0:
        raise ValueError("a core without room never ends")
    backlog, busy, wait, step = 0.0, [], [], 0
    while step < len(arriving) or backlog > 1e-9:
        if step < len(arriving):
            backlog += arriving[step] * each_us / 1e6
        done = min(backlog, room)
        backlog -= done
        busy.append(quiet + done / STEP)
        wait.append(backlog / (1.0 - quiet))
        step += 1
    return Curve(busy, wait)


def full_jitter(count: float, bound: float) -> list[float]:
    """Arrivals of clients that each wait a random time between 0 and `bound`."""
    steps = max(1, round(bound / STEP))
    return [count / steps] * steps


@dataclass(frozen=True)
class PodLoss:
    """One pod's clients come to the others, and resume."""

    jitter: float
    clients: float
    pod: Curve
    shard: Curve


def pod_dies(plan: Plan, costs: Costs, jitter: float) -> PodLoss:
    """All of a pod's clients at once, spread over the others, over the shards."""
    left = max(1, plan.pods - 1)
    quiet = work(plan.load, costs, left, plan.shards)
    coming = full_jitter(plan.per_pod, jitter)
    pod = absorb([one / left for one in coming], costs.resume_us, quiet.pod_busy)
    shard = absorb(
        [one / plan.shards for one in coming], costs.engine_resume_us, quiet.hottest_busy
    )
    return PodLoss(jitter, plan.per_pod, pod, shard)


@dataclass(frozen=True)
class Restart:
    """A rolling restart of a fleet.

    Attributes:
        seconds: until the last pod is new.
        moves: reconnects per connection, on average.
        fullest: the fullest pod at any time, against an even share.
        connects: a second at each of the others, at most.
        busy: their share of a core at that.
    """

    at_once: int
    seconds: float
    moves: float
    fullest: float
    connects: float
    busy: float


def rolling_restart(
    plan: Plan, costs: Costs, at_once: int, start: float = 5.0, *, least: bool = False
) -> Restart:
    """Pods are drained `at_once` at a time; each is back, empty, after `start` seconds.

    `least`: the load balancer sends clients to the pod with the fewest, else to any.
    """
    share = plan.load.connections / plan.pods
    held = [share] * plan.pods
    moved, fullest, seconds, most = 0.0, share, 0.0, 0.0
    for first in range(0, plan.pods, at_once):
        going = range(first, min(first + at_once, plan.pods))
        leaving = sum(held[pod] for pod in going)
        if len(going) == plan.pods:
            raise ValueError("nobody would be left")
        for pod in going:
            held[pod] = 0.0
        others = [pod for pod in range(plan.pods) if pod not in going]
        before = list(held)
        _spread(held, others, leaving, least=least)
        moved += leaving
        fullest = max(fullest, *held)
        most = max(most, max(held[pod] - before[pod] for pod in others) / DRAIN)
        seconds += DRAIN + start
    quiet = work(plan.load, costs, max(1, plan.pods - at_once), plan.shards)
    return Restart(
        at_once,
        seconds,
        moved / plan.load.connections,
        fullest / share,
        most,
        quiet.pod_busy + most * costs.resume_us / 1e6,
    )


def _spread(held: list[float], pods: Sequence[int], amount: float, *, least: bool) -> None:
    if not least:
        for pod in pods:
            held[pod] += amount / len(pods)
        return
    # Fill the emptiest up to a common level.
    order = sorted(pods, key=lambda pod: held[pod])
    for count in range(1, len(order) + 1):
        level = (sum(held[pod] for pod in order[:count]) + amount) / count
        if count == len(order) or level <= held[order[count]]:
            for pod in order[:count]:
                held[pod] = level
            return


@dataclass(frozen=True)
class Failover:
    """A shard's primary is lost and its replica promoted.

    Attributes:
        refused: publishes answered 503 until then, to be repeated by their publishers.
        channels: subscribed again at the new primary, and read.
    """

    away: float
    refused: float
    channels: float
    shard: Curve
    pod: Curve


def shard_fails_over(plan: Plan, costs: Costs, away: float) -> Failover:
    """Every pod subscribes again to what was on the shard, reads it and tells one gap."""
    channels = plan.load.connections / plan.shards
    read = costs.engine_resume_us if plan.load.retained else costs.engine_connect_us
    shard = absorb([channels], read, min(plan.hottest_busy, 0.9))
    pod = absorb([channels / plan.pods], costs.push_us + costs.delivery_us, min(plan.pod_busy, 0.9))
    return Failover(away, away * plan.load.published / plan.shards, channels, shard, pod)


# From the POST to the socket


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the acceptance of a POST to the write to the socket."""

    p50: float
    p99: float
    p999: float


def queue(
    rng: random.Random, mix: Sequence[tuple[float, float]], count: int
) -> tuple[list[float], float]:
    """Waiting times (seconds) in front of one core, and its busy share. Arrivals are random.

    `mix`: pieces of work a second, and seconds each takes. Lindley: what waits for a piece is what
    waited for the one before and that one's work, less the time between the two.
    """
    kinds = [one for one in mix if one[0] > 0 and one[1] > 0]
    rate = sum(one[0] for one in kinds)
    if not kinds:
        return [0.0] * count, 0.0
    busy = sum(one[0] * one[1] for one in kinds)
    if busy >= 1:
        raise ValueError("more work than a core does")
    weights, sizes = [one[0] for one in kinds], [one[1] for one in kinds]
    wait, waits = 0.0, []
    for size in rng.choices(sizes, weights, k=count):
        waits.append(wait)
        wait = max(0.0, wait + size - rng.expovariate(rate))
    rng.shuffle(waits)  # stations see different moments
    return waits, busy


def pod_mix(plan: Plan, costs: Costs) -> list[tuple[float, float]]:
    """What a pod does, as pieces a second and seconds each."""
    load, pods = plan.load, plan.pods
    one = (costs.push_us + costs.delivery_us) / 1e6
    mine = min(plan.per_pod, load.topic_size)
    members = max(1.0, mine / max(1, min(pods, load.topic_size)))
    topic = load.topics * load.topic_rate * min(pods, load.topic_size) / pods
    return [
        (load.published / pods, costs.publish_us / 1e6),
        (load.connections * load.to_user / pods, one),
        (topic, (costs.push_us + members * costs.delivery_us) / 1e6),
        (load.all_rate, (costs.push_us + plan.per_pod * costs.delivery_us) / 1e6),
        (load.connections / load.session / pods, costs.connect_us / 1e6),
        # The timer wheel turns four times a second and pings who is due; pongs come one by one.
        (4.0, plan.per_pod * costs.idle_us / 2 / 4e6),
        (plan.per_pod / HEARTBEAT, costs.idle_us / 2 * HEARTBEAT / 1e6),
        (float(plan.shards), costs.shard_us / 1e6),
        (
            plan.per_pod / AUDIT_SECONDS / AUDIT_BATCH if plan.shards > 1 else 0.0,
            AUDIT_BATCH * costs.pod_audit_get_us / 1e6,
        ),
    ]


def shard_mix(plan: Plan, costs: Costs) -> list[tuple[float, float]]:
    """What the shard does that has `all`."""
    load, shards = plan.load, plan.shards
    batch, audit = (AUDIT_BATCH, costs.audit_us) if shards == 1 else (1, costs.audit_get_us)
    return [
        (load.published / shards, (costs.script_us + costs.engine_push_us) / 1e6),
        (load.all_rate, (costs.script_us + plan.pods * costs.engine_push_us) / 1e6),
        (load.connections / load.session / shards, costs.engine_connect_us / 1e6),
        (load.connections / shards / AUDIT_SECONDS / batch, batch * audit / 1e6),
        (float(plan.pods), costs.engine_probe_us / 1e6),
    ]


HOP = 0.1e-3
"""Seconds between a pod and an engine, one way: a data centre's network (assumed)."""


def publish_to_socket(plan: Plan, costs: Costs, seed: int = 1, count: int = 50_000) -> Latency:
    """An event to one user: publishing pod, shard, the user's pod. The user's network is not in."""
    rng = random.Random(seed)
    pod = pod_mix(plan, costs)
    own = (costs.publish_us + costs.script_us + costs.push_us + costs.delivery_us) / 1e6 + 2 * HOP
    parts = [queue(rng, mix, count)[0] for mix in (pod, shard_mix(plan, costs), pod)]
    found = sorted(own + sum(waits) for waits in zip(*parts, strict=True))
    return Latency(*(1e3 * found[int(share * count)] for share in (0.5, 0.99, 0.999)))


def all_reach(plan: Plan, costs: Costs) -> float:
    """Seconds until an event to `all` was written to the last connection of the fleet."""
    return (
        costs.publish_us
        + costs.script_us
        + plan.pods * costs.engine_push_us
        + costs.push_us
        + plan.per_pod * costs.delivery_us
    ) / 1e6 + 2 * HOP
