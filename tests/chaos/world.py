"""Engine, gateways, networks, publishers and subscribers; and one scenario played with them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.chaos.actors import Publisher, StreamSubscriber, Subscriber
from tests.chaos.books import read_position
from tests.chaos.checker import Verdict, check
from tests.chaos.engines import Engine, Single
from tests.chaos.proxy import Proxy
from tests.chaos.readiness import ReadinessWatch
from tests.harness.certificates import Authority, server_context
from tests.harness.process import KEY, Herald, mint

PATIENCE = 120.0
"""Seconds for what must come true; generous, and returns at once when it does."""
MARKER = "topic:marker"
_SETTINGS = {
    # Nothing is trimmed, so that every gap is the engine's loss.
    "history_size": "100000",
    "heartbeat_interval": "1",
    "heartbeat_timeout": "1",
    "engine_timeout": "2",
    "position_check_interval": "1",
    "drain_seconds": "2",
    "log_level": "info",
}
CALM = {"heartbeat_interval": "25", "heartbeat_timeout": "10"}
"""Settings for thousands of connections, which must not be pinged every second …"""
CALM_SILENCE = 60.0
"""… and the silence that goes with them."""


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        users, each: how many users, and connections of each.
        publishers: and the mean pause of one between two events, in seconds.
        fleet: connections of the rolling restart.
        storm: connections that break off at once, once.
        topics: of one connection, where there are many.
        repeats: how often a fault is injected.
        hold: seconds that a fault lasts, where it has no length of its own.
    """

    users: int = 4
    each: int = 2
    publishers: int = 3
    pause: float = 0.02
    fleet: int = 60
    storm: int = 100
    topics: int = 300
    repeats: int = 1
    hold: float = 1.0


SHORT = Scale()
LONG = Scale(20, 3, 4, 0.01, 5000, 10_000, 5000, 3, 3.0)


