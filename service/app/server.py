"""Runs a node behind uvicorn, from the sockets to the last goodbye."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple, cast

import uvicorn

from service.app.listener import Listener
from service.app.node import Face, Node, Place
from service.settings import Settings, SettingsError
from service.supervision import on_loop_error, on_unraisable, supervise

logger = logging.getLogger("herald.node")

_BACKLOG = 4096
_START_SECONDS = 2.0
_START_POLL = 0.01
_KEEP_ALIVE = 75
"""Seconds: longer than the 60 of common load balancers, so that they, not we, close idle ones."""
_IN_FLIGHT_SECONDS = 10
"""How long a stopping server waits for requests in flight."""


class Sockets(NamedTuple):
    """Bound sockets: of the client edge, and of the API where it has a port of its own."""

    client: socket.socket
    api: socket.socket | None

    @property
    def port(self) -> int:
        """The client edge's port, also where any free one was asked for."""
        return int(self.client.getsockname()[1])

    @property
    def api_port(self) -> int:
        """Where the API is."""
        return self.port if self.api is None else int(self.api.getsockname()[1])

    def close(self) -> None:
        """Give the ports back."""
        self.client.close()
        if self.api is not None:
            self.api.close()


def bind_sockets(settings: Settings, *, shared: bool = False) -> Sockets:
    """Bind the configured ports; `shared` ones may be bound by several workers.

    Raises:
        SettingsError: where a port or address cannot be had.
    """
    client = _bind(settings.host, settings.port, "HERALD_PORT", shared=shared)
    api = None
    if settings.api_port is not None:
        try:
            api = _bind(settings.host, settings.api_port, "HERALD_API_PORT", shared=shared)
        except SettingsError:
            client.close()
            raise
    return Sockets(client, api)


def _bind(host: str, port: int, name: str, *, shared: bool) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise SettingsError([f"HERALD_HOST {host!r} is no address of this machine."]) from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            # Each worker listens by itself and the kernel spreads the connections evenly.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _no_port(host, port, name, error) from None
    return sock


def _listen(sock: socket.socket, host: str, name: str) -> None:
    try:
        # Two that are bound and do not listen yet may share a port: the second hears of it here.
        sock.listen(_BACKLOG)
    except OSError as error:
        raise _no_port(host, int(sock.getsockname()[1]), name, error) from None


def _no_port(host: str, port: int, name: str, error: OSError) -> SettingsError:
    reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error})"
    return SettingsError([f"Port {port} on {host} {reason}; set {name} to another."])


class _Server(uvicorn.Server):
    """uvicorn, but the listening and the signals are ours: the drain comes before its shutdown."""

    def __init__(
        self, config: uvicorn.Config, sock: socket.socket, failed: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._told = asyncio.Event()
        self._failed = failed
        self._listener = Listener(sock, _BACKLOG, self._protocol, lambda: failed("accept"))

    def end(self) -> None:
        """Shut down, gracefully."""
        self.should_exit = True
        self._told.set()

    def _protocol(self) -> asyncio.Protocol:
        make = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await self._listener.listen()
        self.servers = cast("list[asyncio.Server]", [self._listener])  # to be closed
        self.started = True

    async def main_loop(self) -> None:
        """Uvicorn's looks ten times a second whether it is to end; this one is told."""
        await supervise(self._tick, self._tick_failed)

    async def _tick(self) -> None:
        while not await self.on_tick(0):  # sets the date of the answers
            await self._listener.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._told.wait()

    def _tick_failed(self, error: Exception) -> None:
        self._failed("accept")
        logger.error("looking after the port failed; it goes on", exc_info=error)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(face: Face, sock: socket.socket, failed: Callable[[str], None]) -> _Server:
    config = uvicorn.Config(
        face.app,
        http=cast("type[asyncio.Protocol]", face.protocol),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_IN_FLIGHT_SECONDS,
    )
    return _Server(config, sock, failed)


async def serve(
    settings: Settings,
    sockets: Sockets,
    place: Place = Place(),
    announce: Callable[[Node], Coroutine[Any, Any, None]] | None = None,
    prepare: Callable[[Node], None] | None = None,
) -> None:
    """Run a node until SIGTERM or SIGINT, then drain it; a second signal cuts the drain short.

    `prepare` is called before it listens, `announce` when it does.

    Raises:
        SettingsError: before anything is started.
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(on_loop_error)
    sys.unraisablehook = on_unraisable
    stop = asyncio.Event()
    hurry = asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop.add_signal_handler(signal.SIGTERM, on_signal)
    if place.directory is None:  # workers hear of Ctrl-C from their parent
        loop.add_signal_handler(signal.SIGINT, on_signal)
    node = Node(settings, place)
    if prepare is not None:
        prepare(node)
    await node.start()
    # A port that answers before the engine does would turn the first clients away.
    for _ in range(round(_START_SECONDS / _START_POLL)):
        if node.broker.trouble() is None or stop.is_set():
            break
        await asyncio.sleep(_START_POLL)
    _listen(sockets.client, settings.host, "HERALD_PORT")
    if sockets.api is not None:
        _listen(sockets.api, settings.host, "HERALD_API_PORT")
    servers = [(_server(node.client_face, sockets.client, node.task_failed), sockets.client)]
    if node.api_face is not None and sockets.api is not None:
        servers.append((_server(node.api_face, sockets.api, node.task_failed), sockets.api))
    running = [loop.create_task(server.serve(sockets=[sock])) for server, sock in servers]
    while not all(server.started for server, _ in servers):
        await asyncio.sleep(0.005)
    logger.info(
        "listening",
        extra={"host": settings.host, "port": sockets.port, "api_port": sockets.api_port},
    )
    announcing = loop.create_task(announce(node)) if announce is not None else None
    await stop.wait()
    logger.info("stopping")
    drain = loop.create_task(node.drain())
    hurrying = loop.create_task(hurry.wait())
    await asyncio.wait((drain, hurrying), return_when=asyncio.FIRST_COMPLETED)
    for task in (drain, hurrying, announcing):
        if task is not None:
            task.cancel()
    for server, _ in servers:
        server.end()
    await asyncio.gather(*running)
    await node.close()
    logger.info("stopped")
