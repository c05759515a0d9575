"""A copy of the chart with an engine to try out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helm.rendered.chart import CHART


@pytest.fixture(scope="session")
def trial_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart as `helm dependency update helm/herald/charts/trial` leaves it, with a stub."""
    chart = tmp_path_factory.mktemp("chart") / "herald"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("*.tgz", "Chart.lock"))
    shutil.copytree(Path(__file__).parents[1] / "stub-valkey", chart / "charts/trial/charts/valkey")
    return chart
