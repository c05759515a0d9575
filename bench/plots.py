"""The pictures in docs/performance: bars for each scenario, percentiles for latency."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import matplotlib as mpl

from bench.figures import Result, middle, names, number, values

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ACCENT, NEUTRAL, FLOOR, INK = "#d1495b", "#5b7a99", "#b8b8b8", "#2b2b2b"
_DECADES = 12.0
"""From this ratio of largest to smallest on, the axis is logarithmic."""

plt.rcParams.update(
    {
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.edgecolor": FLOOR,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "white",
    }
)


@dataclass(frozen=True)
class Chart:
    """One bar a system."""

    title: str
    path: tuple[str, ...]
    scale: float = 1.0
    unit: str = ""


def draw(result: Result, folder: Path) -> list[str]:
    """Draw a scenario's pictures; their file names."""
    name = result["scenario"]
    pictures = [_bars(result, _charts(result), folder / f"{name}.png")]
    if name == "latency":
        pictures.append(_percentiles(result, folder / "latency-percentiles.png"))
    return [picture.name for picture in pictures if picture is not None]


def _charts(result: Result) -> Sequence[Chart]:
    charts: Mapping[str, Callable[[Result], Sequence[Chart]]] = {
        "connections": _connections,
        "fanout": lambda result: [
            Chart(f"{kind}, deliveries/s to {size:,}", ("sizes", str(size), key, "rate"))
            for size in result["sizes"]
            for kind, key in (("single messages", "single"), ("bursts of 50", "burst"))
        ],
        "latency": lambda result: [
            Chart("most events/s, each to one user", ("maximum", "rate")),
            Chart("p99 at 50 % of its own maximum, ms", ("own", "50", "p99")),
        ],
        "publish": lambda result: [
            Chart("single POSTs/s", ("single", "rate")),
            Chart("batches of 100, events/s", ("batch", "rate")),
        ],
        "resume": lambda result: [
            Chart("fresh connects/s", ("fresh", "rate")),
            Chart("back with all ten events, connections/s", ("resumed", "rate")),
        ],
        "scaleout": lambda result: [
            Chart("µs of CPU a connect", ("connect", "each_us")),
            Chart("µs of CPU a delivery to all", ("fanout", "each_us")),
            Chart("µs of CPU an event to one user", ("to_users", "each_us")),
        ],
    }
    return charts[result["scenario"]](result)


def _connections(result: Result) -> Sequence[Chart]:
    at = str(result["idle_at"])
    return [
        Chart(f"connects/s, to {int(at):,}", ("sizes", at, "rate")),
        Chart("KB of memory each", ("sizes", at, "rss_kb")),
        Chart(f"CPU with {int(at):,} idle, % of a core", ("idle", "server_busy"), 100),
    ]


def _bars(result: Result, charts: Sequence[Chart], path: Path) -> Path | None:
    """The charts below each other; in each the systems that have a figure, best known first."""
    shown = [(chart, rows) for chart in charts if (rows := _rows(result, chart))]
    if not shown:
        return None
    heights = [len(rows) + 1.6 for _, rows in shown]
    figure, axes = plt.subplots(
        len(shown),
        1,
        figsize=(8, 0.27 * sum(heights) + 0.3),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for (chart, rows), axis in zip(shown, axes[:, 0], strict=True):
        _chart(axis, chart, rows)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _rows(result: Result, chart: Chart) -> list[tuple[str, str, list[float]]]:
    """Label, colour and values of each system."""
    rows = []
    for name in names(result):
        found = [value * chart.scale for value in values(result, name, *chart.path).values()]
        # The engine's figure stands beside the batches, under a path of its own.
        if name == "engine" and chart.path[0] == "batch":
            found = list(values(result, name, "depth 32", "rate").values())
        if found:
            rows.append((_plain(result["labels"][name]), _colour(result, name), found))
    return rows


def _plain(label: str) -> str:
    return re.sub(r"[*`]", "", label)


def _colour(result: Result, name: str) -> str:
    label = result["labels"][name]
    if label.startswith("*floor"):
        return FLOOR
    return ACCENT if "Herald" in label or result["scenario"] == "scaleout" else NEUTRAL


def _chart(axis: Axes, chart: Chart, rows: Sequence[tuple[str, str, list[float]]]) -> None:
    centres = [median(found) for _, _, found in rows]
    spread = [
        [centre - min(found) for centre, (_, _, found) in zip(centres, rows, strict=True)],
        [max(found) - centre for centre, (_, _, found) in zip(centres, rows, strict=True)],
    ]
    places = range(len(rows))
    axis.barh(places, centres, color=[colour for _, colour, _ in rows], height=0.72)
    if any(map(any, spread)):
        axis.errorbar(centres, places, xerr=spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    axis.set_yticks(places, [label for label, _, _ in rows])
    axis.invert_yaxis()
    positive = [centre for centre in centres if centre > 0]
    logarithmic = bool(positive) and max(positive) / min(positive) > _DECADES
    axis.set_title(
        chart.title + (" (logarithmic)" if logarithmic else ""), loc="left", fontsize=10.5
    )
    highest = max(max(found) for _, _, found in rows)
    if logarithmic:
        axis.set_xscale("log")
        axis.set_xlim(min(positive) / 2.5, highest * 3)
    else:
        axis.set_xlim(0, highest * 1.15)
    axis.xaxis.set_major_formatter(lambda value, _: _short(value))
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#e6e6e6", zorder=0)
    axis.set_axisbelow(True)
    for place, (centre, (_, _, found)) in enumerate(zip(centres, rows, strict=True)):
        axis.annotate(
            number(centre),
            (max(found), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )


def _short(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def _percentiles(result: Result, path: Path) -> Path | None:
    """p50, p99 and p99.9 of each system at 10, 50 and 80 % of its own maximum."""
    parts = (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9"))
    shares = ("10", "50", "80")
    figure, axes = plt.subplots(1, 3, figsize=(8, 3.6), sharey=True, layout="constrained")
    drawn = False
    styles = ["-", "--", "-.", ":"]
    for axis, share in zip(axes, shares, strict=True):
        for number_, name in enumerate(names(result)):
            points = [middle(values(result, name, "own", share, part)) for part, _ in parts]
            if any(point is None for point in points):
                continue
            drawn = True
            herald = "Herald" in result["labels"][name]
            axis.plot(
                [label for _, label in parts],
                points,
                marker="o" if herald else ".",
                color=ACCENT if herald else NEUTRAL,
                linewidth=2.5 if herald else 1.2,
                linestyle="-" if herald else styles[number_ % len(styles)],
                alpha=1.0 if herald else 0.55 + 0.45 * (number_ % 2),
                zorder=3 if herald else 2,
                label=_plain(result["labels"][name]),
            )
        axis.set_yscale("log")
        axis.set_title(f"at {share} % of its own maximum", fontsize=10)
        axis.grid(axis="y", color="#e6e6e6")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes[0].set_ylabel("ms, from when the POST was due")
    if not drawn:
        plt.close(figure)
        return None
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
