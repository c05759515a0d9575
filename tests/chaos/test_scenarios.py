"""Every scenario, short. CHAOS_SEED=… repeats one that failed; `make chaos` plays the long ones."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from tests.chaos.scenarios import ALL
from tests.chaos.world import SHORT, Scenario, play


@pytest.mark.timeout(400)
@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
async def test_guarantees_hold(scenario: Scenario, tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1 << 30))
    print(f"to repeat: CHAOS_SEED={seed} pytest '{__name__}' -k '{scenario.name}'")
    outcome = await play(scenario, SHORT, seed, tmp_path)
    print(outcome)
    assert outcome.holds, outcome
    assert outcome.verdict.delivered > 0
    assert (outcome.verdict.gaps > 0) == scenario.gaps
    assert (outcome.unready_after is not None) == scenario.unready
