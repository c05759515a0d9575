"""Servers of the tests' own, which leave no connection behind."""

from __future__ import annotations

import asyncio

from tests.harness.process import eventually


async def end_of(server: asyncio.Server) -> None:
    """Close it, and wait for its connections, which their handlers or peers must end.

    Also for those that are just being accepted, or shake hands for TLS: asyncio has no handler for
    them yet, and what is left open is told in some later test. (`wait_closed` waits for nothing
    before Python 3.12.)
    """
    server.close()
    for _ in range(3):
        await asyncio.sleep(0)
    await eventually(lambda: not getattr(server, "_active_count", 0), "the end of its connections")
