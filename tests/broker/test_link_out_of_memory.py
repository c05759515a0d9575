"""A command that cannot be sent for want of memory leaves the answers of the others with them."""

from __future__ import annotations

import asyncio
import re
from functools import partial

import pytest

from service.broker.link import Link
from service.core.errors import EngineUnavailable
from tests.harness.process import PATIENCE
from tests.harness.starving import ALL, needs_starving, starve

pytestmark = needs_starving


@pytest.fixture(autouse=True)
def _packs_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """hiredis crashes where it has no memory to pack a command; the process ends then as well."""

    def pack(words: tuple[str | int, ...]) -> bytes:
        return b"*2\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in _encoded(words))

    monkeypatch.setattr("service.broker.link._pack", pack)


def _encoded(words: tuple[str | int, ...]) -> list[bytes]:
    return [str(word).encode() for word in words]


class Echo(asyncio.Transport):
    """An engine's side: answers ECHO, all that was written at once."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        words = re.findall(rb"\r\nECHO\r\n\$\d+\r\n(\d+)\r\n", data)
        asyncio.get_running_loop().call_soon(self._answer, words)

    def _answer(self, words: list[bytes]) -> None:
        self._link.data_received(b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))

    def abort(self) -> None:
        self.aborted = True
        asyncio.get_running_loop().call_soon(self._link.connection_lost, None)


@pytest.mark.parametrize("count", [1, ALL])
@pytest.mark.parametrize("before", [0, 1, 4, 64])  # one of the queues grows then
async def test_every_answer_goes_to_its_own_command(before: int, count: int) -> None:
    hit = 0
    for number in range(60):
        link = Link()
        echo = Echo(link)
        link.connection_made(echo)
        calls: dict[int, asyncio.Future[bytes]] = {}

        def call(
            at: int, link: Link = link, calls: dict[int, asyncio.Future[bytes]] = calls
        ) -> None:
            calls[at] = link.call("ECHO", at)

        for at in range(before):
            call(at)
        try:
            starve(number, count, partial(call, before))
        except MemoryError:
            hit += 1
        call(before + 1)
        async with asyncio.timeout(PATIENCE):
            replies = await asyncio.gather(*calls.values(), return_exceptions=True)
        assert replies == [b"%d" % at for at in calls]
        assert link.in_flight == 0
        assert link.in_flight_bytes == 0
    assert hit > 2


async def test_a_turn_that_cannot_be_sent_loses_the_link() -> None:
    link = Link()
    echo = Echo(link)
    link.connection_made(echo)
    replies = [link.call("ECHO", at) for at in range(3)]
    starve(0, 1, link._flush)
    assert echo.aborted
    async with asyncio.timeout(PATIENCE):
        for reply in replies:
            with pytest.raises(EngineUnavailable, match="no memory"):
                await reply
