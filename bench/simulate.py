"""What a fleet needs for a load, what breaks first, and its storms: `python -m bench.simulate`.

Without options it writes the tables and pictures of docs/scaling.md, for 10 thousand, 1 million and
100 million connections. With a load of one's own it prints the tables for that.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench.costs import WHAT, Costs, Source, read
from bench.results import DOCS, load
from bench.simulation.document import put, table
from bench.simulation.fleet import Load, Plan, in_cells, limits, log_bytes, plan
from bench.simulation.storms import (
    all_reach,
    pod_dies,
    publish_to_socket,
    rolling_restart,
    shard_fails_over,
)

SIZES = (10_000, 1_000_000, 100_000_000)
CELL = 1_000_000
JITTERS = (1.0, 5.0, 15.0, 30.0)
AWAY = 2.0
"""Seconds from a primary's loss to its replica's promotion, with a short `cluster-node-timeout`."""
HISTORIES = (1, 10, 18, 50, 100)
FOLDER = "scaling"


def costs_table(sources: Sequence[Source]) -> str:
    rows = [
        [
            WHAT[one.name][0],
            WHAT[one.name][2],
            f"{three(one.value)} {WHAT[one.name][1]}",
            one.source,
        ]
        for one in sources
    ]
    return table(["of", "what", "costs", "from"], rows)


def sizing(plans: Sequence[tuple[str, int, Plan]], costs: Costs) -> str:
    """A column each: its title, how many such fleets, and one of them."""
    lines: list[tuple[str, Callable[[int, Plan], str]]] = [
        ("events published", lambda n, p: f"{three(n * p.load.published)}/s"),
        ("deliveries", lambda n, p: f"{three(n * p.load.delivered)}/s"),
        ("**pods** of one core", lambda n, p: f"**{n * p.pods:,}**"),
        ("connections a pod", lambda n, p: f"{p.per_pod:,.0f}"),
        ("CPU of a pod", lambda n, p: percent(p.pod_busy)),
        ("memory of a pod, with sockets", lambda n, p: size(p.pod_memory)),
        ("a pod sends", lambda n, p: f"{size(p.pod_out)}/s"),
        ("**engine shards**, each with a replica", lambda n, p: f"**{n * p.shards:,}**"),
        ("CPU of a shard", lambda n, p: percent(p.shard_busy)),
        ("data of a shard", lambda n, p: size(p.engine_bytes / p.shards)),
        ("data of all, without replicas", lambda n, p: size(n * p.engine_bytes)),
        ("engines send to pods", lambda n, p: f"{size(n * p.engine_out)}/s"),
        ("links at a shard", lambda n, p: f"{p.links_per_shard:,}"),
        ("links in all", lambda n, p: f"{n * p.links:,}"),
        ("clients are sent", lambda n, p: f"{size(n * p.pods * p.pod_out)}/s"),
        ("POST to socket, p50 / p99", lambda n, p: latency(p, costs)),
        ("`all` is at the last socket after", lambda n, p: f"{1e3 * all_reach(p, costs):.0f} ms"),
    ]
    rows = [[name, *(cell(n, one) for _, n, one in plans)] for name, cell in lines]
    return table(["", *(title for title, _, _ in plans)], rows)


def storms(plans: Sequence[tuple[str, int, Plan]], costs: Costs) -> Iterator[str]:
    rows = []
    for title, _, one in plans:
        for jitter in JITTERS:
            lost = pod_dies(one, costs, jitter)
            rows.append(
                [
                    title,
                    f"{jitter:.0f} s",
                    f"{lost.clients:,.0f}",
                    percent(max(lost.pod.busy)),
                    f"{lost.pod.longest_wait:.1f} s",
                    f"{lost.pod.over:.1f} s",
                    percent(max(lost.shard.busy)),
                ]
            )
    yield "**A pod dies.** Its clients come back after a random time up to the bound, and resume."
    head = ["connections", "bound", "clients", "other pods' CPU"]
    yield table([*head, "longest wait", "all are back after", "a shard's CPU"], rows)

    rows = []
    for title, _, one in plans:
        for at_once in sorted({1, max(1, one.pods // 10)}):
            if at_once >= one.pods:
                continue
            for least in (False, True):
                found = rolling_restart(one, costs, at_once, least=least)
                rows.append(
                    [
                        title,
                        f"{at_once:,}",
                        "fewest" if least else "any",
                        minutes(found.seconds),
                        f"{found.moves:.2f}",
                        f"{found.fullest:.1f} ×",
                        f"{found.connects:,.0f}/s",
                        percent(found.busy),
                    ]
                )
    yield (
        "**A rolling restart**, drained over 24 s each. The balancer sends clients to any pod, or "
        "to those with the fewest."
    )
    head = ["connections", "pods at once", "balancer", "takes", "moves a connection"]
    yield table([*head, "fullest pod", "connects at one pod", "its CPU"], rows)

    rows = []
    for title, _, one in plans:
        fail = shard_fails_over(one, costs, AWAY)
        rows.append(
            [
                title,
                f"{fail.channels:,.0f}",
                f"{fail.refused:,.0f}",
                f"{fail.shard.over:.1f} s",
                f"{fail.pod.over:.1f} s",
            ]
        )
    yield (
        f"**A shard fails over** within {AWAY:.0f} s. Its channels are subscribed again at the new "
        "primary, each with a read, and their clients are told one gap."
    )
    head = ["connections", "channels of the shard", "events answered 503 (repeat)"]
    yield table([*head, "until all are subscribed and read", "pods' own work"], rows)


def breaks(costs: Costs) -> str:
    rows = [
        [about(one.connections), one.name, one.remedy]
        for one in limits(Load(1), costs)
        if not math.isinf(one.connections)
    ]
    return table(["connections", "what ends", "what is done"], rows)


def histories(costs: Costs) -> str:
    rows = []
    for retained in HISTORIES:
        each = log_bytes(costs, retained) + costs.channel_bytes + costs.subscription_bytes
        rows.append([retained, size(each), *(size(each * users) for users in SIZES)])
    head = ["events retained a user", "a user", *(f"{users:,}" for users in SIZES)]
    return table(head, rows)


def heavier(costs: Costs) -> str:
    """One million connections under other loads."""
    base = Load(1_000_000)
    loads = [
        ("as above", base),
        ("10 events a user and minute", replace(base, to_user=1 / 6)),
        ("1 event a user and second", replace(base, to_user=1.0)),
        ("`all` once a second", replace(base, all_rate=1.0)),
        ("topics of 10,000 with 1 event/s each", replace(base, topic_size=10_000, topic_rate=1.0)),
        ("connections last a minute", replace(base, session=60.0)),
        ("history of 10", replace(base, retained=10)),
    ]
    rows = []
    for name, one in loads:
        found = plan(one, costs)
        rows.append(
            [
                name,
                f"{three(one.published)}/s",
                f"{three(one.delivered)}/s",
                found.pods,
                percent(found.pod_busy),
                found.shards,
                percent(found.hottest_busy),
                latency(found, costs),
            ]
        )
    head = ["1,000,000 connections", "published", "delivered", "pods", "CPU of a pod", "shards"]
    return table([*head, "CPU of the hottest shard", "p50 / p99"], rows)


def latency(one: Plan, costs: Costs) -> str:
    found = publish_to_socket(one, costs)
    return f"{found.p50:.1f} / {found.p99:.1f} ms"


def three(value: float) -> str:
    """With three digits that count."""
    if value >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def about(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def minutes(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def size(count: float) -> str:
    """Bytes with a unit of thousands."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def columns(costs: Costs, sizes: Sequence[int], base: Load) -> list[tuple[str, int, Plan]]:
    """Each size as one fleet; the largest in cells as well."""
    found = [(f"{count:,}", 1, plan(replace(base, connections=count), costs)) for count in sizes]
    largest = replace(base, connections=max(sizes))
    if largest.connections > CELL:
        cells = in_cells(largest, costs, CELL)
        found.append((f"{largest.connections:,} in {cells.cells} cells", cells.cells, cells.each))
    return found


