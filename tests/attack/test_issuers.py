"""An issuer that is hostile, slow, down or rotating its keys, and a live server that asks it.

The fetching itself is in tests/auth/test_jwks.py, with a clock of its own. Here: nobody comes in by
a key from elsewhere, the answer is 503 or 1013 while no keys were ever had, publishers with API
keys notice nothing, and good tokens are served while the issuer keeps a fetch waiting.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from tests.attack.doors import HEADER_WAYS, first_word, knock, knock_with_connect, opening
from tests.attack.people import footprint, troubles_of
from tests.auth.forge import OTHER_RSA_KEY, RSA_KEY, base64url, jwk, sign
from tests.auth.issuer import Behaviour, Issuer, running_issuer, send
from tests.edge.wire import open_socket
from tests.harness.process import Herald, eventually

KEY_BYTES = 100_000_000
"""A document of this size would be seen in the process's memory."""
MEMORY = 60e6


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        issuer.keys = [jwk(RSA_KEY, "RS256", kid="one")]
        yield issuer


@pytest.fixture
def elsewhere() -> Iterator[Issuer]:
    """A stranger's server, with keys as good as any."""
    with running_issuer() as issuer:
        issuer.keys = [jwk(OTHER_RSA_KEY, "RS256", kid="one")]
        yield issuer


def token(kid: str = "one", key: object = RSA_KEY) -> str:
    return sign(key, "RS256", {"kid": kid})


def outcomes(herald: Herald, text: str) -> set[int]:
    """What every door says to this token."""
    return {
        knock_with_connect(herald.port, text),
        *(
            knock(herald.port, opening(way, text, herald_v1=herald_v1))
            for way in HEADER_WAYS
            for herald_v1 in (False, True)
        ),
    }


