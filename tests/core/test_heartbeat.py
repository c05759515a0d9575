"""Who is pinged, who is reaped, when to look again, and that no wave of pings forms."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.heartbeat import Beat, Pulse, check_pulse, ping_due

SEEN, INTERVAL, TIMEOUT = 100.0, 25.0, 10.0
SERIAL = 0
"""Its moments are the multiples of half an interval: 112.5 and 125.0."""


@pytest.mark.parametrize(
    ("now", "pinged", "expected"),
    [
        (100.0, False, Pulse(Beat.WAIT, 125.0)),
        (124.9, False, Pulse(Beat.WAIT, 125.0)),
        (125.0, False, Pulse(Beat.PING, 135.0)),
        (134.9, False, Pulse(Beat.PING, 135.0)),
        (125.0, True, Pulse(Beat.WAIT, 135.0)),
        (134.9, True, Pulse(Beat.WAIT, 135.0)),
        (135.0, True, Pulse(Beat.REAP, 135.0)),
        (135.0, False, Pulse(Beat.REAP, 135.0)),
        (9_999.0, True, Pulse(Beat.REAP, 9_999.0)),
    ],
)
def test_table(now: float, pinged: bool, expected: Pulse) -> None:
    assert check_pulse(now, SEEN, SERIAL, pinged, INTERVAL, TIMEOUT) == expected


times = st.floats(0, 1e9)
serials = st.integers(0, 10**9)
durations = st.floats(0.01, 10_000)


@given(times, serials, durations)
def test_ping_is_due_in_the_second_half_of_the_interval(
    seen: float, serial: int, interval: float
) -> None:
    due = ping_due(seen, serial, interval)
    rounding = 4 * math.ulp(seen + interval)
    assert seen + interval / 2 - rounding <= due <= seen + interval


@given(times, serials, durations, durations)
def test_silent_peer_is_pinged_once_and_reaped_in_time(
    seen: float, serial: int, interval: float, timeout: float
) -> None:
    now, pinged = seen, False
    beats: list[Beat] = []
    while not beats or beats[-1] is not Beat.REAP:
        pulse = check_pulse(now, seen, serial, pinged, interval, timeout)
        beats.append(pulse.beat)
        if pulse.beat is Beat.PING:
            pinged = True
            assert pulse.at - now >= timeout * 0.999 - 1e-6, "it has the whole timeout to answer"
        assert pulse.at > now or pulse.beat is Beat.REAP
        now = pulse.at
    assert beats == [Beat.WAIT, Beat.PING, Beat.REAP]
    assert now == seen + interval + timeout


def most_at_once(moments: list[float], width: float) -> int:
    """The most of these that lie in one slice of this width."""
    return max(Counter(int(moment / width) for moment in moments).values())


@given(times, st.integers(0, 10**6), durations)
def test_peers_seen_at_one_moment_are_not_pinged_in_one_wave(
    seen: float, first: int, interval: float
) -> None:
    """As after a reconnect storm, or where all acknowledge the same event."""
    due = [ping_due(seen, serial, interval) - seen for serial in range(first, first + 1_000)]
    # In ten slices of the second half of the interval, 100 each if they were even.
    assert most_at_once(due, interval / 20) <= 110


@given(st.integers(0, 10**6), st.floats(0, 0.4))
def test_peers_that_answer_keep_their_places(first: int, round_trip: float) -> None:
    """They are spread for good: and each is pinged once an interval, no more."""
    seen = dict.fromkeys(range(first, first + 200), 1_000.0)
    for _ in range(20):
        due = {serial: ping_due(at, serial, 1.0) for serial, at in seen.items()}
        assert most_at_once([moment % 1.0 for moment in due.values()], 0.05) <= 26
        seen = {serial: moment + round_trip for serial, moment in due.items()}
    assert all(1_019.5 <= moment <= 1_020.001 for moment in due.values())
