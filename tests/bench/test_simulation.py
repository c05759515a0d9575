"""The fleet on paper: its arithmetic holds, and it says when it cannot."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from pathlib import Path
from statistics import fmean

import pytest

from bench.costs import WHAT, Costs, read
from bench.simulate import SIZES, columns, sizing, storms
from bench.simulation.document import put, table
from bench.simulation.fleet import (
    Load,
    Rules,
    in_cells,
    limits,
    log_bytes,
    plan,
    pods_with_a_member,
    work,
)
from bench.simulation.storms import (
    DRAIN,
    _spread,
    absorb,
    all_reach,
    full_jitter,
    pod_dies,
    publish_to_socket,
    queue,
    rolling_restart,
    shard_fails_over,
)

COSTS, RULES = Costs(), Rules()


def test_every_cost_has_a_unit_and_a_source() -> None:
    costs, sources = read({})
    assert costs == COSTS
    assert {one.name for one in sources} == WHAT.keys() == {one.name for one in fields(Costs)}
    assert all(one.source and one.value > 0 for one in sources)


def test_the_benchmarks_results_replace_the_defaults() -> None:
    row = {"sizes": {"5000": {"single": {"server_cpu": 2.0, "delivered": 200_000}}}}
    costs, sources = read({"fanout": {"systems": {"herald": [row, row]}}})
    assert costs == replace(COSTS, delivery_us=10.0)
    assert [one.source for one in sources if one.name == "delivery_us"] == ["bench fanout"]


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"systems": {}},
        {"systems": {"herald": []}},
        {"systems": {"herald": [{"round": 0}]}},
        {"systems": {"herald": [{"sizes": {"1000": {"connections": 0, "server_cpu": 1.0}}}]}},
        {"systems": {"herald": [{"sizes": {"20000": {}}}, {"sizes": None}]}},
        {"systems": {"herald": [{"sizes": {"1000": {"rss_kb": "many"}}}]}},
    ],
)
def test_results_of_another_form_leave_the_defaults(result: dict[str, object]) -> None:
    assert read({"connections": result, "fanout": result, "resume": result})[0] == COSTS


@pytest.mark.parametrize("connections", [1, 10_000, 1_000_000, 100_000_000])
def test_a_plan_is_within_the_rules_with_one_pod_less(connections: int) -> None:
    found = plan(Load(connections), COSTS)
    less = work(found.load, COSTS, found.pods - 1, found.shards)
    assert less.per_pod <= RULES.pod_connections
    assert less.pod_busy <= RULES.busy
    assert found.shard_busy <= RULES.busy
    assert found.engine_bytes / found.shards <= RULES.shard_bytes
    assert connections / found.shards <= RULES.shard_channels


def test_a_load_that_no_fleet_carries_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit one fleet"):
        plan(Load(2_000_000_000), COSTS)


def test_work_is_neither_lost_nor_made_by_dividing_it() -> None:
    bare = replace(COSTS, node_us=0.0, shard_us=0.0, engine_probe_us=0.0)
    load = Load(100_000, topic_size=0, topic_rate=0.0, all_rate=0.0)
    one, ten = work(load, bare, 1, 2), work(load, bare, 10, 20)
    assert one.pod_busy == pytest.approx(10 * ten.pod_busy)
    assert one.shard_busy == pytest.approx(10 * ten.shard_busy, rel=0.001)


def test_what_reaches_everyone_costs_each_pod_the_same_however_many_there_are() -> None:
    quiet = Load(1_000_000, to_user=0.0, topic_size=0, topic_rate=0.0, all_rate=0.0)
    loud = replace(quiet, all_rate=1.0)
    for pods in (10, 100):
        more = work(loud, COSTS, pods, 4).pod_busy - work(quiet, COSTS, pods, 4).pod_busy
        writes = 1_000_000 / pods * COSTS.delivery_us / 1e6
        assert more == pytest.approx(writes, rel=0.01)
        plan_ = work(loud, COSTS, pods, 4)
        hottest = plan_.hottest_busy - plan_.shard_busy
        assert hottest == pytest.approx(pods * COSTS.engine_push_us / 1e6)


@pytest.mark.parametrize(
    ("pods", "members", "reached"), [(1, 10, 1.0), (10, 1, 1.0), (10, 10_000, 10.0), (2, 2, 1.5)]
)
def test_pods_that_an_event_to_a_topic_reaches(pods: int, members: int, reached: float) -> None:
    assert pods_with_a_member(pods, members) == pytest.approx(reached)


def test_a_short_log_takes_what_the_engine_allots_at_once() -> None:
    assert log_bytes(COSTS, 0) == 0
    assert log_bytes(COSTS, 1) == log_bytes(COSTS, 10) == COSTS.first_event_bytes
    assert log_bytes(COSTS, 100) == 100 * COSTS.event_bytes


def test_limits_come_in_order_and_are_where_a_plan_passes_them() -> None:
    found = limits(Load(1), COSTS)
    assert [one.connections for one in found] == sorted(one.connections for one in found)
    shards = next(one for one in found if "ten shards" in one.name)
    assert plan(Load(round(shards.connections)), COSTS).shards > 10
    assert plan(Load(round(0.99 * shards.connections)), COSTS).shards <= 10


def test_cells_keep_the_links_of_a_shard_the_same() -> None:
    one, hundred = in_cells(Load(1_000_000), COSTS), in_cells(Load(100_000_000), COSTS)
    assert (one.cells, hundred.cells) == (1, 100)
    assert hundred.each.links_per_shard == one.each.links_per_shard
    assert plan(Load(100_000_000), COSTS).links_per_shard > 50 * one.each.links_per_shard


def test_a_core_does_all_that_comes_and_never_more_than_it_can() -> None:
    found = absorb(full_jitter(10_000, 1.0), 200.0, 0.1)
    assert max(found.busy) <= 1.0 + 1e-9
    done = sum(share - 0.1 for share in found.busy) * 0.05
    assert done == pytest.approx(2.0)
    assert found.over == pytest.approx(2.0 / 0.9, abs=0.06)
    with pytest.raises(ValueError, match="without room"):
        absorb([1.0], 1.0, 1.0)


def test_more_jitter_never_makes_a_lost_pods_clients_wait_longer() -> None:
    fleet = work(Load(50_000), COSTS, 2, 1)
    waits = [pod_dies(fleet, COSTS, bound).pod.longest_wait for bound in (1.0, 3.0, 5.0, 30.0)]
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > 3.0
    assert waits[-1] == 0.0


def test_restarts_move_clients_least_often_to_the_emptiest_pod() -> None:
    fleet = plan(Load(1_000_000), COSTS)
    anywhere = rolling_restart(fleet, COSTS, 1)
    emptiest = rolling_restart(fleet, COSTS, 1, least=True)
    assert 1.0 <= emptiest.moves < 1.1 < anywhere.moves
    assert emptiest.fullest < 1.1 < anywhere.fullest
    assert emptiest.seconds == anywhere.seconds == fleet.pods * (DRAIN + 5)
    assert emptiest.connects > anywhere.connects
    with pytest.raises(ValueError, match="nobody"):
        rolling_restart(fleet, COSTS, fleet.pods)


def test_the_emptiest_pods_are_filled_to_one_level() -> None:
    held = [5.0, 1.0, 3.0, 9.0]
    _spread(held, [0, 1, 2], 3.0, least=True)
    assert held == [5.0, 3.5, 3.5, 9.0]
    _spread(held, [0, 1, 2], 3.0, least=False)
    assert held == [6.0, 4.5, 4.5, 9.0]


def test_a_failover_takes_longer_the_more_channels_the_shard_has() -> None:
    load = Load(1_000_000)
    few, many = (shard_fails_over(work(load, COSTS, 41, n), COSTS, 2.0) for n in (8, 4))
    assert many.shard.over > 1.9 * few.shard.over
    assert many.refused == 2 * few.refused


def test_waiting_agrees_with_theory() -> None:
    # Equal pieces, random arrivals (M/D/1): the mean wait is busy · size / (2 · (1 − busy)).
    for busy in (0.3, 0.7):
        waits, seen = queue(random.Random(7), [(busy * 1000, 0.001)], 200_000)
        assert seen == pytest.approx(busy)
        assert fmean(waits) == pytest.approx(0.001 * busy / (2 * (1 - busy)), rel=0.1)


def test_a_core_with_too_much_work_is_refused() -> None:
    with pytest.raises(ValueError, match="more work"):
        queue(random.Random(1), [(1001.0, 0.001)], 10)
    assert queue(random.Random(1), [(0.0, 1.0)], 3) == ([0.0] * 3, 0.0)


def test_latency_is_the_same_for_the_same_seed_and_grows_with_the_load() -> None:
    load = Load(1_000_000)
    quiet = work(load, COSTS, 41, 8)
    busy = work(replace(load, to_user=0.2), COSTS, 41, 8)
    first, again = (publish_to_socket(quiet, COSTS, 5, 20_000) for _ in "ab")
    assert first == again
    assert first.p50 <= first.p99 <= first.p999
    assert publish_to_socket(busy, COSTS, 5, 20_000).p99 > first.p99
    assert all_reach(quiet, COSTS) > 24_000 * COSTS.delivery_us / 1e6


def test_tables_are_written_between_their_marks_and_nothing_else_changes(tmp_path: Path) -> None:
    document = tmp_path / "scaling.md"
    document.write_text("# A\n\n<!-- generated: one -->\nold\n<!-- end -->\n\nkept\n")
    put(document, "one", r"new \1")
    put(document, "two", "more")
    text = document.read_text()
    assert text.startswith("# A\n\n<!-- generated: one -->\n\nnew \\1\n\n<!-- end -->\n\nkept\n")
    assert "old" not in text
    assert text.endswith("<!-- generated: two -->\n\nmore\n\n<!-- end -->\n")
    put(document, "two", "more")
    assert document.read_text() == text


def test_tables_have_a_cell_for_every_column() -> None:
    plans = columns(COSTS, SIZES, Load(1))
    assert [title for title, _, _ in plans][-1] == "100,000,000 in 100 cells"
    for text in (table(["a", "b"], [["x", 1000]]), sizing(plans, COSTS), *storms(plans[:2], COSTS)):
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1
    assert "| x | 1,000 |" in table(["a", "b"], [["x", 1000]])
