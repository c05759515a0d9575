"""A short rollout: nobody is refused, nothing is lost, every pod ends by itself."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.rollout.deployment import Times
from tests.rollout.rehearsal import rehearse

_TIMES = Times(probe=0.2, routing=0.3, pre_stop=1.0, drain=1.0, grace=60.0)


@pytest.mark.timeout(300)
async def test_a_rollout_refuses_nobody_and_loses_nothing(tmp_path: Path) -> None:
    seed = secrets.randbelow(1 << 30)
    outcome = await rehearse(2, 40, _TIMES, 0.02, seed, tmp_path)
    assert outcome.holds, (seed, outcome.verdict, outcome.refusals, outcome.retries)
    assert outcome.closes["1012"] >= 40
