"""A crowd that attacks, in a process of its own: `python -m tests.attack.crowd '{"attack": …}'`.

Its own, so that it takes neither descriptors nor time from those who are measured. It says `begun`
once it is at work; when its standard input ends it says what became of it, as JSON, while its
connections are still open, and goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import NamedTuple

import uvloop

from tests.hub.wire import PING, frame, handshake, text

BAD_TOKEN = (
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0."
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)
"""Well-formed, so that its signature is looked at."""
PAGE = b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n"
"""Asked for without a key, and its answer is large."""
SMALL = b"GET / HTTP/1.1\r\n\r\n"
"""The shortest request that there is: what it makes the server hold is the most for its bytes."""
_RST = struct.pack("ii", 1, 0)
_REFUSED_PAUSE = 0.05


class Plan(NamedTuple):
    """Who attacks what. `token`: a user's, good; `key`: a publisher's, good."""

    attack: str
    port: int
    connections: int
    seed: int
    token: str
    key: str


class Crowd:
    """Counts what its members see."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.counts: Counter[str] = Counter()
        self.begun = asyncio.Event()

    async def member(self, chance: random.Random) -> None:
        """Attack again and again."""
        attack = ATTACKS[self.plan.attack]
        while True:
            try:
                await attack(self, chance)
            except (OSError, RuntimeError, asyncio.IncompleteReadError):
                # uvloop's transports raise a RuntimeError once they are closed.
                self.counts["cut off"] += 1
                await asyncio.sleep(_REFUSED_PAUSE)

    async def open(self, receive: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection; `receive`: how much the kernel is to keep of what is not read."""
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if receive:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.plan.port))
            streams = await asyncio.open_connection(sock=sock, limit=1 << 16)
        except BaseException:
            sock.close()
            raise
        self.counts["opened"] += 1
        self.begun.set()
        return streams

    async def feed(self, pieces: Iterable[bytes], pause: Callable[[], float]) -> None:
        """Send these, one after the other, until the server ends it; count what it said."""
        reader, writer = await self.open()
        said = asyncio.ensure_future(reader.read(-1))
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.wait({said}, timeout=pause())
                if said.done():
                    break
            self.count(await said)
        finally:
            said.cancel()
            await asyncio.gather(said, return_exceptions=True)
            writer.transport.abort()

    def count(self, answer: bytes) -> None:
        """One more connection that the server has ended, after it said this."""
        status = answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else "without a word"
        self.counts[f"ended: {status}"] += 1


Attack = Callable[[Crowd, random.Random], Awaitable[None]]


def one_by_one(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


async def slow_heads(crowd: Crowd, chance: random.Random) -> None:
    """A good handshake, a byte now and then, and the last line never."""
    request = handshake(crowd.plan.token)[:-2]
    pieces = itertools.chain(one_by_one(request), itertools.repeat(b"x"))
    await crowd.feed(pieces, lambda: chance.uniform(0.05, 0.5))


def _post(body_bytes: int, key: str) -> bytes:
    return (
        f"POST /v1/events HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {body_bytes}\r\n\r\n"
    ).encode()


async def slow_bodies(crowd: Crowd, chance: random.Random) -> None:
    """A body that takes days: sent by nobody, or by a publisher that has gone mad."""
    key = chance.choice(["nobody", crowd.plan.key])
    head = _post(60_000, key)
    pieces = itertools.chain([head], itertools.repeat(b"x"))
    await crowd.feed(pieces, lambda: chance.uniform(0.05, 0.5))


async def long_heads(crowd: Crowd, chance: random.Random) -> None:
    """A head that never ends: in one field, in many, or in the path."""
    begin, piece = chance.choice(
        [
            (b"GET /v1/ws HTTP/1.1\r\nx: ", b"x" * 16_384),
            (b"GET /v1/ws HTTP/1.1\r\n", b"a:b\r\n" * 3_000),
            (b"GET /v1/ws?", b"x" * 16_384),
        ]
    )
    await crowd.feed(itertools.chain([begin], itertools.repeat(piece)), lambda: 0)


async def trailers(crowd: Crowd, chance: random.Random) -> None:
    """A chunked body whose trailer section never ends: fields as a head has, after the limits."""
    path = chance.choice([b"GET /healthz/live", b"POST /v1/events", b"GET /v1/ws"])
    begin = path + b" HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    piece = chance.choice([b"a:b\r\n" * 3_000, b"x" * 16_384])
    begin += b"x: " if piece.startswith(b"x") else b""
    await crowd.feed(itertools.chain([begin], itertools.repeat(piece)), lambda: 0)


async def silence(crowd: Crowd, chance: random.Random) -> None:
    """Nothing is said at all."""
    await crowd.feed([], lambda: 0)


async def idleness(crowd: Crowd, chance: random.Random) -> None:
    """One request, and then nothing: kept open for the next."""
    await crowd.feed([SMALL], lambda: 0)


async def half_open(crowd: Crowd, chance: random.Random) -> None:
    """Our side ends in the middle of something; the server's side is waited for."""
    request = handshake(crowd.plan.token)
    reader, writer = await crowd.open()
    try:
        writer.write(request[: chance.choice([0, 1, 40, len(request)])])
        writer.write_eof()
        crowd.count(await reader.read(-1))
    finally:
        writer.transport.abort()


async def resets(crowd: Crowd, chance: random.Random) -> None:
    """A connection that is reset, before, within or after its handshake or request."""
    requests = [handshake(crowd.plan.token), handshake(herald=True), PAGE * 3]
    request = chance.choice(requests)
    _, writer = await crowd.open()
    writer.write(request[: chance.randrange(len(request) + 1)])
    await asyncio.sleep(chance.choice([0, 0, 0.01]))
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    writer.transport.abort()
    crowd.counts["reset"] += 1


async def bad_handshakes(crowd: Crowd, chance: random.Random) -> None:
    """As many as go; those of `herald.v1` never answer the close."""
    herald = chance.random() < 0.5
    reader, writer = await crowd.open()
    try:
        writer.write(handshake(BAD_TOKEN, herald=herald))
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 101"):
            code = int.from_bytes((await reader.readexactly(4))[2:])
            crowd.counts[f"ended: {code}"] += 1
        else:
            crowd.count(head)
    finally:
        writer.transport.abort()


async def _flood_of_frames(crowd: Crowd, frames: bytes) -> None:
    """Frames as fast as they are taken; what comes back is read."""
    reader, writer = await crowd.open()
    writer.write(handshake(crowd.plan.token))
    await reader.readuntil(b"\r\n\r\n")

    async def read() -> None:
        while data := await reader.read(1 << 16):
            crowd.counts["bytes read"] += len(data)

    reading = asyncio.ensure_future(read())
    try:
        while not reading.done():
            writer.write(frames)
            await writer.drain()
            crowd.counts["floods"] += 1
        crowd.counts["ended"] += 1
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        writer.transport.abort()


async def bad_auths(crowd: Crowd, chance: random.Random) -> None:
    """A user with a good token who sends bad ones."""
    await _flood_of_frames(crowd, text(type="auth", token=BAD_TOKEN) * 50)


async def pings(crowd: Crowd, chance: random.Random) -> None:
    """Frames that say ping, and messages that do."""
    await _flood_of_frames(crowd, (frame(PING, b"x" * 125) + text(type="ping")) * 50)


async def unread_answers(crowd: Crowd, chance: random.Random) -> None:
    """Requests without an end, and no answer is ever read."""
    _, writer = await crowd.open(receive=4096)
    request = chance.choice([PAGE, SMALL])
    try:
        while True:
            writer.write(request * (16_384 // len(request)))
            await writer.drain()
            crowd.counts["floods"] += 1
    finally:
        writer.transport.abort()


async def pipelines(crowd: Crowd, chance: random.Random) -> None:
    """Requests without an end, sent faster than they can be answered; answers are read."""
    reader, writer = await crowd.open()
    small = chance.choice([SMALL, b"POST /v1/events HTTP/1.1\r\ncontent-length:0\r\n\r\n"])

    async def read() -> None:
        while data := await reader.read(1 << 16):
            crowd.counts["bytes read"] += len(data)

    reading = asyncio.ensure_future(read())
    try:
        while not reading.done():
            writer.write(small * (65_536 // len(small)))
            await writer.drain()
            crowd.counts["floods"] += 1
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        writer.transport.abort()


ATTACKS: dict[str, Attack] = {
    "slow heads": slow_heads,
    "slow bodies": slow_bodies,
    "long heads": long_heads,
    "endless trailers": trailers,
    "silence": silence,
    "idleness": idleness,
    "half open": half_open,
    "resets": resets,
    "bad handshakes": bad_handshakes,
    "bad auths": bad_auths,
    "pings": pings,
    "unread answers": unread_answers,
    "pipelines": pipelines,
}


async def main(plan: Plan) -> None:
    crowd = Crowd(plan)
    members = [
        asyncio.ensure_future(crowd.member(random.Random(f"{plan.seed}-{number}")))
        for number in range(plan.connections)
    ]
    await crowd.begun.wait()
    print("begun", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for member in members:
        assert not member.done(), member
    print(json.dumps(crowd.counts), flush=True)
    for member in members:
        member.cancel()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.gather(*members, return_exceptions=True)


if __name__ == "__main__":
    uvloop.run(main(Plan(**json.loads(sys.argv[1]))))
