"""Verifying without waiting: only a key that must be fetched is waited for, and by whom."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from service.auth.jwks import Jwks
from service.auth.keys import FixedKey, public_key, secret_key
from service.auth.publishers import Publishers, key_digests
from service.auth.tokens import MAX_TOKEN_BYTES, JwtUserVerifier, TokenPolicy, TokenVerifier
from service.core.errors import Forbidden, Unauthorized
from tests.auth.conftest import Clock
from tests.auth.forge import EC_KEY, RSA_KEY, SECRET, claims, forge, jwk, pem, sign
from tests.auth.issuer import Issuer, running_issuer, send
from tests.edge.wire import open_socket, read_answer, read_head
from tests.harness.process import KEY, PATIENCE, Herald, eventually, open_plain

LIFETIME = 300.0
MIN_INTERVAL = 10.0


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        issuer.keys = [jwk(EC_KEY, "ES256", kid="one")]
        yield issuer


@pytest.fixture
def tokens(issuer: Issuer, clock: Clock) -> TokenVerifier:
    keys = Jwks(
        issuer.url,
        (),
        lifetime=LIFETIME,
        min_interval=MIN_INTERVAL,
        timeout=PATIENCE,
        clock=clock,
    )
    return TokenVerifier(keys, TokenPolicy())


def token(kid: str | None = "one", **more: Any) -> str:
    return sign(EC_KEY, "ES256", None if kid is None else {"kid": kid}, **more)


BAD = {
    "no token": "nonsense",
    "header is no JSON": forge(claims(), b"{"),
    "too long": token(padding="x" * MAX_TOKEN_BYTES),
}
"""Bad whichever keys there are: nobody fetches any for them."""

BAD_WITH_THE_KEY = {
    "expired": token(exp=1),
    "no exp": token(exp=None),
    "other key's signature": sign(RSA_KEY, "RS256", {"kid": "one"}),
    "secret's signature": forge(claims(), {"alg": "HS256", "kid": "one"}),
}


async def test_only_a_key_that_must_be_fetched_is_none(
    issuer: Issuer, tokens: TokenVerifier
) -> None:
    verifier = JwtUserVerifier(tokens)
    for bad in BAD.values():
        with pytest.raises(Unauthorized):
            verifier.verify_now(bad)
    assert verifier.verify_now(token()) is None
    # Whoever wants to wait says so with `verify`.
    assert asyncio.all_tasks() == {asyncio.current_task()}
    principal = await verifier.verify(token())
    assert verifier.verify_now(token()) == principal
    assert verifier.verify_now(token(kid=None)) == principal  # the only key
    assert verifier.verify_now(token(kid="two")) is None
    for bad in (BAD | BAD_WITH_THE_KEY).values():
        with pytest.raises(Unauthorized):
            verifier.verify_now(bad)
    assert issuer.fetches == 1


@pytest.mark.parametrize(
    ("key", "good"),
    [
        (secret_key(SECRET, ()), forge(claims(), {"alg": "HS256", "kid": "unknown"})),
        (public_key(pem(EC_KEY), ()), token(kid="unknown")),
    ],
    ids=["secret", "public key"],
)
def test_key_that_is_configured_is_never_waited_for(key: Any, good: str) -> None:
    verifier = JwtUserVerifier(TokenVerifier(FixedKey(key), TokenPolicy()))
    principal = verifier.verify_now(good)
    assert principal is not None
    assert principal.user == "alice"
    with pytest.raises(Unauthorized):
        verifier.verify_now(good[:-4] + "AAAA")


async def test_stale_keys_are_used_while_they_are_fetched_in_the_background(
    issuer: Issuer, tokens: TokenVerifier, clock: Clock
) -> None:
    verifier = JwtUserVerifier(tokens)
    await verifier.verify(token())
    clock.now += LIFETIME - 1
    assert verifier.verify_now(token()) is not None
    assert issuer.fetches == 1
    clock.now += 2
    # The issuer has revoked the key, but answers only when it has been used twice more.
    may_answer = threading.Event()

    def late(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
        may_answer.wait(PATIENCE)
        send(request, 200, json.dumps({"keys": [jwk(EC_KEY, "ES256", kid="two")]}).encode())

    issuer.behave = late
    try:
        for _ in range(2):
            assert verifier.verify_now(token()) is not None
        await eventually(lambda: issuer.fetches == 2, "the fetch in the background")
        assert verifier.verify_now(token()) is not None
    finally:
        may_answer.set()
    await eventually(lambda: verifier.verify_now(token(kid="two")) is not None, "the new key")
    assert verifier.verify_now(token()) is None
    with pytest.raises(Unauthorized):  # it is too early for another fetch
        await verifier.verify(token())
    assert issuer.fetches == 2


async def test_stale_keys_stay_good_while_the_issuer_is_away(
    issuer: Issuer, tokens: TokenVerifier, clock: Clock
) -> None:
    verifier = JwtUserVerifier(tokens)
    await verifier.verify(token())
    issuer.behave = lambda request, stopped: send(request, 500, b"")
    for fetches in (2, 3):
        clock.now += LIFETIME + 1
        assert verifier.verify_now(token()) is not None
        await eventually(lambda: issuer.fetches == fetches, "another try")  # noqa: B023
        # Not at each token.
        assert verifier.verify_now(token()) is not None
    assert issuer.fetches == 3


async def test_publisher_is_waited_for_only_where_a_key_must_be_fetched(
    issuer: Issuer, tokens: TokenVerifier
) -> None:
    publishers = Publishers(key_digests([KEY]), tokens)
    service = f"Bearer {token(scope='publish')}"
    by_key = publishers.verify_now(f"Bearer {KEY}")
    assert by_key is not None
    for bad in (None, "", "Bearer", f"Basic {KEY}", "Bearer other", "Bearer a.b.c"):
        with pytest.raises(Unauthorized):
            publishers.verify_now(bad)
    assert publishers.verify_now(service) is None
    assert asyncio.all_tasks() == {asyncio.current_task()}
    publisher = await publishers.verify(service)
    assert publishers.verify_now(service) == publisher
    assert publisher != by_key
    with pytest.raises(Forbidden):
        publishers.verify_now(f"Bearer {token()}")
    assert publishers.verify_now(f"Bearer {token(kid='two', scope='publish')}") is None
    assert issuer.fetches == 1


# The handshake, in a whole Herald


class Gate:
    """An issuer that answers a fetch when it is told to."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._asked = threading.Semaphore(0)
        self._open = threading.Semaphore(0)
        issuer.behave = self._behave

    def _behave(self, request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
        self._asked.release()
        self._open.acquire(timeout=PATIENCE)
        send(request, 200, json.dumps({"keys": self._issuer.keys}).encode())

    def wait_until_asked(self) -> None:
        assert self._asked.acquire(timeout=PATIENCE)

    def open(self) -> None:
        self._open.release()


def opening(token: str, *subprotocols: str) -> bytes:
    offers = [f"Sec-WebSocket-Protocol: {', '.join(subprotocols)}"] if subprotocols else []
    lines = [
        f"GET /v1/ws{'' if subprotocols else '?token=' + token} HTTP/1.1",
        "Host: x",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *offers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def frame(text: bytes) -> bytes:
    """A masked text frame; the mask is zero."""
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text


def read_until(sock: socket.socket, data: bytes, *wanted: bytes) -> None:
    """Read until each has come, as often as it is named."""
    while any(data.count(text) < wanted.count(text) for text in wanted):
        chunk = sock.recv(65536)
        assert chunk, data
        data += chunk


def is_silent(sock: socket.socket) -> bool:
    """Nothing has come yet."""
    sock.setblocking(False)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(PATIENCE)
    return False


@pytest.fixture
def gate(issuer: Issuer) -> Gate:
    return Gate(issuer)


@pytest.fixture
def by_issuer(start: Callable[..., Herald], issuer: Issuer) -> Herald:
    return start(jwt_secret=None, jwt_jwks_url=issuer.url)


PING = b'{"type":"ping"}'
CONNECT = b'{"type":"connect"}'


@pytest.mark.parametrize(
    ("subprotocol", "early", "later", "wanted"),
    [
        (None, PING, PING, [b'"welcome"', b'"pong"', b'"pong"']),
        ("herald.v1", CONNECT, PING, [b'"welcome"', b'"pong"']),
        ("herald.v1", None, CONNECT, [b'"welcome"']),
    ],
)
def test_handshake_waits_for_its_key_and_loses_nothing_that_was_sent_early(
    gate: Gate,
    issuer: Issuer,
    by_issuer: Herald,
    user: str,
    subprotocol: str | None,
    early: bytes | None,
    later: bytes,
    wanted: list[bytes],
) -> None:
    mine = token(sub=user)
    offers = () if subprotocol is None else (subprotocol, f"bearer.{mine}")
    with open_socket(by_issuer.port) as sock, open_socket(by_issuer.port) as bad:
        sock.sendall(opening(mine, *offers) + (b"" if early is None else frame(early)))
        gate.wait_until_asked()
        sock.sendall(frame(later))
        # A bad token waits for nobody's keys, and neither do other requests.
        bad.sendall(opening("a.b.c"))
        assert read_answer(bad)[0] == 401
        assert by_issuer.is_ready()
        assert is_silent(sock)
        gate.open()
        status, headers, rest = read_head(sock)
        assert (status, headers.get("sec-websocket-protocol")) == (101, subprotocol)
        read_until(sock, rest, *wanted)
        assert issuer.fetches == 1
        assert errors_of(by_issuer) == []


@pytest.mark.parametrize(
    ("subprotocol", "reset", "kid"),
    [
        (None, False, "one"),
        (None, True, "unknown"),
        ("herald.v1", False, "unknown"),
        ("herald.v1", True, "one"),
    ],
)
async def test_client_that_leaves_while_its_key_is_fetched_leaves_nothing(
    gate: Gate, by_issuer: Herald, user: str, subprotocol: str | None, reset: bool, kid: str
) -> None:
    mine = token(kid, sub=user)
    offers = () if subprotocol is None else (subprotocol, f"bearer.{mine}")
    with open_socket(by_issuer.port) as sock:
        sock.sendall(opening(mine, *offers))
        gate.wait_until_asked()
        if reset:
            linger = (1).to_bytes(4, "little") + bytes(4)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert by_issuer.is_ready()
    gate.open()
    # One who comes after finds a server in order.
    client = await open_plain(by_issuer, token=token(sub=user))
    assert (await client.expect("welcome"))["user"] == user
    await eventually(lambda: by_issuer.metrics()["herald_connections"] == 1, "it has gone")
    await client.close()
    gone = ("herald_connections", "herald_users", "herald_channels")
    await eventually(lambda: not any(by_issuer.metrics()[name] for name in gone), "all have gone")
    assert errors_of(by_issuer) == []


def test_process_stops_while_a_key_is_fetched(gate: Gate, by_issuer: Herald) -> None:
    with open_socket(by_issuer.port) as sock:
        sock.sendall(opening(token()))
        gate.wait_until_asked()
        by_issuer.process.terminate()
        deadline = time.monotonic() + PATIENCE
        while '"stopping"' not in by_issuer.log():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        gate.open()
        assert by_issuer.process.wait(PATIENCE) == 0
    assert errors_of(by_issuer) == []


def errors_of(herald: Herald) -> list[str]:
    lines = herald.log().splitlines()
    return [line for line in lines if json.loads(line)["level"] in ("error", "critical")]
