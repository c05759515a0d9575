"""Who is pinged, who is reaped, and when to look again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.heartbeat import Beat, Pulse, check_pulse

SEEN, INTERVAL, TIMEOUT = 100.0, 25.0, 10.0


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
    assert check_pulse(now, SEEN, pinged, INTERVAL, TIMEOUT) == expected


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 500))
def test_a_silent_peer_is_pinged_once_and_reaped_in_time(
    interval: int, timeout: int, seen: int
) -> None:
    now, pinged = float(seen), False
    beats: list[Beat] = []
    while not beats or beats[-1] is not Beat.REAP:
        pulse = check_pulse(now, seen, pinged, interval, timeout)
        beats.append(pulse.beat)
        pinged = pinged or pulse.beat is Beat.PING
        assert pulse.at > now or pulse.beat is Beat.REAP
        now = pulse.at
    assert beats == [Beat.WAIT, Beat.PING, Beat.REAP]
    assert now == seen + interval + timeout
