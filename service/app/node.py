"""One node: the parts put together. Starts and stops them in order."""

from __future__ import annotations

import asyncio
import logging
import resource
import secrets
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from service.app.credentials import build_verifiers
from service.app.garbage import tend_garbage
from service.broker.broker import Broker
from service.broker.copies import Copies
from service.broker.endpoint import parse_engine_url
from service.broker.event_log import LogPolicy
from service.core.errors import InvalidInput
from service.edge.admission import Admission
from service.edge.api import build_api, nothing_here, with_client_edge
from service.edge.asgi import App
from service.edge.doors import Doors, PostEndpoint
from service.edge.handshake import Handshake, no_websocket_here
from service.edge.history import History
from service.edge.http import HeraldHttp
from service.edge.inspection import Inspection, Process
from service.edge.lobby import Lobby
from service.edge.origins import parse_origins
from service.edge.policy import HttpPolicy
from service.edge.publishing import Publishing, PublishLimits
from service.edge.streams import Streams
from service.edge.tickets import TicketOffice, TicketPolicy
from service.hub.clients import Clients
from service.hub.hub import Hub
from service.hub.policy import HubPolicy
from service.settings import Settings, SettingsError
from service.supervision import supervise
from service.telemetry.metrics import Gauge, Metrics
from service.telemetry.workers import Exposition

logger = logging.getLogger("herald.node")

_RESERVED_FILES = 128
"""Open files kept for the engine, logs and HTTP requests."""


class Place(NamedTuple):
    """Which worker this is, and where the workers tell each other their metrics."""

    worker: int = 0
    directory: Path | None = None


class Face(NamedTuple):
    """What serves one port: the application, and the protocol of its connections before it."""

    app: App
    protocol: Callable[..., HeraldHttp]


