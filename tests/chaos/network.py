"""Bad networks, between clients and gateways and between gateways and engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.chaos.proxy import Proxy, Weather
from tests.chaos.world import Scenario, World
from tests.harness.certificates import server_context

_Bad = Callable[[World, list[Proxy]], Awaitable[None]]


async def _cut(world: World, proxies: list[Proxy]) -> None:
    for _ in range(10 * world.scale.repeats):
        for proxy in proxies:
            proxy.cut()
        await asyncio.sleep(0.2)


async def _half_open(world: World, proxies: list[Proxy]) -> None:
    world.strike()
    for proxy in proxies:
        proxy.weather = Weather(swallow=True)
    if proxies == [world.engine_proxy]:
        await world.all_unready()
    else:
        await asyncio.sleep(5.0)  # longer than anybody's patience with silence
    for proxy in proxies:
        # Nobody was told; who still waits on an old connection, waits in vain.
        proxy.weather = Weather()


async def _delayed(world: World, proxies: list[Proxy]) -> None:
    for proxy in proxies:
        proxy.weather = Weather(delay=0.2)
    await world.hold(2.0)
    await world.go_on()
    for proxy in proxies:
        proxy.weather = Weather()


async def _dribbled(world: World, proxies: list[Proxy]) -> None:
    for proxy in proxies:
        proxy.weather = Weather(dribble=True)
        proxy.cut()  # handshakes come byte by byte as well
    await world.go_on()
    await world.hold()
    for proxy in proxies:
        proxy.weather = Weather()


async def _reset_in_mid_frame(world: World, proxies: list[Proxy]) -> None:
    for _ in range(5 * world.scale.repeats):
        for proxy in proxies:
            # Somewhere in a frame or a reply, seldom at its end; long enough to get somewhere.
            proxy.weather = Weather(reset_after=world.chance.randrange(2_000, 30_000))
            proxy.cut()
        await asyncio.sleep(0.5)
    for proxy in proxies:
        proxy.weather = Weather()


async def _expired(world: World) -> None:
    """The engine presents an expired certificate from the next connection on, later a good one."""
    assert world.engine_proxy is not None
    for number in range(world.scale.repeats):
        expired = world.authority.certify(f"expired{number}", -10, -1)
        world.strike()
        await world.engine_proxy.present(server_context(*expired))
        await world.all_unready()
        await world.hold()
        renewed = world.authority.certify(f"renewed{number}")
        await world.engine_proxy.present(server_context(*renewed))
        await world.all_ready()
        await world.go_on()


def _between_clients_and_gateways(bad: _Bad) -> Callable[[World], Awaitable[None]]:
    return lambda world: bad(world, world.client_proxies)


def _between_gateways_and_engine(bad: _Bad) -> Callable[[World], Awaitable[None]]:
    async def fault(world: World) -> None:
        assert world.engine_proxy is not None
        await bad(world, [world.engine_proxy])

    return fault


_KINDS: tuple[tuple[str, str, _Bad], ...] = (
    ("cut", "every connection reset, again and again", _cut),
    ("half-open", "nothing passes and nobody is told", _half_open),
    ("delayed", "every piece 0.2 s late, each way", _delayed),
    ("one byte at a time", "every byte in a segment of its own", _dribbled),
    ("reset in mid-frame", "reset after so many bytes, wherever that is", _reset_in_mid_frame),
)

SCENARIOS = (
    *(
        Scenario(
            f"clients' network {name}",
            f"between clients and gateways: {what}",
            _between_clients_and_gateways(bad),
            client_proxy=True,
        )
        for name, what, bad in _KINDS
    ),
    *(
        Scenario(
            f"engine's network {name}",
            f"between gateways and engine: {what}",
            _between_gateways_and_engine(bad),
            engine_proxy=True,
            unready=bad is _half_open,
        )
        for name, what, bad in _KINDS
    ),
    Scenario(
        "certificate expired",
        "the engine's TLS certificate expires, connections are reset; it is renewed",
        _expired,
        engine_proxy=True,
        tls=True,
        unready=True,
    ),
)
