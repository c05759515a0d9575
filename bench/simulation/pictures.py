"""The pictures in docs/scaling."""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.costs import Costs
from bench.plots import ACCENT, FLOOR, INK, NEUTRAL
from bench.simulation.fleet import MAXCLIENTS, Load, in_cells, plan, work
from bench.simulation.storms import pod_dies, publish_to_socket

_GROWTH = [10_000 * 10 ** (step / 4) for step in range(17)]
_PODS = ((2, ACCENT, "-"), (4, NEUTRAL, "-"), (11, INK, "--"), (41, FLOOR, "-"))


def draw(costs: Costs, folder: Path) -> list[Path]:
    """Draw them all; where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _growth(costs, folder / "growth.png"),
        _storm(costs, folder / "storm.png"),
        _latency(costs, folder / "latency.png"),
    ]


def _growth(costs: Costs, path: Path) -> Path:
    """What one fleet spends on holding itself together, and what cells spend."""
    figure, axes = plt.subplots(1, 3, figsize=(8, 3.2), layout="constrained")
    sizes = [round(size) for size in _GROWTH]
    ones = [plan(Load(size), costs) for size in sizes]
    cells = [in_cells(Load(size), costs).each for size in sizes]
    for axis, title, values in (
        (axes[0], "links at each shard", lambda one: one.links_per_shard),
        (axes[1], "shards that each pod needs", lambda one: one.shards),
        (axes[2], "probes, % of a shard", lambda one: one.pods * costs.engine_probe_us / 1e4),
    ):
        axis.loglog(sizes, [values(one) for one in ones], color=ACCENT, label="one fleet")
        axis.loglog(sizes, [values(one) for one in cells], color=NEUTRAL, label="cells of 1 M")
        _tidy(axis, title, "connections")
        axis.set_xticks([1e4, 1e6, 1e8], ["10 k", "1 M", "100 M"])
    axes[0].axhline(MAXCLIENTS, color=INK, linestyle=":", linewidth=1)
    axes[0].annotate("maxclients", (1e4, MAXCLIENTS), xytext=(2, -12), textcoords="offset points")
    axes[1].legend(frameon=False, loc="upper left", fontsize=9)
    return _save(figure, path)


def _storm(costs: Costs, path: Path) -> Path:
    """How long a client waits after a pod's death."""
    figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
    jitters = [0.25 * step for step in range(1, 41)]
    for pods, colour, line in _PODS:
        # Each pod has 25,000, whatever the fleet's size.
        fleet = work(Load(25_000 * pods), costs, pods, plan(Load(25_000 * pods), costs).shards)
        waits = [pod_dies(fleet, costs, jitter).pod.longest_wait for jitter in jitters]
        axis.plot(jitters, waits, line, color=colour, label=f"{pods} pods", linewidth=1.8)
    axis.set_ylabel("longest wait, s")
    _tidy(axis, "one of the pods dies with 25,000 clients", "bound of the clients' jitter, s")
    axis.set_ylim(0)
    axis.legend(frameon=False)
    return _save(figure, path)


def _latency(costs: Costs, path: Path) -> Path:
    """From POST to socket, as a pod gets busier."""
    figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
    busy, found = [], []
    for step in range(16):
        load = Load(1_000_000, to_user=1 / 60 + step / 60)
        one = work(load, costs, 41, 8)
        if max(one.pod_busy, one.hottest_busy) > 0.9:
            break
        busy.append(100 * one.pod_busy)
        found.append(publish_to_socket(one, costs, count=100_000))
    for name, label, colour in (
        ("p50", "p50", NEUTRAL),
        ("p99", "p99", ACCENT),
        ("p999", "p99.9", INK),
    ):
        axis.plot(busy, [getattr(one, name) for one in found], color=colour, label=label)
    axis.set_ylabel("ms")
    axis.set_ylim(0)
    _tidy(
        axis,
        "an event to one user, POST to socket: 1 M connections, 41 pods, 8 shards",
        "a pod's CPU, %",
    )
    axis.legend(frameon=False)
    return _save(figure, path)


def _tidy(axis: Axes, title: str, below: str) -> None:
    axis.set_title(title, loc="left", fontsize=10.5)
    axis.set_xlabel(below)
    axis.grid(color="#e6e6e6", zorder=0)
    axis.set_axisbelow(True)


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