class Node:
    """Everything that one process runs. Make it inside a running event loop.

    Raises:
        SettingsError: for settings that are well-formed but cannot be used.
    """

    def __init__(self, settings: Settings, place: Place = Place()) -> None:
        assert settings.redis_url is not None
        try:
            locate = parse_engine_url(settings.redis_url)
        except InvalidInput as error:
            raise SettingsError([f"HERALD_REDIS_URL cannot be used: {error}."]) from None
        origins = allowed_origins(settings)
        self._metrics = Metrics()
        verifiers = build_verifiers(settings, self._metrics.keys_fetched)
        name = secrets.token_hex(6)
        self._settings = settings
        self._exposition = Exposition(self._metrics.registry, place.directory, place.worker)
        self.broker = Broker(
            locate,
            name,
            log_policy(settings),
            settings.engine_timeout,
            self._metrics.engine_reconnected,
        )
        policy = _hub_policy(settings)
        self.hub = Hub(self.broker.log, self.broker.subscriptions, policy, self._metrics)
        self.clients = Clients(self.hub, verifiers.users, policy, self._metrics, name)
        self._metrics.add_gauges(_gauges(self.clients, self.hub, self.broker))
        self._metrics.add_gauges(_settled(settings, verifiers.keys_age))
        self._tasks: list[asyncio.Task[None]] = []

        publishing = Publishing(
            self.broker.log,
            verifiers.publishers,
            PublishLimits(
                settings.max_event_bytes, settings.max_batch_bytes, settings.body_timeout
            ),
            self._metrics,
        )
        api = build_api(
            publishing,
            History(self.broker.log, verifiers.publishers),
            Inspection(
                self.broker.log,
                self.hub,
                verifiers.publishers,
                Process(name, place.worker, settings.workers),
            ),
            TicketOffice(
                self.broker.tickets,
                verifiers.publishers,
                TicketPolicy(settings.ticket_ttl, settings.body_timeout),
                self._metrics,
            ),
            self.broker,
            lambda: self.clients.draining,
            self._exposition.render,
        )
        admission = Admission(self.clients, self.broker, origins)
        handshake = Handshake(self.clients, admission, verifiers.users, self._metrics)
        streams = Streams(
            self.clients, admission, verifiers.users, self.broker.tickets, self._metrics
        )
        posts: Mapping[bytes, PostEndpoint] = {
            b"/v1/events": publishing.post_event,
            b"/v1/events/batch": publishing.post_batch,
        }
        lobby = Lobby(_places_by_open_files(), lambda: len(self.clients.connections))
        http_policy = _http_policy(settings)

        def face(app: App, doors: Doors) -> Face:
            return Face(app, partial(HeraldHttp, doors, http_policy, self._metrics))

        self.api: App = api
        self.client_face: Face
        self.api_face: Face | None = None
        if settings.api_port is None:
            self.client_face = face(
                with_client_edge(api, streams), Doors(handshake.open, posts, lobby)
            )
        else:
            doors = Doors(handshake.open, {}, lobby)
            self.client_face = face(with_client_edge(nothing_here, streams), doors)
            self.api_face = face(api, Doors(no_websocket_here, posts))

    def wrap_client_edge(self, wrap: Callable[[App], App]) -> None:
        """Put something in front of the client edge's application; before it is served."""
        self.client_face = self.client_face._replace(app=wrap(self.client_face.app))

    async def start(self) -> None:
        """Connect to the engine, in the background, and start the clocks."""
        self.broker.start()
        await self._exposition.start()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._supervise("heartbeat", self.clients.beat)),
            loop.create_task(self._supervise("audit", self.hub.audit)),
            loop.create_task(self._supervise("garbage", tend_garbage)),
        ]

    async def _supervise(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        def failed(error: Exception) -> None:
            self.task_failed(name)
            logger.error("a task failed; it begins again", exc_info=error, extra={"task": name})

        await supervise(work, failed)

    def task_failed(self, name: str) -> None:
        """Something that must never end failed, and begins again; for the metrics."""
        self._metrics.task_failed(name)

    async def drain(self) -> None:
        """Move the clients away."""
        await self.clients.drain(self._settings.drain_seconds)

    async def close(self) -> None:
        """Stop what `start` started."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.hub.close()
        await self._exposition.close()
        await self.broker.close()


def allowed_origins(settings: Settings) -> frozenset[str]:
    """The origins of pages that may connect.

    Raises:
        SettingsError: one of them is none.
    """
    try:
        return parse_origins(list(settings.allowed_origins))
    except InvalidInput as error:
        raise SettingsError([f"HERALD_ALLOWED_ORIGINS has a bad value: {error}."]) from None


def log_policy(settings: Settings) -> LogPolicy:
    """What the settings say of the logs."""
    least = settings.min_replicas
    return LogPolicy(
        history_size=settings.history_size,
        history_ttl=settings.history_ttl,
        page_bytes=min(256 * 1024, max(1, settings.send_queue_bytes // 2)),
        max_in_flight=settings.max_pending_events,
        max_bytes=settings.max_pending_bytes,
        copies=Copies(least, settings.replica_timeout) if least else None,
    )


def _hub_policy(settings: Settings) -> HubPolicy:
    return HubPolicy(
        heartbeat_interval=settings.heartbeat_interval,
        heartbeat_timeout=settings.heartbeat_timeout,
        connect_timeout=settings.connect_timeout,
        send_queue_bytes=settings.send_queue_bytes,
        max_message_bytes=settings.max_message_bytes,
        max_topics=settings.max_topics,
        max_connections=settings.max_connections or _connections_by_open_files(),
        max_connections_per_user=settings.max_connections_per_user or 0,
        token_leeway=settings.jwt_leeway,
        position_check_interval=settings.position_check_interval,
    )


def _http_policy(settings: Settings) -> HttpPolicy:
    return HttpPolicy(
        head_timeout=settings.head_timeout,
        max_head_bytes=settings.max_head_bytes,
        unread_timeout=settings.unread_timeout,
    )


def _connections_by_open_files() -> int:
    """WebSockets; 0: no limit."""
    return _open_files_less(_RESERVED_FILES)


def _places_by_open_files() -> int:
    """WebSockets and those who are none yet; what is left is for the engine and the logs."""
    return _open_files_less(_RESERVED_FILES // 2)


def _open_files_less(reserved: int) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if soft == resource.RLIM_INFINITY else max(1, soft - reserved)


def raise_open_files_limit() -> None:
    """Use all the open files that the system grants; every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            logger.debug("the limit of open files stays", extra={"limit": soft})


def _gauges(clients: Clients, hub: Hub, broker: Broker) -> list[Gauge]:
    def outbox() -> int:
        return sum(
            connection.transport.get_write_buffer_size() for connection in clients.connections
        )

    def deepest() -> int:
        return max(
            (connection.transport.get_write_buffer_size() for connection in clients.connections),
            default=0,
        )

    def streams() -> int:
        return sum(1 for connection in clients.connections if not connection.takes_frames)

    return [
        Gauge("herald_connections", "Open connections.", lambda: len(clients.connections)),
        Gauge("herald_streams", "Connections that are streams of server-sent events.", streams),
        Gauge(
            "herald_connections_limit",
            "Most connections that are taken; 0: no limit.",
            lambda: clients.policy.max_connections,
        ),
        Gauge("herald_users", "Users with a connection.", hub.count_users),
        Gauge("herald_channels", "Channels listened to.", hub.count_channels),
        Gauge("herald_outbox_bytes", "Waiting to be sent, all connections.", outbox),
        Gauge("herald_outbox_deepest_bytes", "Waiting to be sent, worst connection.", deepest),
        Gauge(
            "herald_engine_probe_age_seconds",
            "Since this process last heard itself through the engine.",
            broker.probe_age,
        ),
        Gauge(
            "herald_engine_probe_round_trip_seconds",
            "The slowest probe of the last minute.",
            broker.probe_round_trip,
        ),
        Gauge(
            "herald_engine_up",
            "1 where delivery works, as readiness says.",
            lambda: 0.0 if broker.trouble() else 1.0,
        ),
        Gauge(
            "herald_engine_replicas",
            "Replicas attached to the primary.",
            broker.replicas,
        ),
        Gauge("herald_draining", "1 while draining.", lambda: float(clients.draining)),
        Gauge(
            "herald_drain_left_connections",
            "Connections that a drain has still to close.",
            lambda: clients.drain_left,
        ),
        Gauge(
            "herald_drain_age_seconds",
            "Since the drain began; 0 without one.",
            lambda: clients.drain_age,
        ),
    ]


def _settled(settings: Settings, keys_age: Callable[[], float | None]) -> list[Gauge]:
    """What the settings say, for alerts to hold the other numbers against; and the keys."""
    return [
        Gauge("herald_workers", "Worker processes that there should be.", lambda: settings.workers),
        Gauge(
            "herald_drain_limit_seconds",
            "Time that a drain may take.",
            lambda: settings.drain_seconds,
        ),
        Gauge(
            "herald_engine_replicas_needed",
            "Replicas that must have an event before it is answered.",
            lambda: settings.min_replicas,
        ),
        Gauge("herald_jwks_age_seconds", "Since the issuer's keys were fetched.", keys_age),
    ]
