"""A real Herald, as Prometheus would see it while something goes on, and while it drains."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidStatus

from service.broker.embedded import EmbeddedEngine
from tests.auth.forge import EC_KEY, jwk, sign
from tests.auth.issuer import running_issuer
from tests.harness.process import Herald, open_herald, open_plain, raw_websocket, running
from tests.harness.streams import streaming

SCRAPES = 6
DRAINED = 250
DRAIN_SECONDS = 4
"""At least 100 a second are told: so for 2.5 seconds some are left."""


class Seen(NamedTuple):
    """What was scraped.

    Attributes:
        scrapes: texts, in order; the last one of a process that drains.
        labels: by metric: its labels, and the values that each of them has.
    """

    scrapes: list[str]
    labels: dict[str, dict[str, set[str]]]


@pytest.fixture(scope="session")
def seen(engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    directory = tmp_path_factory.mktemp("scraped")
    with running_issuer() as issuer:
        issuer.keys = [jwk(EC_KEY, "ES256", kid="one")]
        with running(
            engine.url,
            directory,
            jwt_secret=None,
            jwt_jwks_url=issuer.url,
            heartbeat_interval="0.2",
            drain_seconds=str(DRAIN_SECONDS),
        ) as herald:
            scrapes = asyncio.run(_live(herald))
            herald.stop()
    return Seen(scrapes, _labels(scrapes))


async def _live(herald: Herald) -> list[str]:
    token = sign(EC_KEY, "ES256", {"kid": "one"}, sub="seen")
    scrapes: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        client = await open_herald(herald, token=token)
        await client.expect("welcome")
        stream = await stack.enter_async_context(streaming(herald, token=token))
        position = "0-0"
        for _ in range(SCRAPES - 1):
            event = await asyncio.to_thread(herald.publish, "user:seen", "x", id="same")
            if not event["duplicate"]:
                position = event["positions"]["user:seen"]
            await asyncio.to_thread(herald.publish, "user:seen", "x")
            await asyncio.to_thread(herald.post, "/v1/events", {})
            await client.send(type="ack", channel="user:seen", id=position)
            await stream.read()
            for since in ("0-0", "5-5"):
                resumed = await open_plain(herald, f"since=user:seen@{since}", token)
                await resumed.expect("welcome")
                await resumed.close()
            with contextlib.suppress(InvalidStatus):
                await open_plain(herald, token="bad")
            await asyncio.sleep(0.3)
            scrapes.append(await _scrape(herald))
        # Clients that answer nothing, and so many that the drain lasts.
        for _ in range(DRAINED):
            reader, _ = await stack.enter_async_context(raw_websocket(herald, token))
        await reader.readuntil(b'"welcome"')
        herald.signal(signal.SIGTERM)
        text = ""
        while _value(text, "herald_drain_age_seconds") <= DRAIN_SECONDS / 4:
            await asyncio.sleep(0.05)
            text = await _scrape(herald)
        assert _value(text, "herald_drain_left_connections") > 0
        scrapes.append(text)
        await client.close()
    return scrapes


def _value(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def _scrape(herald: Herald) -> str:
    return (await asyncio.to_thread(herald.http.get, "/metrics")).text


def _labels(scrapes: list[str]) -> dict[str, dict[str, set[str]]]:
    found: dict[str, dict[str, set[str]]] = {}
    for text in scrapes:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add(value)
    assert all(re.match(r"(herald|process|python)_", name) for name in found)
    return found
