"""From settings to running processes: `herald serve` and `herald dev`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from service.app.garbage import set_aside
from service.app.node import Node, Place, raise_open_files_limit
from service.app.server import Sockets, bind_sockets, serve
from service.app.workers import run_workers
from service.settings import Settings
from service.telemetry.logs import configure_logging

Prepare = Callable[[Settings, Sockets, Node], None]
Announce = Callable[[Settings, Sockets, Node], Awaitable[None]]


def run(
    settings: Settings, announce: Announce | None = None, prepare: Prepare | None = None
) -> int:
    """Run Herald until it is told to stop; gives back the exit status.

    `prepare` is called by every worker before it listens, `announce` by the first once it does.

    Raises:
        SettingsError: before anything is started.
    """
    configure_logging(settings.log_level, settings.log_format)
    raise_open_files_limit()
    if settings.workers == 1:
        sockets = bind_sockets(settings)
        return _run_one(settings, sockets, Place(), announce, prepare)
    # What cannot be used is told here: workers would fail, be started again, fail again.
    asyncio.run(_try(settings))
    # Shared ports could be shared with another Herald as well, and each would get a part of the
    # clients: bind them alone first.
    bind_sockets(settings).close()
    # The parent keeps the ports but never listens: a port of 0 is chosen once for all.
    reserved = bind_sockets(settings, shared=True)
    fixed = settings.model_copy(
        update={
            "port": reserved.port,
            "api_port": None if reserved.api is None else reserved.api_port,
        }
    )

    def work(place: Place) -> None:
        sockets = bind_sockets(fixed, shared=True)
        if _run_one(fixed, sockets, place, announce if place.worker == 0 else None, prepare):
            raise SystemExit(1)

    try:
        return run_workers(settings.workers, work)
    finally:
        reserved.close()


async def _try(settings: Settings) -> None:
    Node(settings)


def _run_one(
    settings: Settings,
    sockets: Sockets,
    place: Place,
    announce: Announce | None,
    prepare: Prepare | None,
) -> int:
    async def announced(node: Node) -> None:
        if announce is not None:
            await announce(settings, sockets, node)

    def prepared(node: Node) -> None:
        if prepare is not None:
            prepare(settings, sockets, node)

    set_aside()
    run_in_loop(serve(settings, sockets, place, announced, prepared))
    return 0


def run_in_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop where there is one (not on Windows)."""
    if sys.platform == "win32":
        asyncio.run(work)
    else:
        import uvloop

        uvloop.run(work)
