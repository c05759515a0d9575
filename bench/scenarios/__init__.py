"""What is measured. Each module has a `NAME`, and `run`, which gives back plain JSON."""

from __future__ import annotations

from types import ModuleType

from bench.scenarios import connections, fanout, latency, publish, resume, scaleout

ALL: dict[str, ModuleType] = {
    module.NAME: module for module in (connections, fanout, latency, publish, resume, scaleout)
}
