"""Who waits for an issuer's key: only a token that none of the known ones can verify."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from service.auth.jwks import Jwks
from service.auth.keys import FixedKey, secret_key
from service.auth.publishers import Publishers, key_digests
from service.auth.tokens import JwtUserVerifier, TokenPolicy, TokenVerifier
from service.core.errors import Unauthorized
from service.core.principal import Publisher
from tests.auth.forge import EC_KEY, SECRET, claims, forge, jwk, sign
from tests.auth.issuer import Issuer, running_issuer, send
from tests.edge.wire import open_socket, read_answer, read_head
from tests.harness.process import KEY, PATIENCE, Herald, eventually, websocket_request

LIFETIME = 300.0


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        issuer.keys = [jwk(EC_KEY, "ES256", kid="one")]
        yield issuer


def token(kid: str | None = "one", **more: object) -> str:
    return sign(EC_KEY, "ES256", None if kid is None else {"kid": kid}, **more)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def tokens_of(issuer: Issuer, clock: Clock) -> TokenVerifier:
    keys = Jwks(issuer.url, (), lifetime=LIFETIME, timeout=PATIENCE, clock=clock)
    return TokenVerifier(keys, TokenPolicy())


async def test_only_a_key_that_must_be_fetched_is_waited_for(issuer: Issuer) -> None:
    verifier = JwtUserVerifier(tokens_of(issuer, Clock()))
    assert verifier.verify_now(token()) is None
    assert issuer.fetches == 0, "asking now fetches nothing"
    assert (await verifier.verify(token())).user == "alice"
    for known in ("one", None):
        principal = verifier.verify_now(token(known))
        assert principal is not None
        assert principal.user == "alice"
    assert verifier.verify_now(token("unknown")) is None
    # What is bad whatever the keys are is refused at once.
    for bad in (token(exp=1), token(sub=None), "no token", token() + "x", "x" * 20_000):
        with pytest.raises(Unauthorized):
            verifier.verify_now(bad)
    assert issuer.fetches == 1


def test_secret_is_never_waited_for() -> None:
    verifier = JwtUserVerifier(TokenVerifier(FixedKey(secret_key(SECRET, ())), TokenPolicy()))
    for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": "anything"}):
        principal = verifier.verify_now(forge(claims(), header))
        assert principal is not None
        assert principal.user == "alice"
    for header in ({"alg": "none"}, {"alg": "ES256", "kid": "one"}):
        with pytest.raises(Unauthorized):
            verifier.verify_now(forge(claims(), header))


async def test_publisher_is_waited_for_only_where_a_service_token_names_an_unknown_key(
    issuer: Issuer,
) -> None:
    publishers = Publishers(key_digests([KEY]), tokens_of(issuer, Clock()))
    service = f"Bearer {token(sub='shop', scope='publish')}"
    assert publishers.verify_now(f"Bearer {KEY}") == Publisher("key")
    assert publishers.verify_now(service) is None
    for bad in (None, "", "Bearer nobody", "Basic x"):
        with pytest.raises(Unauthorized):
            publishers.verify_now(bad)
    assert issuer.fetches == 0
    assert await publishers.verify(service) == Publisher("jwt:shop")
    assert publishers.verify_now(service) == Publisher("jwt:shop")
    assert issuer.fetches == 1


async def test_stale_key_is_good_at_once_and_refreshed_behind_it(issuer: Issuer) -> None:
    clock = Clock()
    verifier = JwtUserVerifier(tokens_of(issuer, clock))
    await verifier.verify(token())
    release = threading.Event()

    def slowly(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
        release.wait(PATIENCE)
        send(request, 200, json.dumps({"keys": [jwk(EC_KEY, "ES256", kid="two")]}).encode())

    issuer.behave = slowly
    clock.now += LIFETIME + 1
    try:
        for _ in range(3):
            assert verifier.verify_now(token()) is not None
        await eventually(lambda: issuer.fetches == 2, "the refresh")
        assert verifier.verify_now(token()) is not None
        assert verifier.verify_now(token("two")) is None
    finally:
        release.set()
    await eventually(lambda: verifier.verify_now(token("two")) is not None, "the new key")
    assert verifier.verify_now(token()) is None, "the issuer took the old key back"
    assert issuer.fetches == 2


# A whole Herald


def slow_until(release: threading.Event, issuer: Issuer) -> None:
    def behave(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
        while not release.wait(0.01) and not stopped.is_set():
            pass
        send(request, 200, json.dumps({"keys": issuer.keys}).encode())

    issuer.behave = behave


def opening(text: str, herald_v1: bool) -> bytes:
    if not herald_v1:
        return websocket_request(text)
    field = b"Host: x\r\nSec-WebSocket-Protocol: herald.v1"
    return websocket_request(text).replace(b"Host: x", field)


@pytest.mark.parametrize("herald_v1", [False, True])
@pytest.mark.parametrize("kid", ["one", "unknown"])
async def test_handshake_waits_for_the_fetch_and_holds_up_nobody(
    start: Callable[..., Herald], issuer: Issuer, kid: str, herald_v1: bool
) -> None:
    release = threading.Event()
    slow_until(release, issuer)
    herald = start(jwt_secret=None, jwt_jwks_url=issuer.url)
    with open_socket(herald.port) as sock:
        sock.sendall(opening(token(kid), herald_v1))
        await eventually(lambda: issuer.fetches == 1, "the fetch")
        sock.setblocking(False)
        # Others are served meanwhile, and this one is not answered.
        assert herald.publish("all")["duplicate"] is False
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.settimeout(PATIENCE)
        release.set()
        if herald_v1:
            status, headers, rest = await asyncio.to_thread(read_head, sock)
            assert (status, headers["sec-websocket-protocol"]) == (101, "herald.v1")
            if kid == "unknown":  # a close, because browsers are not shown a status
                while len(rest) < 4:
                    rest += await asyncio.to_thread(sock.recv, 100)
                assert (rest[0], int.from_bytes(rest[2:4], "big")) == (0x88, 3000)
        elif kid == "one":
            assert (await asyncio.to_thread(read_head, sock))[0] == 101
        else:
            assert (await asyncio.to_thread(read_answer, sock))[0] == 401
    await eventually(lambda: herald.metrics()["herald_connections"] == 0, "the end")
    assert issuer.fetches == 1


@pytest.mark.parametrize("herald_v1", [False, True])
@pytest.mark.parametrize("reset", [False, True])
async def test_client_that_leaves_while_its_key_is_fetched_leaves_nothing_behind(
    start: Callable[..., Herald], issuer: Issuer, herald_v1: bool, reset: bool
) -> None:
    release = threading.Event()
    slow_until(release, issuer)
    herald = start(jwt_secret=None, jwt_jwks_url=issuer.url)
    with open_socket(herald.port) as sock:
        sock.sendall(opening(token(), herald_v1))
        await eventually(lambda: issuer.fetches == 1, "the fetch")
        if reset:
            linger = (1).to_bytes(4, "little") + bytes(4)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    release.set()
    # The key has come when another is let in by it; the one that left is dealt with before.
    with open_socket(herald.port) as other:
        other.sendall(opening(token(), herald_v1=False))
        assert (await asyncio.to_thread(read_head, other))[0] == 101
    await eventually(lambda: herald.metrics()["herald_connections"] == 0, "nobody is left")
    assert herald.metrics()["herald_users"] == 0
    assert herald.stop() == 0
    records = [json.loads(line) for line in herald.log().splitlines()]
    # The loop's debug mode warns of a step that took long, as on a busy machine.
    levels = {record["level"] for record in records if record["logger"] != "asyncio"}
    assert not {"error", "critical", "warning"} & levels, herald.log()
