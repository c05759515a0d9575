"""The picture of a rollout: who was connected, and how many came back a second."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from tests.rollout.rehearsal import Rehearsal

mpl.use("Agg")

from matplotlib import pyplot as plt

_ACCENT, _NEUTRAL, _INK, _PALE = "#d1495b", "#5b7a99", "#2b2b2b", "#b8b8b8"


def draw(outcome: Rehearsal, path: Path) -> None:
    """Two panels over the same time, with what was done to the pods marked in both."""
    begin = outcome.samples[0].at
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 4.6), sharex=True, dpi=110)
    times = [sample.at - begin for sample in outcome.samples]
    above.plot(times, [sample.connected for sample in outcome.samples], color=_NEUTRAL)
    above.set_ylim(0, outcome.subscribers * 1.08)
    above.set_ylabel("connected")
    rates = outcome.reconnects()
    below.fill_between(*zip(*rates, strict=True), step="pre", color=_ACCENT, linewidth=0)
    below.set_ylim(0)
    below.set_ylabel("reconnects a second")
    below.set_xlabel("seconds")
    for moment in outcome.history:
        if moment.what == "SIGTERM" or moment.what.startswith("it has ended"):
            for axes in (above, below):
                axes.axvline(moment.at - begin, color=_PALE, linewidth=0.8, zorder=0)
            label = "SIGTERM" if moment.what == "SIGTERM" else "ended"
            above.text(
                moment.at - begin,
                outcome.subscribers * 0.04,
                f" {label}",
                color=_INK,
                fontsize=7,
            )
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
