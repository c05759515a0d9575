"""What this machine permits, and what must be there before anything is measured."""

from __future__ import annotations

import os
import resource
import shutil
import sys

from bench.lab import MOST_USERS
from bench.peers.peer import LOAD_CPU, SERVER_CPU

_SPARE_FILES = 300
"""Descriptors beside the connections: publishers, engine, logs, libraries."""
_FEWEST = 1000


class CannotMeasureError(Exception):
    """Why nothing can be measured here, in a sentence."""


def most_connections() -> int:
    """Raise the limit of open files as far as it goes; how many connections it allows.

    Raises:
        CannotMeasureError: what is missing.
    """
    if not sys.platform.startswith("linux"):
        raise CannotMeasureError("The benchmark needs Linux: /proc, epoll and taskset.")
    if not {SERVER_CPU, LOAD_CPU} <= os.sched_getaffinity(0):
        raise CannotMeasureError(
            "The benchmark needs two cores: one for the server, one for the load."
        )
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        raise CannotMeasureError("There is no C compiler; install one (Debian: apt install gcc).")
    if shutil.which("taskset") is None:
        raise CannotMeasureError(
            "There is no taskset; install it (Debian: apt install util-linux)."
        )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    files = MOST_USERS + _SPARE_FILES if hard == resource.RLIM_INFINITY else hard
    allowed = min(MOST_USERS, files - _SPARE_FILES)
    if allowed < _FEWEST:
        raise CannotMeasureError(
            f"The limit of open files is {hard}; allow {_FEWEST + _SPARE_FILES} at least, "
            f"{MOST_USERS + _SPARE_FILES} for all sizes (ulimit -n)."
        )
    return allowed
