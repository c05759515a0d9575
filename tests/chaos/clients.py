"""Clients that stop reading, come back all at once, twice, from nowhere, or with everything."""

from __future__ import annotations

import asyncio
import time

from tests.chaos.world import CALM, CALM_SILENCE, MARKER, Scenario, World, until


async def _stopped_readers(world: World) -> None:
    stalled = world.subscribers[:2]
    for publisher in world.publishers:
        publisher.padding = "x" * 20_000
    for subscriber in stalled:
        subscriber.stall()
    before = [subscriber.book.received for subscriber in world.subscribers[2:]]
    await world.go_on(150)
    await world.hold(2.0)
    # Nobody else was held up.
    received = [subscriber.book.received for subscriber in world.subscribers[2:]]
    assert all(now > then for now, then in zip(received, before, strict=True))
    for publisher in world.publishers:
        publisher.padding = ""
    for subscriber in stalled:
        subscriber.resume_reading()


async def _storm(world: World) -> None:
    for subscriber in world.subscribers:
        subscriber.welcomed.clear()
        subscriber.break_off()
    await world.connected()


async def _skewed_clocks(world: World) -> None:
    """Tokens of an issuer whose clock is a little ahead or behind, within the leeway of 5 s."""
    for seconds in (3.0, -3.0):

        def claims(seconds: float = seconds) -> dict[str, float]:
            now = time.time() + seconds
            return {"iat": now, "nbf": now, "exp": now + 2.0}

        world.claims = claims
        for subscriber in world.subscribers:
            subscriber.break_off()
        await world.go_on()
        await world.hold(3.0)  # the tokens expire, and new ones are fetched
    world.claims = dict


async def _twice(world: World) -> None:
    """The same positions on several connections at once."""
    for subscriber in world.subscribers[: 3 * world.scale.repeats]:
        user = subscriber.book.name.partition("/")[0]
        twins = [world.subscribe(user, subscriber.positions) for _ in range(3)]
        await world.go_on(5)
        await world.connected(twins)


async def _from_nowhere(world: World) -> None:
    """Positions beyond the end, of another epoch, and the beginning."""
    for position in ("9999999999999-5", "1-1", "0-0"):
        for number in range(2 * world.scale.repeats):
            user = f"u{number}"
            channels = (MARKER, "all", f"user:{user}")
            world.subscribe(user, dict.fromkeys(channels, position))
    await world.go_on()
    await world.connected()


async def _away_for_too_long(world: World) -> None:
    """Meanwhile more is published than is retained."""
    for _ in range(world.scale.repeats):
        away = world.subscribers[::2]
        for subscriber in away:
            subscriber.leave()
        await _more_than_is_retained(world)
        for subscriber in away:
            subscriber.come_back()
        await world.connected()
        await world.go_on()


async def _more_than_is_retained(world: World) -> None:
    """Publishing goes on until it is, in every channel; publishers choose as they like."""
    assert world.scenario.history is not None
    enough = world.scenario.history + 1
    before = world.accepted_by_channel()
    await until(
        lambda: min((world.accepted_by_channel() - before).get(c, 0) for c in before) >= enough,
        "more is published than is retained",
    )


async def _thousands_of_topics(world: World) -> None:
    for _ in range(world.scale.repeats):
        for subscriber in world.subscribers:
            subscriber.break_off()
        await asyncio.sleep(0.1)
        await world.connected()
        await world.go_on()


SCENARIOS = (
    Scenario(
        "readers stop",
        "two clients stop reading under events of 20 kB, and go on later",
        _stopped_readers,
        settings={"send_queue_bytes": "262144"},
    ),
    Scenario(
        "reconnect storm",
        "all clients break off at once and come back",
        _storm,
        size=lambda scale: scale.storm,
        settings=CALM,
        silence=CALM_SILENCE,
    ),
    Scenario(
        "skewed clocks",
        "tokens from a clock 3 s ahead and 3 s behind, expiring all the time",
        _skewed_clocks,
    ),
    Scenario("resumed twice", "three more connections resume from the same positions", _twice),
    Scenario(
        "positions from nowhere",
        "resumes from the future, from another epoch, and from the beginning",
        _from_nowhere,
        gaps=True,
        keeps=True,
    ),
    Scenario(
        "away for too long",
        "of each channel 20 events are retained, and half of the clients miss more",
        _away_for_too_long,
        gaps=True,
        history=20,
    ),
    Scenario(
        "thousands of topics",
        "clients with very many topics (5,000; 300 in short) break off and resume",
        _thousands_of_topics,
        topics=lambda scale: scale.topics,
        size=lambda scale: 12,
        settings={"max_message_bytes": "1048576"},
        streams=False,  # each of their messages has every position in its id
    ),
)