def write(docs: Path) -> None:
    """The tables and pictures of docs/scaling.md."""
    costs, sources = read(load(docs))
    document = docs / "scaling.md"
    plans = columns(costs, SIZES, Load(1))
    put(document, "costs", costs_table(sources))
    put(document, "sizing", sizing(plans, costs))
    put(document, "limits", breaks(costs))
    put(document, "histories", histories(costs))
    put(document, "loads", heavier(costs))
    put(document, "storms", "\n\n".join(storms(plans[:2], costs)))
    from bench.simulation.pictures import draw

    for picture in draw(costs, docs / FOLDER):
        print(picture)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=__doc__)
    parser.add_argument("--connections", type=int, metavar="N", help="print the plan for so many")
    parser.add_argument("--per-minute", type=float, default=1.0, help="events to each user; 1")
    parser.add_argument("--all-per-hour", type=float, default=1.0, help="events to everyone; 1")
    parser.add_argument("--session", type=float, default=3600.0, help="seconds a connection lasts")
    parser.add_argument("--history", type=int, default=100, help="events retained a user; 100")
    options = parser.parse_args()
    if options.connections is None:
        write(DOCS)
        return
    one = Load(
        options.connections,
        to_user=options.per_minute / 60,
        all_rate=options.all_per_hour / 3600,
        session=options.session,
        retained=options.history,
    )
    costs, _ = read(load(DOCS))
    plans = columns(costs, [one.connections], one)
    print(sizing(plans, costs), *storms(plans[:1], costs), sep="\n\n")


if __name__ == "__main__":
    main()
