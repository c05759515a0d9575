"""Nothing grows. SOAK_SECONDS=3600 for an hour of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.soak import soak

SECONDS = float(os.environ.get("SOAK_SECONDS", "6"))
SEED = int(os.environ.get("SOAK_SEED", "1"))


@pytest.mark.timeout(SECONDS + 180)
async def test_everything_is_flat_at_the_end(tmp_path: Path) -> None:
    found = await soak(SECONDS, SEED, tmp_path, lambda line: print(line, flush=True))
    before, after = found.before, found.after
    assert before is not None
    assert after is not None
    assert found.connects > 200
    assert found.streams > found.connects / 4
    assert found.received > found.streamed > 0
    assert found.published > 0
    assert (after.connections, after.streams, after.channels) == (0, 0, 0)
    assert after.subscriptions == before.subscriptions
    # Ids expire after five minutes, positions after a month; both have their number of channels.
    assert after.keys <= before.keys + 2
    # A scrape opens a connection of its own now and then.
    assert after.descriptors <= before.descriptors + 3
    assert after.tasks <= before.tasks + 3
    first, last = found.during[len(found.during) // 2], found.during[-1]
    growth = last.rss - first.rss
    print(f"memory grew by {growth / 1e6:.1f} MB over the second half")
    assert growth < 20e6
