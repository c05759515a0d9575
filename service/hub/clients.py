"""All connections of this process: taking them in, their one timer wheel, and the drain."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Iterable
from typing import NamedTuple

from service.core import messages
from service.core.close import CloseCode
from service.core.drain import plan_drain
from service.core.errors import EngineError, EngineUnavailable
from service.core.position import Position
from service.core.principal import Principal
from service.core.session import Request, Session
from service.core.wheel import Wheel
from service.hub.connection import Connection
from service.hub.hub import Hub
from service.hub.joining import Hold, Joining, Start
from service.hub.policy import HubPolicy
from service.hub.stream import EventStream
from service.hub.websocket import WebSocket
from service.ports import Instrumentation, UserVerifier

logger = logging.getLogger("herald.connection")

_RECONNECT_SPREAD_MS = 1000
"""Dismissed clients come back spread over this time, on top of their batch."""

_ONE_BY_ONE = 2
"""Channels that are joined without a task for each: everyone's `user:<id>` and `all`."""

_BEATS_PER_TURN = 32
"""Pings that go out before events have their turn again: who came in one storm is due at once."""


class Newcomer(NamedTuple):
    """What the handshake found out about a client.

    Attributes:
        plain: no subprotocol: `principal` is known and `request` was in the URL.
        principal: who it is, where the handshake brought a good token.
    """

    plain: bool
    principal: Principal | None
    request: Request


class Admission(NamedTuple):
    """A client whose channels are being listened to, and who has not been welcomed yet.

    Attributes:
        refusals: messages about what it asked for and does not get.
        starts: its channels.
    """

    session: Session
    request: Request
    refusals: list[bytes]
    starts: list[Start]


