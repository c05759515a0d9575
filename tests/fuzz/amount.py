"""How many inputs, and from which seed: few and always the same ones, unless asked for others.

FUZZ_INPUTS is the number of inputs of each test, FUZZ_SEED a number that makes them others.
"""

from __future__ import annotations

import os

SEED = int(os.environ.get("FUZZ_SEED", "1"))
_ASKED = os.environ.get("FUZZ_INPUTS")
IS_LONG = _ASKED is not None


def inputs(usual: int) -> int:
    """So many, or what was asked for. A slow test makes only a part of it."""
    return usual if _ASKED is None else int(_ASKED)


def how_to_repeat(test: str, count: int) -> str:
    """The command that runs a test again with the same inputs."""
    return f"FUZZ_SEED={SEED} FUZZ_INPUTS={count} .venv/bin/pytest --timeout=0 {test}"
