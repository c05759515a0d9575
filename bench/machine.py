"""What the kernel says of processes and of this machine."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from service.broker.embedded import find_engine

_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024
_TICKS = os.sysconf("SC_CLK_TCK")


def family(pids: Iterable[int]) -> list[int]:
    """The processes and all that they started."""
    found = list(pids)
    for pid in found:
        for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in tasks.read_text().split()]
    return found


def rss_kb(pids: Iterable[int]) -> int:
    """Resident memory of processes and their children."""
    return sum(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_KB for pid in family(pids)
    )


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes and their children so far."""
    return sum(_cpu_seconds(Path(f"/proc/{pid}")) for pid in family(pids))


def _cpu_seconds(process: Path) -> float:
    # To the nanosecond where the kernel says it, of the threads that live; else in ticks of 10 ms.
    threads = [*process.glob("task/*/schedstat")]
    if threads:
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def all_cpu_seconds() -> float:
    """What everything on this machine has used so far; what its host withheld counts too."""
    user, nice, system, _, _, *more = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    return sum(map(int, (user, nice, system, *more))) / _TICKS


def describe() -> str:
    """Processor, cores, memory, kernel and Python, in a line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


@cache
def engine_version() -> str:
    """The engine's name and version."""
    said = subprocess.run([find_engine(), "--version"], capture_output=True, text=True).stdout
    name, _, rest = said.partition(" server v=")
    return f"{name} {rest.partition(' ')[0]}"
