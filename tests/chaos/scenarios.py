"""All scenarios."""

from __future__ import annotations

from tests.chaos import clients, engine_faults, gateways, network

ALL = (
    *gateways.SCENARIOS,
    *engine_faults.SCENARIOS,
    *network.SCENARIOS,
    *clients.SCENARIOS,
)
