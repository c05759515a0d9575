"""Clients that flood, cut characters, and half-close or reset their socket, on a running server.

What RFC 6455 says of frames is in tests/conformance, case by case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.harness.process import Herald, eventually
from tests.hub.wire import CONT, PING, PONG, TEXT, Got, frame, plain


async def test_a_character_may_be_cut_between_fragments(herald: Herald, user: str) -> None:
    message = '{"type":"ping","é":"😀"}'.encode()
    async with plain(herald, user) as wire:
        for cut in range(1, len(message)):
            await wire.send(frame(TEXT, message[:cut], fin=False) + frame(CONT, message[cut:]))
            await wire.expect("pong")


async def test_a_flood_of_pings_is_answered_in_order_and_holds_nobody_up(
    herald: Herald, user: str, new_name: Callable[[], str]
) -> None:
    count = 10_000
    async with plain(herald, user) as flood, plain(herald, new_name()) as other:
        await other.send(frame(PING, b"warm"))
        await other.next()
        flood.writer.write(b"".join(frame(PING, b"%d" % number) for number in range(count)))
        answered_between = 0

        async def read_flood() -> None:
            for number in range(count):
                assert await flood.next() == Got(PONG, b"%d" % number)

        reading = asyncio.create_task(read_flood())
        while not reading.done():
            await other.send(frame(PING, b"me too"))
            assert await other.next() == Got(PONG, b"me too")
            answered_between += 1
        await reading
        assert answered_between > 1


async def test_a_half_closed_client_gets_its_answers_and_the_connection_ends(
    herald: Herald, user: str
) -> None:
    async with plain(herald, user) as wire:
        await wire.send(b"".join(frame(PING, b"%d" % number) for number in range(500)))
        wire.writer.write_eof()
        for number in range(500):
            assert await wire.next() == Got(PONG, b"%d" % number)
        async with asyncio.timeout(30):
            assert await wire.reader.read() == b""


async def test_a_reset_frees_the_connection(start: Callable[..., Herald], user: str) -> None:
    herald = start()
    async with plain(herald, user) as wire:
        await wire.send(frame(TEXT, b"half a message", fin=False))
        wire.reset()
        await eventually(lambda: herald.metrics()["herald_channels"] == 0, "it was freed")
        assert herald.metrics()["herald_connections"] == 0
        assert herald.metrics()['herald_disconnects_total{code="1006"}'] == 1