class Clients:
    """Makes connections, and is what they see of the rest."""

    def __init__(
        self,
        hub: Hub,
        verifier: UserVerifier,
        policy: HubPolicy,
        stats: Instrumentation,
        node: str,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.hub = hub
        self.policy = policy
        self.stats = stats
        self.node = node
        self.draining = False
        self.drain_left = 0
        self._drain_began: float | None = None
        self.connections: set[Connection] = set()
        self._joining = Joining(hub)
        self._verifier = verifier
        self._serials = itertools.count(1)
        shortest = min(policy.heartbeat_interval, policy.heartbeat_timeout, policy.close_timeout)
        self._tick = min(0.25, max(0.005, shortest / 8))
        self.wheel: Wheel[Connection] = Wheel(self.loop.time(), self._tick)

    @property
    def is_full(self) -> bool:
        """Whether no more connections are taken."""
        limit = self.policy.max_connections
        return bool(limit) and len(self.connections) >= limit

    @property
    def drain_age(self) -> float:
        """Seconds since the drain began; 0 where none did."""
        return 0.0 if self._drain_began is None else self.loop.time() - self._drain_began

    def has_too_many(self, user: str) -> bool:
        """Whether this user has as many connections here as allowed."""
        limit = self.policy.max_connections_per_user
        return bool(limit) and self.hub.holders("user:" + user) >= limit

    # Coming

    async def verify(self, token: str) -> Principal:
        """See `UserVerifier.verify`."""
        return await self._verifier.verify(token)

    def adopt(self, transport: asyncio.Transport, newcomer: Newcomer, early: bytes) -> WebSocket:
        """Take a socket over right after its handshake. `early`: what the client sent already."""
        now = self.loop.time()
        session = Session(self.policy.max_topics, newcomer.principal)
        connection = WebSocket(
            self, transport, session, next(self._serials), now, plain=newcomer.plain
        )
        self.connections.add(connection)
        transport.set_protocol(connection)
        transport.resume_reading()
        self.wheel.schedule(connection, now + self.policy.connect_timeout)
        if newcomer.plain:
            assert newcomer.principal is not None
            connection.start(newcomer.principal, newcomer.request)
        if early:
            connection.data_received(early)
        return connection

    async def admit(self, connection: Connection, principal: Principal, request: Request) -> None:
        """Join the channels, say welcome, replay, go live."""
        if self.draining:
            self.stats.refused("draining")
            connection.close(CloseCode.TRY_AGAIN_LATER, "the server is about to restart")
            return
        if self.has_too_many(principal.user):
            self.stats.refused("user_limit")
            connection.close(CloseCode.TOO_MANY_CONNECTIONS, "this user has too many connections")
            return
        plan = connection.session.admitted(principal, request)
        connection.set_timer(self.loop.time())
        try:
            starts = await self._begin_all(plan.joins)
        except (EngineUnavailable, EngineError) as error:
            logger.warning("a client was turned away", extra={"reason": str(error)})
            self.stats.refused("engine")
            connection.close(CloseCode.TRY_AGAIN_LATER, "the engine is away")
            return
        admission = Admission(connection.session, request, plan.refusals, starts)
        if connection.closing:
            self.turn_away(admission)
        else:
            self._welcome(connection, admission)

    def _welcome(self, connection: Connection, admission: Admission) -> None:
        principal = admission.session.principal
        assert principal is not None
        self.stats.connected()
        with connection.gathering():
            connection.welcome(
                messages.welcome(
                    connection.name,
                    principal.user,
                    self.policy.heartbeat_interval,
                    principal.expires,
                    {s.live.name: messages.Joined(s.at, s.recovered) for s in admission.starts},
                )
            )
            for refusal in admission.refusals:
                connection.send(refusal)
            for start in admission.starts:
                self._joining.follow(connection, start)

    # A stream of server-sent events: its head says whether all went well, so it comes after that

    async def begin_stream(self, principal: Principal, request: Request) -> Admission:
        """Join a stream's channels; `adopt_stream` or `turn_away` comes next.

        Raises:
            EngineUnavailable, EngineError
        """
        session = Session(self.policy.max_topics, principal)
        plan = session.admitted(principal, request)
        return Admission(session, request, plan.refusals, await self._begin_all(plan.joins))

    def adopt_stream(self, transport: asyncio.Transport, head: bytes, admission: Admission) -> None:
        """Take a socket over. `head`: what comes before the messages."""
        now = self.loop.time()
        # Where a gap is told first, the client's own position counts until then.
        positions = {s.live.name: s.gap_from or s.at for s in admission.starts}
        serial = next(self._serials)
        stream = EventStream(self, transport, admission.session, serial, now, positions)
        self.connections.add(stream)
        stream.start(head)
        stream.set_timer(now)
        self._welcome(stream, admission)

    def turn_away(self, admission: Admission) -> None:
        """Its client has gone, or cannot be taken after all."""
        for start in admission.starts:
            self._joining.abandon(start)

    # Joining

    async def _begin_all(self, joins: dict[str, Position | None]) -> list[Start]:
        """Begin to join all channels, or none.

        All are held, and so opened where nobody was there, before the first `await`.
        """
        holds = [self._joining.hold(channel, since) for channel, since in joins.items()]
        if len(holds) > _ONE_BY_ONE:
            return await self._begin_at_once(holds)
        starts: list[Start] = []
        try:
            for hold in holds:
                starts.append(await self._joining.begin(hold))
        except BaseException:
            for start in starts:
                self._joining.abandon(start)
            for hold in holds[len(starts) :]:
                self._joining.release(hold)
            raise
        return starts

    async def _begin_at_once(self, holds: list[Hold]) -> list[Start]:
        beginnings = [self.loop.create_task(self._joining.begin(hold)) for hold in holds]
        try:
            return list(await asyncio.gather(*beginnings))
        except BaseException:
            for task in beginnings:
                task.cancel()
            results = await asyncio.gather(*beginnings, return_exceptions=True)
            for hold, result in zip(holds, results, strict=True):
                if isinstance(result, Start):
                    self._joining.abandon(result)
                else:
                    self._joining.release(hold)
            raise

    async def join(self, connection: Connection, channel: str, since: Position | None) -> None:
        """A `subscribe`: join one more channel."""
        try:
            (start,) = await self._begin_all({channel: since})
        except (EngineUnavailable, EngineError):
            connection.session.left([channel])
            connection.answer(
                messages.error("unavailable", "The engine is away; try again later.", channel)
            )
            return
        if connection.closing:
            self._joining.abandon(start)
            return
        connection.answer(messages.subscribed(channel, messages.Joined(start.at, start.recovered)))
        self._joining.follow(connection, start)

    # Going

    def lost(self, connection: Connection, code: int) -> None:
        """The socket is closed."""
        self.wheel.cancel(connection)
        self.connections.discard(connection)
        self.stats.disconnected(code)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("disconnected", extra={"id": connection.name, "code": code})

    async def beat(self) -> None:
        """Turn the wheel, for ever: one task for the timers of all connections."""
        while True:
            expected = self.loop.time() + self._tick
            await asyncio.sleep(self._tick)
            now = self.loop.time()
            self.stats.loop_was_late(now - expected)
            due = self.wheel.advance(now)
            while due:
                for _ in range(min(len(due), _BEATS_PER_TURN)):
                    connection = due.popleft()
                    # While others had their turn it may have gone, or have been given a new timer.
                    if connection.slot < 0 and connection in self.connections:
                        self._wake(connection, now)
                if due:
                    await asyncio.sleep(0)
                    now = self.loop.time()

    def _wake(self, connection: Connection, now: float) -> None:
        try:
            connection.wake(now)
        except Exception:
            connection.break_off()
            logger.exception("a timer failed", extra={"id": connection.name})

    def dismiss(self, connections: Iterable[Connection]) -> None:
        """Tell these when to come back, each another time, and close them."""
        for connection in connections:
            connection.dismiss(random.randrange(_RECONNECT_SPREAD_MS))

    async def drain(self, seconds: float) -> None:
        """Tell everyone to reconnect and close them in jittered batches, within `seconds`.

        From here on no connection is admitted. Returns when all are gone, or time is up and the
        last ones are cut off.
        """
        self.draining = True
        self._drain_began = self.loop.time()
        deadline = self._drain_began + seconds
        everyone = list(self.connections)
        random.shuffle(everyone)
        self.drain_left = len(everyone)
        logger.info("draining", extra={"connections": len(everyone), "seconds": seconds})
        for batch in plan_drain(len(everyone), seconds, [random.random() for _ in range(64)]):
            await asyncio.sleep(batch.delay)
            self.dismiss(everyone[: batch.size])
            del everyone[: batch.size]
            self.stats.drained(batch.size)
            self.drain_left = len(everyone)
        # Those that were in their handshake when it began.
        while self.connections and self.loop.time() < deadline:
            self.dismiss(list(self.connections))
            await asyncio.sleep(min(0.05, max(0.0, deadline - self.loop.time())))
        for connection in list(self.connections):
            connection.transport.abort()
