"""Says on standard error what runs now, what was seen, and about how long it still takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping


class Progress:
    """`expected` has the seconds that each scenario takes on the machine it was written on."""

    def __init__(self, expected: Mapping[str, float]) -> None:
        self._expected = dict(expected)
        self._began = time.monotonic()
        self._over = 0.0  # expected seconds of the scenarios that are done
        self._scenario = ""
        self._steps = self._step = 0

    def begin(self, scenario: str) -> None:
        """A scenario begins."""
        self._over += self._expected.pop(self._scenario, 0.0)
        self._scenario = scenario
        self._steps = self._step = 0

    def plan(self, steps: int) -> None:
        """It has so many steps more."""
        self._steps += steps

    def step(self, text: str) -> None:
        """One of them begins."""
        self._step += 1
        self._say(f"[{_clock(self._elapsed())}{self._left()}] {self._scenario}: {text}")

    def saw(self, text: str) -> None:
        """What came of it."""
        self._say(f"    {text}")

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _left(self) -> str:
        now = self._expected.get(self._scenario, 0.0)
        share = (self._step - 1) / self._steps if self._steps else 0.0
        done = self._over + now * share
        left = sum(self._expected.values()) - now * share
        # By what was foreseen, then ever more by how long it really took.
        pace = (self._elapsed() + 60.0) / (done + 60.0)
        return f", about {max(1, round(left * pace / 60))} min left"

    @staticmethod
    def _say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02}:{int(seconds) % 60:02}"