def floods(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(b'{"keys":[')
    while not stopped.is_set():
        request.wfile.write(b'{"kty":"x"},' * 10_000)


def says(body: bytes, content_type: str) -> Behaviour:
    def behave(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
        request.send_response(200)
        request.send_header("content-type", content_type)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return behave


HOSTILE: dict[str, Behaviour] = {
    "a body without an end": floods,
    "a body of 100 MB": says(b" " * KEY_BYTES, "application/json"),
    "a page": says(b"<html>" + b"log in" * 1_000, "text/html"),
    "a picture": says(bytes(range(256)) * 100, "image/png"),
    "symmetric keys alone": says(
        json.dumps(
            {"keys": [{"kty": "oct", "k": base64url(b"k" * 32), "kid": "one", "alg": "RS256"}]}
        ).encode(),
        "application/json",
    ),
    "keys for no algorithm": says(
        json.dumps({"keys": [jwk(RSA_KEY, "RS256", kid="one", alg="none")]}).encode(),
        "application/json",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nobody_comes_in_by_a_hostile_document_and_publishers_notice_nothing(
    start: Callable[..., Herald], issuer: Issuer, name: str
) -> None:
    issuer.behave = HOSTILE[name]
    herald = start(jwt_secret=None, jwt_jwks_url=issuer.url)
    before = footprint(herald)
    # Whether the token is good cannot be known, so it is not called bad (docs/operations.md).
    assert outcomes(herald, token()) == {503, 1013}
    assert issuer.fetches == 1
    herald.publish("all")
    assert footprint(herald).memory - before.memory < MEMORY
    assert troubles_of(herald) == []


def test_keys_from_elsewhere_do_not_count(
    start: Callable[..., Herald], issuer: Issuer, elsewhere: Issuer
) -> None:
    def redirects(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
        request.send_response(302)
        request.send_header("location", elsewhere.url)
        request.end_headers()

    issuer.behave = redirects
    herald = start(jwt_secret=None, jwt_jwks_url=issuer.url)
    assert outcomes(herald, token(key=OTHER_RSA_KEY)) == {503, 1013}
    assert (issuer.fetches, elsewhere.fetches) == (1, 0)


def test_redirect_within_the_issuer_is_followed(
    start: Callable[..., Herald], issuer: Issuer
) -> None:
    def redirects(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
        if request.path == "/jwks.json":
            request.send_response(301)
            request.send_header("location", "/moved.json")
            request.end_headers()
        else:
            send(request, 200, json.dumps({"keys": issuer.keys}).encode())

    issuer.behave = redirects
    herald = start(jwt_secret=None, jwt_jwks_url=issuer.url)
    assert outcomes(herald, token()) == {101}
    assert issuer.fetches == 2


def test_of_10000_keys_the_first_ones_count(start: Callable[..., Herald], issuer: Issuer) -> None:
    # Small ones, so that the document is within its limit; the key that is good is first.
    issuer.keys += [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": f"k{n}"} for n in range(10_000)]
    issuer.keys.append(jwk(OTHER_RSA_KEY, "RS256", kid="last"))
    herald = start(jwt_secret=None, jwt_jwks_url=issuer.url)
    assert outcomes(herald, token()) == {101}
    assert outcomes(herald, token("last", OTHER_RSA_KEY)) == {401, 3000}
    assert outcomes(herald, token("k5000", OTHER_RSA_KEY)) == {401, 3000}


async def test_good_tokens_are_served_while_a_fetch_hangs_and_by_rotated_keys_after_it(
    start: Callable[..., Herald], issuer: Issuer
) -> None:
    """Takes the ten seconds in which no second fetch is made, whatever tokens ask for."""
    release = threading.Event()

    def hangs(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
        while not release.wait(0.01) and not stopped.is_set():
            pass
        send(request, 200, json.dumps({"keys": issuer.keys}).encode())

    herald = start(jwt_secret=None, jwt_jwks_url=issuer.url)
    good, unknown = token(), token("unknown", OTHER_RSA_KEY)
    assert await asyncio.to_thread(outcomes, herald, good) == {101}
    assert await asyncio.to_thread(outcomes, herald, unknown) == {401, 3000}
    assert issuer.fetches == 1, "those whom nobody knows cause no fetch so soon"
    issuer.behave = hangs
    # A flood of unknown keys, until one of them causes the second fetch, which hangs.
    waiting: list[asyncio.Task[int]] = []
    while issuer.fetches == 1:
        request = opening("query", unknown, herald_v1=False)
        waiting.append(asyncio.create_task(asyncio.to_thread(knock, herald.port, request)))
        assert await asyncio.to_thread(outcomes, herald, good) == {101}
        await asyncio.sleep(0.2)
    for _ in range(3):
        assert await asyncio.to_thread(outcomes, herald, good) == {101}
        await asyncio.to_thread(herald.publish, "all")
    assert issuer.fetches == 2
    # Meanwhile the issuer has rotated: this is what the fetch brings.
    issuer.keys = [jwk(OTHER_RSA_KEY, "RS256", kid="two")]
    release.set()
    rotated = token("two", OTHER_RSA_KEY)
    assert set(await asyncio.gather(*waiting)) == {401}
    await eventually(
        lambda: knock_with_connect(herald.port, rotated) == 101, "the new key is known"
    )
    assert await asyncio.to_thread(outcomes, herald, good) == {401, 3000}
    assert troubles_of(herald) == []


async def test_an_issuer_that_was_down_is_asked_again(
    start: Callable[..., Herald], issuer: Issuer
) -> None:
    """Also after ten seconds, by the tokens that come."""
    issuer.behave = lambda request, stopped: send(request, 503, b"")
    herald = start(jwt_secret=None, jwt_jwks_url=issuer.url)
    assert await asyncio.to_thread(outcomes, herald, token()) == {503, 1013}
    issuer.behave = None
    await eventually(lambda: knock_with_connect(herald.port, token()) == 101, "the keys came")
    assert await asyncio.to_thread(outcomes, herald, token()) == {101}
    assert issuer.fetches == 2


async def test_handshakes_that_wait_for_a_key_do_not_exceed_the_limit_of_connections(
    start: Callable[..., Herald], issuer: Issuer
) -> None:
    """All were let past it when they came, because none was in yet."""
    release = threading.Event()

    def hangs(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
        while not release.wait(0.01) and not stopped.is_set():
            pass
        send(request, 200, json.dumps({"keys": issuer.keys}).encode())

    issuer.behave = hangs
    herald = start(jwt_secret=None, jwt_jwks_url=issuer.url, max_connections="2")
    socks = [open_socket(herald.port) for _ in range(6)]
    try:
        for sock in socks:
            sock.sendall(opening("subprotocol", token(), herald_v1=True))
        await eventually(lambda: issuer.fetches == 1, "the fetch")
        # All have been read when one who came later is answered.
        assert await asyncio.to_thread(herald.is_ready)
        release.set()
        codes = [await asyncio.to_thread(first_word, sock) for sock in socks]
    finally:
        for sock in socks:
            sock.close()
    assert sorted(codes) == [101, 101, 1013, 1013, 1013, 1013]