Playing = TypeVar("Playing", bound="World")
Fault = Callable[["World"], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    """One kind of fault.

    Attributes:
        name, what: for tests and the report; `what` says what is done to what.
        fault: injects it, and returns once it is lifted.
        engine: what runs.
        gaps: whether the engine may lose something, which is then told; otherwise no gap may come.
        keeps: gaps may be told, but the engine loses nothing that was accepted.
        history: to how many events a log is trimmed; None: to none.
        unready: the fault stops delivery, so that readiness must fail; the fault waits for it.
        size: connections, where they are not the scale's users.
        engine_proxy, client_proxy: networks that can be bad.
        tls: the engine's proxy speaks TLS, with a certificate of `World.authority`.
        module: what is started as a gateway.
        silence: seconds without a ping after which a subscriber takes its server for dead.
        breaks: the gateway's own work may fail, and its log say so.
        streams: every third subscriber has a stream instead of a WebSocket.
    """

    name: str
    what: str
    fault: Fault
    engine: Callable[[], Engine] = Single
    nodes: int = 2
    settings: Mapping[str, str] = field(default_factory=dict)
    gaps: bool = False
    keeps: bool = False
    history: int | None = None
    unready: bool = False
    size: Callable[[Scale], int] | None = None
    engine_proxy: bool = False
    client_proxy: bool = False
    tls: bool = False
    topics: Callable[[Scale], int] | None = None
    module: str = "service"
    silence: float = 4.0
    breaks: bool = False
    streams: bool = True


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        recovery: seconds from the fault's end until every gateway was ready and every subscriber
            had an event that was published after it.
        unready_after: seconds until the last gateway said that it was not ready; None: it need not.
        refused: publishers' tries that failed, each repeated until accepted.
        closes: how the subscribers' connections ended.
    """

    scenario: str
    seed: int
    verdict: Verdict
    subscribers: int
    connections: int
    recovery: float
    unready_after: float | None
    refused: Counter[str]
    closes: Counter[str]
    notes: list[str]

    @property
    def holds(self) -> bool:
        return self.verdict.holds and not self.notes


class World:
    """What a fault may reach for."""

    def __init__(self, scenario: Scenario, scale: Scale, seed: int, directory: Path) -> None:
        self.scenario = scenario
        self.scale = scale
        self.chance = random.Random(seed)
        self.directory = directory
        self.engine: Engine
        self.nodes: list[Herald] = []
        self.engine_proxy: Proxy | None = None
        self.client_proxies: list[Proxy] = []
        self.authority: Authority
        self.publishers: list[Publisher] = []
        self.subscribers: list[Subscriber] = []
        self.marker: Publisher
        self.unready_after: float | None = None
        self.readiness: ReadinessWatch
        self.stop_publishing = asyncio.Event()
        self.stop_listening = asyncio.Event()
        self.users: list[str] = []
        self.topics = [f"t{n}" for n in range(scenario.topics(scale) if scenario.topics else 2)]
        self._publishing: list[asyncio.Task[None]] = []
        self._listening: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None
        self.claims: Callable[[], Mapping[str, Any]] = dict
        """What the subscribers' next tokens say beside the usual."""
        self.avoided: set[int] = set()
        """Ports of gateways that publishers keep away from, as a load balancer would."""

    # What faults use

    @property
    def single(self) -> Single:
        assert isinstance(self.engine, Single)
        return self.engine

    async def hold(self, part: float = 1.0) -> None:
        """Let the fault last."""
        await asyncio.sleep(self.scale.hold * part)

    def strike(self) -> None:
        """The fault that stops delivery is injected now."""
        self.readiness.mark()

    async def all_unready(self) -> None:
        """Until no gateway says that it is ready; the longest time since `strike` is reported."""
        took = await self.readiness.none_ready(PATIENCE)
        self.unready_after = max(took, self.unready_after or 0.0)

    async def all_ready(self) -> None:
        await self.readiness.all_ready(PATIENCE)

    async def go_on(self, events: int = 20) -> None:
        """Until the publishers have had so many more accepted."""
        enough = self._accepted() + events
        await until(lambda: self._accepted() >= enough, "publishing goes on")

    def accepted_by_channel(self) -> Counter[str]:
        """How many events of each channel were accepted so far."""
        counts: Counter[str] = Counter()
        for publisher in self.publishers:
            for channel in publisher.channels:
                counts[channel] = len(publisher.book.accepted.get(channel, ()))
        return counts

    async def connected(self, who: Sequence[Subscriber] | None = None) -> None:
        """Until all have had their welcome."""
        waiting = self.subscribers if who is None else who
        await until(lambda: all(s.welcomed.is_set() for s in waiting), "all are connected")

    async def deserted(self) -> None:
        """Until no gateway has a client, nor listens to a channel for one."""

        def count() -> float:
            samples = [node.metrics() for node in self.nodes]
            return sum(s["herald_connections"] + s["herald_channels"] for s in samples)

        async with asyncio.timeout(PATIENCE):
            while await asyncio.to_thread(count):
                await asyncio.sleep(0.05)

    def subscribe(
        self,
        user: str,
        positions: Mapping[str, str] | None = None,
        *,
        stream: bool | None = None,
        gateway: int | None = None,
    ) -> Subscriber:
        """One more subscriber, on its way, from these positions on.

        Without `stream` every third one has a stream; without `gateway` it goes to any.
        """
        number = len(self.subscribers)
        if stream is None:
            stream = number % 3 == 1

        def ports() -> list[int]:
            all_of_them = self._client_ports()
            return all_of_them if gateway is None else [all_of_them[gateway]]

        def token() -> str:
            # Thousands of names do not fit in a token; a pattern permits them.
            return mint(user, topics=["marker", "t*"], **self.claims())

        kind = StreamSubscriber if self.scenario.streams and stream else Subscriber
        subscriber = kind(
            f"{user}/{number}",
            ports,
            token,
            self.topics,
            self.scenario.silence,
            random.Random(self.chance.random()),
        )
        subscriber.begin_at(positions or {})
        self.subscribers.append(subscriber)
        self._listening.append(asyncio.create_task(subscriber.run(self.stop_listening)))
        return subscriber

    # Playing

    def _client_ports(self) -> list[int]:
        if self.client_proxies:
            return [proxy.port for proxy in self.client_proxies]
        return [node.port for node in self.nodes]

    def _publish_ports(self) -> list[int]:
        return [node.port for node in self.nodes if node.port not in self.avoided]

    def _all_ports(self) -> list[int]:
        return [node.port for node in self.nodes]

    def _accepted(self) -> int:
        return self.accepted_by_channel().total()

    async def begin(self) -> None:
        scale, scenario = self.scale, self.scenario
        count = scenario.size(scale) if scenario.size else scale.users * scale.each
        self.users = users = [f"u{n}" for n in range(max(1, count // scale.each))]
        channels = [f"user:{user}" for user in users]
        channels += ["all", *(f"topic:{topic}" for topic in self.topics)]
        self.chance.shuffle(channels)
        for number in range(count):
            self.subscribe(users[number % len(users)])
            if number % 200 == 199:
                await self.connected()
        await self.connected()
        for number in range(scale.publishers):
            own = channels[number :: scale.publishers]
            publisher = self._publisher(own)
            self.publishers.append(publisher)
            self._publishing.append(asyncio.create_task(publisher.run(self.stop_publishing)))
        self.marker = self._publisher([MARKER])
        self.readiness = ReadinessWatch(self._all_ports)
        self._watching = asyncio.create_task(self.readiness.run())
        await self.go_on()
        await self.all_ready()

    def _publisher(self, channels: Sequence[str]) -> Publisher:
        return Publisher(
            self._publish_ports,
            KEY,
            channels,
            self.scale.pause,
            random.Random(self.chance.random()),
        )

    async def recovered(self) -> float:
        """Seconds until everything works: ready, connected, and a new event with everybody."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self.all_ready()
        await self.marker.publish_to([MARKER])
        position = self.marker.book.accepted[MARKER][-1].position
        await until(
            lambda: all(
                read_position(s.positions.get(MARKER, "0-0")) >= position for s in self.subscribers
            ),
            "the marker is with everybody",
        )
        return loop.time() - began

    async def level(self) -> bool:
        """Until everybody has the last event of every channel; False where patience ends."""
        last = {
            channel: events[-1].position
            for publisher in [*self.publishers, self.marker]
            for channel, events in publisher.book.accepted.items()
        }
        with contextlib.suppress(AssertionError):
            await until(
                lambda: all(
                    read_position(s.positions[channel]) >= position
                    for s in self.subscribers
                    for channel, position in last.items()
                    if channel in s.positions
                ),
                "",
            )
            return True
        return False

    async def call_witnesses(self) -> bool:
        """Until newcomers who ask for all that is retained have it; False where patience ends.

        They are two of each gateway, and there are no publishers any more. One more event for each
        of their channels says where what is retained ends, also where an engine has lost it all.
        """
        heard: set[str] = set()
        witnesses = []
        for number in range(2 * len(self.nodes)):
            user = self.users[number % len(self.users)]
            channels = [f"user:{user}", "all", MARKER, *(f"topic:{name}" for name in self.topics)]
            witness = self.subscribe(
                user,
                dict.fromkeys(channels, "0-0"),
                stream=number % 2 == 1,
                gateway=number // 2,
            )
            witness.book.late = True
            witnesses.append(witness)
            heard.update(channels)
        await self.connected(witnesses)
        await asyncio.gather(
            *(
                publisher.publish_to([name for name in publisher.channels if name in heard])
                for publisher in [*self.publishers, self.marker]
            )
        )
        return await self.level()

    async def publishing_ends(self) -> None:
        """Stop, and give the last event of each publisher the time to be accepted."""
        self.stop_publishing.set()
        await asyncio.gather(*self._publishing)

    async def end(self) -> None:
        """Everybody goes home."""
        self.stop_publishing.set()
        self.stop_listening.set()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.gather(*self._publishing, *self._listening)


async def until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait until it holds.

    Raises:
        AssertionError: it never did.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    pause = 0.02
    while not condition():
        assert loop.time() < deadline, f"{what} did not come true"
        await asyncio.sleep(pause)


@contextlib.asynccontextmanager
async def running_world(
    scenario: Scenario,
    scale: Scale,
    seed: int,
    directory: Path,
    make: type[Playing] = World,  # type: ignore[assignment]
) -> AsyncIterator[Playing]:
    """Start everything; everything is gone in the end."""
    world = make(scenario, scale, seed, directory)
    world.engine = await asyncio.to_thread(scenario.engine)
    try:
        url = world.engine.url
        if scenario.engine_proxy:
            address = ("127.0.0.1", world.single.server.port)
            world.engine_proxy = Proxy(lambda: address)
            url = f"redis://127.0.0.1:{world.engine_proxy.port}"
            if scenario.tls:
                world.authority = Authority(directory)
                world.engine_proxy.tls = server_context(*world.authority.certify("engine"))
                url = url.replace("redis", "rediss") + f"?ssl_ca_certs={world.authority.ca}"
            await world.engine_proxy.start()
        for _ in range(scenario.nodes):
            topics = str(len(world.topics) + 10)
            settings = {**_SETTINGS, "max_topics": topics}
            if scenario.history is not None:
                settings["history_size"] = str(scenario.history)
            settings.update(scenario.settings)
            world.nodes.append(Herald(url, directory, module=scenario.module, **settings))
        for node in world.nodes:
            await asyncio.to_thread(node.wait_ready)
            if scenario.client_proxy:
                proxy = Proxy(lambda port=node.port: ("127.0.0.1", port))  # type: ignore[misc]
                await proxy.start()
                world.client_proxies.append(proxy)
        await world.begin()
        yield world
    finally:
        await world.end()
        for node in world.nodes:
            await asyncio.to_thread(node.stop)
        # Only now: a connection that is being accepted while its listener closes is left open.
        for opened in [*world.client_proxies, world.engine_proxy]:
            if opened is not None:
                await opened.close()
        await asyncio.to_thread(world.engine.stop)


async def play(scenario: Scenario, scale: Scale, seed: int, directory: Path) -> Outcome:
    """Set everything up, inject the fault under load, and hold the books against the guarantees."""
    async with running_world(scenario, scale, seed, directory, World) as world:
        await scenario.fault(world)
        recovery = await world.recovered()
        await world.go_on()
        await world.publishing_ends()
        notes = []
        if not await world.level():
            notes.append("not everybody had the last event of every channel")
        if not await world.call_witnesses():
            notes.append("not every witness had the last event of every channel")
        world.stop_listening.set()
    books = [publisher.book for publisher in [*world.publishers, world.marker]]
    verdict = check(
        books,
        [subscriber.book for subscriber in world.subscribers],
        keeps=(scenario.keeps or not scenario.gaps) and scenario.history is None,
        history=scenario.history,
    )
    if verdict.gaps and not scenario.gaps:
        notes.append(f"{verdict.gaps} gaps were told, though nothing was lost")
    if abandoned := sum(book.abandoned for book in books):
        notes.append(f"{abandoned} events were never accepted")
    for node in world.nodes:
        if "Traceback" in (log := node.log()) and not scenario.breaks:
            at = log.index("Traceback")
            notes.append(f"a gateway logged: {log[max(0, at - 200) : at + 1500]}")
    refused: Counter[str] = Counter()
    closes: Counter[str] = Counter()
    for book in books:
        refused += book.failures
    for subscriber in world.subscribers:
        closes += subscriber.book.closes
    return Outcome(
        scenario.name,
        seed,
        verdict,
        len(world.subscribers),
        sum(subscriber.book.connections for subscriber in world.subscribers),
        recovery,
        world.unready_after,
        refused,
        closes,
        notes,
    )
