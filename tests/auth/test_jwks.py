"""Keys from an issuer over HTTP: fetched, rotated, and kept whatever becomes of the issuer."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from service.auth.jwks import Jwks
from service.auth.tokens import JwtUserVerifier, TokenPolicy, TokenVerifier
from service.core.errors import InvalidInput, KeysUnavailable, Unauthorized
from tests.auth.conftest import Clock
from tests.auth.forge import (
    EC_KEY,
    ED_KEY,
    OTHER_RSA_KEY,
    PRIVATE,
    RSA_KEY,
    claims,
    forge,
    jwk,
    pem,
    sign,
)
from tests.auth.issuer import Behaviour, Issuer, running_issuer, send
from tests.harness.process import PATIENCE, eventually

MIN_INTERVAL = 10.0
LIFETIME = 300.0


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


def source(issuer: Issuer, clock: Clock, *algorithms: str) -> Jwks:
    return Jwks(
        issuer.url,
        algorithms,
        lifetime=LIFETIME,
        min_interval=MIN_INTERVAL,
        timeout=PATIENCE,
        clock=clock,
    )


def verifier_of(keys: Jwks) -> JwtUserVerifier:
    return JwtUserVerifier(TokenVerifier(keys, TokenPolicy()))


async def accepts(verifier: JwtUserVerifier, token: str) -> bool:
    try:
        await verifier.verify(token)
    except (Unauthorized, KeysUnavailable):
        return False
    return True


def signed(private: Any = RSA_KEY, algorithm: str = "RS256", kid: str | None = "one") -> str:
    return sign(private, algorithm, None if kid is None else {"kid": kid})


def rsa_item(private: Any = RSA_KEY, **members: Any) -> dict[str, Any]:
    return jwk(private, "RS256", **{"kid": "one", **members})


async def test_first_token_fetches_the_keys_and_the_next_do_not(
    issuer: Issuer, clock: Clock
) -> None:
    issuer.keys = [rsa_item()]
    verifier = verifier_of(source(issuer, clock))
    assert issuer.fetches == 0
    for _ in range(3):
        assert await accepts(verifier, signed())
    assert issuer.fetches == 1


@pytest.mark.parametrize("algorithm", PRIVATE)
async def test_every_kind_of_key_verifies_its_algorithm_only(
    issuer: Issuer, clock: Clock, algorithm: str
) -> None:
    issuer.keys = [jwk(PRIVATE[algorithm], algorithm, kid="one")]
    verifier = verifier_of(source(issuer, clock))
    assert await accepts(verifier, signed(PRIVATE[algorithm], algorithm))
    for other, private in PRIVATE.items():
        assert (other == algorithm) == await accepts(verifier, signed(private, other))
    confused = forge(claims(), {"alg": "HS256", "kid": "one"}, pem(PRIVATE[algorithm]))
    assert not await accepts(verifier, confused)


async def test_rotation_is_picked_up_with_the_first_token_of_the_new_key(
    issuer: Issuer, clock: Clock
) -> None:
    issuer.keys = [rsa_item()]
    verifier = verifier_of(source(issuer, clock))
    assert await accepts(verifier, signed())
    issuer.keys = [rsa_item(OTHER_RSA_KEY, kid="two")]
    clock.now += MIN_INTERVAL
    assert await accepts(verifier, signed(OTHER_RSA_KEY, kid="two"))
    assert not await accepts(verifier, signed()), "the issuer took the old key back"


async def test_revoked_key_is_gone_after_its_lifetime_without_any_new_one(
    issuer: Issuer, clock: Clock
) -> None:
    issuer.keys = [rsa_item(), rsa_item(OTHER_RSA_KEY, kid="two")]
    verifier = verifier_of(source(issuer, clock))
    assert await accepts(verifier, signed())
    issuer.keys = [rsa_item(OTHER_RSA_KEY, kid="two")]
    clock.now += LIFETIME + 1
    # The known key is good while its successor is fetched in the background.
    assert await accepts(verifier, signed())
    async with asyncio.timeout(PATIENCE):
        while await accepts(verifier, signed()):
            await asyncio.sleep(0.01)
    assert issuer.fetches == 2


async def test_unknown_kids_cause_one_fetch_per_interval(issuer: Issuer, clock: Clock) -> None:
    issuer.keys = [rsa_item()]
    verifier = verifier_of(source(issuer, clock))
    assert await accepts(verifier, signed())
    for number in range(20):
        assert not await accepts(verifier, signed(kid=f"made-up-{number}"))
    assert issuer.fetches == 1
    clock.now += MIN_INTERVAL - 0.01
    assert not await accepts(verifier, signed(kid="other"))
    assert issuer.fetches == 1
    clock.now += 0.01
    for number in range(20):
        assert not await accepts(verifier, signed(kid=f"made-up-{number}"))
    assert issuer.fetches == 2
    assert await accepts(verifier, signed())


@pytest.mark.parametrize(
    "kid", ["../../etc/passwd", "", "\x00", "k" * 8000, "http://127.0.0.1:9/"], ids=repr
)
async def test_hostile_kid_finds_nothing(issuer: Issuer, clock: Clock, kid: str) -> None:
    issuer.keys = [rsa_item()]
    verifier = verifier_of(source(issuer, clock))
    assert not await accepts(verifier, signed(kid=kid))
    assert not await accepts(verifier, forge(claims(), {"alg": "RS256", "kid": [kid]}))
    assert await accepts(verifier, signed())


async def test_concurrent_verifies_share_one_fetch(issuer: Issuer, clock: Clock) -> None:
    release = threading.Event()

    def slow(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
        release.wait(PATIENCE)
        send(request, 200, document)

    document = _document([rsa_item()])
    issuer.behave = slow
    verifier = verifier_of(source(issuer, clock))
    tokens = [signed(), signed(kid="unknown"), signed(kid=None)] * 10
    waiting = [asyncio.ensure_future(accepts(verifier, token)) for token in tokens]
    await eventually(lambda: issuer.fetches == 1, "the fetch")
    clock.now += MIN_INTERVAL + 1
    waiting += [asyncio.ensure_future(accepts(verifier, token)) for token in tokens]
    # A caller that gives up does not take the fetch from the others.
    waiting.pop(0).cancel()
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting)
    release.set()
    assert await asyncio.gather(*waiting) == ([True, False, True] * 20)[1:]
    assert issuer.fetches == 1


def _document(keys: list[dict[str, Any]]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def says(body: bytes, status: int = 200) -> Behaviour:
    return lambda request, stopped: send(request, status, body)


def writes(data: bytes) -> Behaviour:
    return lambda request, stopped: request.wfile.write(data) and None


def hangs(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
    stopped.wait(PATIENCE)


def drips(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
    request.send_response(200)
    request.end_headers()
    while not stopped.wait(0.02):
        request.wfile.write(b" ")


def drips_its_head(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not stopped.wait(0.02):
        request.wfile.write(b"a")


def floods(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
    request.send_response(200)
    request.end_headers()
    while not stopped.is_set():
        request.wfile.write(b" " * 65536)


def redirects(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
    request.send_response(302)
    request.send_header("location", "file:///dev/null")
    request.end_headers()


TROUBLE: dict[str, Behaviour] = {
    "silent": hangs,
    "dripping": drips,
    "dripping its head": drips_its_head,
    "sending for ever": floods,
    "closing at once": lambda request, stopped: None,
    "500": says(b'{"keys":[]}', 500),
    "404": says(b"", 404),
    "redirecting to a file": redirects,
    "no HTTP": writes(b"220 mail.example.com ESMTP\r\n"),
    "nonsense as status": writes(b"HTTP/1.1 abc\r\n\r\n"),
    "cut off": writes(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"),
    "broken chunks": writes(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
    "200 header fields": writes(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n"),
    "huge": says(b'{"keys":[' + b" " * (1 << 20) + b"]}"),
    "not JSON": says(b"<html>maintenance</html>"),
    "not UTF-8": says(b'{"keys":"\xff\xfe"}'),
    "empty": says(b""),
    "a list": says(b"[]"),
    "a text": says(b'"keys"'),
    "no keys": says(b"{}"),
    "keys null": says(b'{"keys":null}'),
    "keys an object": says(b'{"keys":{"one":1}}'),
    "keys empty": says(b'{"keys":[]}'),
    "keys of nonsense": says(b'{"keys":[null,1,"a",[],{},{"kty":["x"]},{"kty":"RSA","n":1}]}'),
    "nested deeply": says(b'{"keys":' + b"[" * 100_000),
}


@pytest.mark.parametrize("behaviour", TROUBLE.values(), ids=TROUBLE.keys())
async def test_last_good_keys_stay_while_the_issuer_is_in_trouble(
    issuer: Issuer, clock: Clock, behaviour: Behaviour
) -> None:
    issuer.keys = [rsa_item()]
    keys = source(issuer, clock)
    verifier = verifier_of(keys)
    assert await accepts(verifier, signed())
    issuer.behave = behaviour
    keys._timeout = 0.3  # only while the issuer is bad: a good one must not depend on speed
    clock.now += LIFETIME + 1
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.ensure_future(tick())
    # The known key is good at once; an unknown one waits for the fetch, but not for ever.
    assert await accepts(verifier, signed())
    async with asyncio.timeout(PATIENCE):
        assert not await accepts(verifier, signed(kid="unknown"))
    assert issuer.fetches == 2
    assert await accepts(verifier, signed())
    ticking.cancel()
    assert ticks > 0, "the loop was blocked"
    # The issuer comes back with a new key.
    issuer.behave, issuer.keys = None, [rsa_item(OTHER_RSA_KEY, kid="two")]
    clock.now += MIN_INTERVAL
    keys._timeout = PATIENCE
    assert await accepts(verifier, signed(OTHER_RSA_KEY, kid="two"))


async def test_issuer_that_is_down_keeps_the_last_good_keys(clock: Clock) -> None:
    with running_issuer() as issuer:
        issuer.keys = [rsa_item()]
        verifier = verifier_of(source(issuer, clock))
        assert await accepts(verifier, signed())
    clock.now += LIFETIME + 1
    assert not await accepts(verifier, signed(kid="unknown"))
    assert await accepts(verifier, signed())


async def test_no_token_is_accepted_before_the_issuer_answered(clock: Clock) -> None:
    with running_issuer() as issuer:
        url_taken = issuer.url
    verifier = verifier_of(Jwks(url_taken, (), clock=clock))
    assert not await accepts(verifier, signed())
    assert not await accepts(verifier, signed(kid=None))


async def test_loop_turns_while_the_first_fetch_takes_long(issuer: Issuer, clock: Clock) -> None:
    release = threading.Event()

    def slow(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
        release.wait(PATIENCE)
        send(request, 200, _document([rsa_item()]))

    issuer.behave = slow
    verifying = asyncio.ensure_future(accepts(verifier_of(source(issuer, clock)), signed()))
    for _ in range(50):
        await asyncio.sleep(0.002)  # would not come back if the fetch held the loop
        assert not verifying.done()
    release.set()
    assert await verifying


ENCRYPTION = rsa_item(OTHER_RSA_KEY, kid="enc", use="enc", alg="RSA-OAEP")
OTHERS: dict[str, list[dict[str, Any]]] = {
    "nothing else": [],
    "an encryption key": [ENCRYPTION],
    "an encryption key known by its alg only": [{**ENCRYPTION, "use": "sig"}],
    "keys of other algorithms": [
        jwk(EC_KEY, "ES256", kid="ec"),
        jwk(ED_KEY, "EdDSA", kid="ed"),
    ],
    "a key of its kind for another algorithm": [rsa_item(OTHER_RSA_KEY, kid="x", alg="RS512")],
    "a secret": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "s"}],
    "a key of no algorithm": [{"kty": "oct", "alg": "none", "kid": "n"}],
    "an unknown kind": [{"kty": "PQC", "kid": "p"}],
    "nonsense": [{"kty": "RSA", "n": 5, "e": None, "kid": "b"}, {}],
}


@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("kid", [None, "one"])
async def test_token_without_kid_is_accepted_where_one_key_fits(
    issuer: Issuer, clock: Clock, others: list[dict[str, Any]], kid: str | None
) -> None:
    issuer.keys = [*others, rsa_item(kid=kid)]
    verifier = verifier_of(source(issuer, clock))
    assert await accepts(verifier, signed(kid=None))
    assert not await accepts(verifier, signed(OTHER_RSA_KEY, kid=None))
    for algorithm in ("none", "HS256"):
        assert not await accepts(verifier, forge(claims(), {"alg": algorithm}, pem(RSA_KEY)))


async def test_token_without_kid_is_refused_where_several_keys_fit(
    issuer: Issuer, clock: Clock
) -> None:
    issuer.keys = [rsa_item(), rsa_item(OTHER_RSA_KEY, kid="two")]
    verifier = verifier_of(source(issuer, clock))
    assert not await accepts(verifier, signed(kid=None))
    assert await accepts(verifier, signed())
    assert await accepts(verifier, signed(OTHER_RSA_KEY, kid="two"))


async def test_token_of_one_key_is_refused_under_the_name_of_another(
    issuer: Issuer, clock: Clock
) -> None:
    issuer.keys = [rsa_item(), rsa_item(OTHER_RSA_KEY, kid="two"), jwk(EC_KEY, "ES256", kid="ec")]
    verifier = verifier_of(source(issuer, clock))
    assert not await accepts(verifier, signed(kid="two"))
    assert not await accepts(verifier, signed(kid="ec"))


@pytest.mark.parametrize(
    ("members", "algorithms", "good"),
    [
        ({}, (), True),
        ({"alg": "RS256"}, (), True),
        ({"alg": "RS384"}, (), False),
        ({}, ("RS384",), False),
        ({}, ("ES256", "RS256"), True),
        ({"use": "enc"}, (), False),
        ({"kid": 5}, (), False),
        ({"kid": "other"}, (), False),
    ],
)
async def test_key_is_used_only_for_what_it_is_meant_for(
    issuer: Issuer, clock: Clock, members: dict[str, Any], algorithms: tuple[str, ...], good: bool
) -> None:
    issuer.keys = [rsa_item(**members)]
    verifier = verifier_of(source(issuer, clock, *algorithms))
    assert await accepts(verifier, signed()) == good


async def test_only_so_many_keys_are_read(issuer: Issuer, clock: Clock) -> None:
    issuer.keys = [rsa_item(kid=f"k{number}") for number in range(101)]
    verifier = verifier_of(source(issuer, clock))
    assert await accepts(verifier, signed(kid="k99"))
    assert not await accepts(verifier, signed(kid="k100"))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "//a/b", "jwks.json", ""])
def test_address_that_is_not_http_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(InvalidInput, match="https://"):
        Jwks(url, ())
