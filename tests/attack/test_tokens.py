"""Bad tokens at the doors of a live server, in every way that a token can come.

What the verifier itself makes of a token is in tests/auth/test_tokens.py and test_jwks.py. Here it
is the whole server: each token of one table is brought in five ways to the WebSocket, and to the
publish API, of servers with each kind of key. It is refused with 401 or 3000, nothing of it is
logged, nobody is asked for the keys that it names, and a good token is served right after it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from service.broker.embedded import EmbeddedEngine
from tests.attack.doors import (
    CUT_OFF,
    HEADER_WAYS,
    knock,
    knock_with_connect,
    new_lines,
    opening,
    publish_statuses,
)
from tests.auth.forge import EC_KEY, OTHER_RSA_KEY, RSA_KEY, SECRET, base64url, claims, jwk, pem
from tests.auth.issuer import Issuer, running_issuer
from tests.harness.process import KEY, Herald, running

NOW = int(time.time())
OCT = b"a symmetric key that somebody put into the JWKS by mistake"
SERVERS = ("secret", "pem", "jwks")
HS256, RS256 = {"alg": "HS256"}, {"alg": "RS256"}
Payload = bytes | dict[str, Any]
Signature = Callable[[bytes], bytes]


def good(**changes: Any) -> dict[str, Any]:
    """Claims of a user who may also publish; those with the value None are left out."""
    return claims(**{"aud": "web", "iss": "us", "scope": "publish", **changes})


def hmac_by(secret: bytes) -> Signature:
    return lambda text: hmac.new(secret, text, hashlib.sha256).digest()


def rsa_by(key: Any) -> Signature:
    return lambda text: bytes(key.sign(text, PKCS1v15(), SHA256()))


class Maker:
    """Makes tokens for one kind of server: those that it made are good until something is wrong."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.header: dict[str, Any] = {"secret": HS256, "pem": RS256}.get(
            server, {**RS256, "kid": "one"}
        )
        self.sign = hmac_by(SECRET.encode()) if server == "secret" else rsa_by(RSA_KEY)
        self.sign_by_another = hmac_by(b"x" * 32) if server == "secret" else rsa_by(OTHER_RSA_KEY)

    def __call__(
        self,
        payload: Payload | None = None,
        header: bytes | None = None,
        sign: Signature | None = None,
        **fields: Any,
    ) -> str:
        """A token; `fields` go into its header, or `header` is all of it."""
        parts = [
            json.dumps({**self.header, **fields}).encode() if header is None else header,
            json.dumps(good()).encode() if payload is None else _bytes(payload),
        ]
        signed = ".".join(base64url(part) for part in parts)
        return f"{signed}.{base64url((sign or self.sign)(signed.encode()))}"


def _bytes(payload: Payload) -> bytes:
    return payload if isinstance(payload, bytes) else json.dumps(payload).encode()


def unsigned(token: str) -> str:
    return token.rpartition(".")[0] + "."


def with_claims(**changes: Any) -> Callable[[Maker], str]:
    return lambda make: make(good(**changes))


def with_raw_claim(text: bytes) -> Callable[[Maker], str]:
    """Good claims, and one as JSON that Python would not write."""
    return lambda make: make(json.dumps(good(exp=None)).encode()[:-1] + b"," + text + b"}")


def by_public_key(key: Any) -> Callable[[Maker], str]:
    """HS256 with the public key, which everybody may know, as the secret."""
    return lambda make: make(sign=hmac_by(pem(key)), alg="HS256")


def of_a_stranger(evil: str, **fields: Any) -> Callable[[Maker], str]:
    """Signed by a stranger's key, and the header says where to find it."""
    placed = {name: evil if value == "URL" else value for name, value in fields.items()}
    return lambda make: make(sign=make.sign_by_another, **placed)


def kid(text: Any, secret: bytes = b"") -> Callable[[Maker], str]:
    """Signed with what somebody may have hoped that the `kid` leads to."""
    return lambda make: make(sign=hmac_by(secret), alg="HS256", kid=text)


def flipped(token: str) -> str:
    """Another last sign, whose bits beyond the last byte alone differ."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


def flaws(evil: str) -> dict[str, Callable[[Maker], str]]:
    """The table: what is wrong, and a token of which nothing else is. `evil`: a stranger's URL."""
    return {
        # Which algorithm
        "alg none": lambda make: unsigned(make(alg="none")),
        "alg None": lambda make: unsigned(make(alg="None")),
        "alg nOnE": lambda make: unsigned(make(alg="nOnE")),
        "alg none with a signature": lambda make: make(alg="none"),
        "alg missing": lambda make: make(header=b'{"typ":"JWT"}'),
        "alg null": lambda make: make(alg=None),
        "alg a list": lambda make: make(alg=["HS256", "RS256"]),
        "alg HS256 with the RSA key's text": by_public_key(RSA_KEY),
        "alg HS256 with the EC key's text": by_public_key(EC_KEY),
        "alg HS256 with the JWKS's oct key": kid("oct", OCT),
        "alg HS256 with an empty secret": kid("one"),
        "alg that is not allowed": lambda make: make(alg="PS384"),
        # Which key
        "kid a path": kid("../../../../../../dev/null"),
        "kid an absolute path": kid("/proc/sys/kernel/randomize_va_space", b"2\n"),
        "kid SQL": kid("x' UNION SELECT 'secret' --", b"secret"),
        "kid a command": kid("|/bin/sleep 10"),
        "kid unknown": lambda make: make(sign=make.sign_by_another, kid="unknown"),
        "kid of a key without an algorithm": lambda make: unsigned(make(alg="none", kid="none")),
        "kid of a key for encryption": lambda make: make(sign=rsa_by(OTHER_RSA_KEY), kid="enc"),
        "kid of 100 KB": lambda make: make(kid="k" * 100_000),
        "kid a number": lambda make: make(kid=1),
        "kid null": lambda make: make(kid=None),
        "kid a list": lambda make: make(kid=["one"]),
        "kid an object": lambda make: make(kid={"$ne": ""}),
        "another key": lambda make: make(sign=make.sign_by_another),
        "jku of a stranger": of_a_stranger(evil, jku="URL"),
        "jku and kid of a stranger": of_a_stranger(evil, jku="URL", kid="evil"),
        "x5u of a stranger": of_a_stranger(evil, x5u="URL"),
        "jwk of a stranger": of_a_stranger(evil, jwk=jwk(OTHER_RSA_KEY, "RS256")),
        "x5c of a stranger": of_a_stranger(evil, x5c=["MIIB"]),
        "kid a URL": of_a_stranger(evil, kid="URL"),
        # Which form
        "signature cut": lambda make: make()[:-4],
        "signature empty": lambda make: unsigned(make()),
        "signature missing": lambda make: make().rpartition(".")[0],
        "signature with other signs in it": lambda make: make()[:-8] + "!*~." + make()[-8:],
        "signature with signs that base64 passes over": lambda make: make() + "!!!!",
        "signature not canonical": lambda make: flipped(make()),
        "signature twice": lambda make: make() + "." + make().rpartition(".")[2],
        "dots doubled": lambda make: make().replace(".", ".."),
        "dot at the end": lambda make: make() + ".",
        "dots alone": lambda make: "..",
        "payload of another token": lambda make: ".".join(
            [make().split(".")[0], make(good(sub="root")).split(".")[1], make().split(".")[2]]
        ),
        "payload no JSON": lambda make: make(b"alice"),
        "payload a list": lambda make: make(b'["alice"]'),
        "payload nested deeply": lambda make: make(b"[" * 9_000),
        "payload not UTF-8": lambda make: make(b'{"sub":"\xff","exp":9999999999}'),
        "header no object": lambda make: make(header=b"[]"),
        "header nested deeply": lambda make: make(header=b'{"alg":' + b"[" * 9_000),
        "not ASCII": lambda make: "é.é.é",
        "digits of another script": lambda make: make().replace("e", "е", 1),  # a Cyrillic one
        "nonsense": lambda make: "nonsense",
        "an API key": lambda make: KEY + "x",
        "1 MB": lambda make: make(good(padding="x" * 1_000_000)),
        "40 KB": lambda make: make(good(padding="x" * 30_000)),
        "1 MB of dots": lambda make: "." * 1_000_000,
        # Which extensions
        "crit": lambda make: make(crit=["exp"]),
        "crit of an unknown name": lambda make: make(crit=["x"], x=1),
        "crit empty": lambda make: make(crit=[]),
        "payload not encoded": lambda make: make(b64=False, crit=["b64"]),
        "nested": lambda make: make(make().encode(), cty="JWT"),
        "encrypted": lambda make: ".".join(
            [base64url(b'{"alg":"dir","enc":"A256GCM"}'), "", "AAAA", "AAAA", "AAAA"]
        ),
        "encrypted with the public key": lambda make: ".".join(
            [base64url(b'{"alg":"RSA-OAEP","enc":"A256GCM","kid":"one"}'), *["AAAA"] * 4]
        ),
        # Which claims
        "expired": with_claims(exp=NOW - 60),
        "not valid yet": with_claims(nbf=NOW + 86_400),
        "issued in the future": with_claims(iat=NOW + 86_400),
        "iat a text": with_claims(iat="now"),
        "another audience": with_claims(aud="api"),
        "audiences of others": with_claims(aud=["api", "web2"]),
        "audience missing": with_claims(aud=None),
        "audience an object": with_claims(aud={"web": 1}),
        "another issuer": with_claims(iss="us.evil.example"),
        "issuer missing": with_claims(iss=None),
        "issuer a list": with_claims(iss=["us"]),
        "sub missing": with_claims(sub=None),
        "sub a number": with_claims(sub=1),
        "sub a list": with_claims(sub=["alice"]),
        "sub an object": with_claims(sub={"alice": 1}),
        "exp missing": with_claims(exp=None),
        "exp null": with_raw_claim(b'"exp":null'),
        "exp a text": with_claims(exp="9999999999"),
        "exp a text that is none": with_claims(exp="never"),
        "exp true": with_claims(exp=True),
        "exp NaN": with_raw_claim(b'"exp":NaN'),
        "exp infinite": with_raw_claim(b'"exp":1e999'),
        "exp of 401 digits": with_raw_claim(b'"exp":1' + b"0" * 400),
        "exp negative": with_claims(exp=-1),
    }


def user_flaws() -> dict[str, Callable[[Maker], str]]:
    """Wrong for a user only: a service may have any name, and has no topics."""
    return {
        "sub empty": with_claims(sub=""),
        "sub with a newline": with_claims(sub="alice\nroot"),
        "sub with a NUL": with_claims(sub="alice\x00"),
        "sub with an escape": with_claims(sub="\x1b[2Jalice"),
        "sub of 256 bytes": with_claims(sub="x" * 256),
        "topics a text": with_claims(topics="*"),
        "topics of numbers": with_claims(topics=[1]),
        "topics with a pattern that is none": with_claims(topics=["a*b"]),
    }


FAR = {
    "exp of 21 digits": with_raw_claim(b'"exp":1' + b"0" * 20),
    "exp of 301 digits": with_raw_claim(b'"exp":1' + b"0" * 300),
    "exp 1e300": with_raw_claim(b'"exp":1e300'),
    "exp with a fraction": with_claims(exp=NOW + 3600.5),
}
"""Odd, and good: nothing may break on them later."""

NAMES, USER_NAMES = list(flaws("")), list(user_flaws())
TOO_LONG_FOR_A_HEAD = {"kid of 100 KB", "1 MB", "1 MB of dots"}


class Doors:
    """A server with one kind of key, and what makes tokens for it."""

    def __init__(self, herald: Herald, server: str, evil: Issuer) -> None:
        self.herald = herald
        self.make = Maker(server)
        self.evil = evil

    def check_refused(self, token: str, *, long: bool) -> None:
        heads = {431, CUT_OFF} if long else {401}
        for way in HEADER_WAYS:
            plain = knock(self.herald.port, opening(way, token, herald_v1=False))
            assert plain in heads, (way, plain)
            code = knock(self.herald.port, opening(way, token, herald_v1=True))
            assert code in ({431, CUT_OFF} if long else {3000}), (way, code)
        code = knock_with_connect(self.herald.port, token)
        # The longest are more than one message may have.
        assert code in ({1009, 3000} if long else {3000}), code

    def check_no_publisher(self, token: str, *, long: bool) -> None:
        statuses = publish_statuses(self.herald, token)
        allowed = {431, CUT_OFF} if long else {401}
        assert set(statuses.values()) <= allowed, statuses

    def check_open(self) -> None:
        """A good token is served: by the same doors, at once."""
        token = self.make()
        for way in HEADER_WAYS:
            for herald_v1 in (False, True):
                assert knock(self.herald.port, opening(way, token, herald_v1=herald_v1)) == 101, way
        assert knock_with_connect(self.herald.port, token) == 101
        assert list(publish_statuses(self.herald, token).values()) == [202, 202, 200, 200]


@pytest.fixture(scope="module")
def evil() -> Iterator[Issuer]:
    """A stranger's server, which has a key for every token of its own and must not be asked."""
    with running_issuer() as issuer:
        issuer.keys = [jwk(OTHER_RSA_KEY, "RS256", kid="evil")]
        yield issuer


@pytest.fixture(scope="module")
def doors(
    engine: EmbeddedEngine,
    tmp_path_factory: pytest.TempPathFactory,
    evil: Issuer,
    request: pytest.FixtureRequest,
) -> Iterator[Doors]:
    server: str = request.param
    directory = tmp_path_factory.mktemp(server)
    (directory / "key.pem").write_bytes(pem(RSA_KEY))
    with running_issuer() as issuer:
        # Beside the good keys, those that should not be there.
        issuer.keys = [
            {"kty": "oct", "k": base64url(OCT), "kid": "oct", "alg": "HS256"},
            {"kty": "oct", "k": base64url(OCT), "kid": "one", "alg": "HS256"},
            {"kty": "RSA", "kid": "none", "alg": "none"},
            jwk(OTHER_RSA_KEY, "RS256", kid="enc", use="enc"),
            jwk(RSA_KEY, "RS256", kid="one"),
            jwk(EC_KEY, "ES256", kid="ec"),
        ]
        keys = {
            "secret": {"jwt_secret": SECRET},
            "pem": {"jwt_secret": None, "jwt_public_key_file": str(directory / "key.pem")},
            "jwks": {"jwt_secret": None, "jwt_jwks_url": issuer.url},
        }[server]
        with running(engine.url, directory, jwt_audience="web", jwt_issuer="us", **keys) as herald:
            yield Doors(herald, server, evil)


@pytest.fixture(autouse=True)
def _nothing_is_logged_and_nobody_asked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Not a word of any token or key, no error, no question to the stranger."""
    if "doors" not in request.fixturenames:
        yield
        return
    doors: Doors = request.getfixturevalue("doors")
    begin = doors.herald.log_file.stat().st_size
    yield
    token = request.node.stash.get(TOKEN, "")
    secrets = [SECRET, KEY, OCT.decode(), *(part for part in token.split(".") if len(part) > 8)]
    for line in new_lines(doors.herald, begin):
        assert json.loads(line)["level"] not in ("error", "critical"), line
        for secret in secrets:
            assert secret not in line
    assert doors.evil.fetches == 0
    assert doors.herald.process.poll() is None


TOKEN = pytest.StashKey[str]()


@pytest.mark.parametrize("doors", SERVERS, indirect=True)
def test_good_token_comes_in_by_every_door(doors: Doors) -> None:
    """Else the table would say nothing."""
    doors.check_open()


@pytest.mark.parametrize("doors", SERVERS, indirect=True)
@pytest.mark.parametrize("name", [*NAMES, *USER_NAMES])
def test_bad_token_comes_in_by_no_door(
    doors: Doors, evil: Issuer, name: str, request: pytest.FixtureRequest
) -> None:
    token = (flaws(evil.url) | user_flaws())[name](doors.make)
    request.node.stash[TOKEN] = token
    long = name in TOO_LONG_FOR_A_HEAD
    doors.check_refused(token, long=long)
    if name in NAMES:
        doors.check_no_publisher(token, long=long)
    # Others are served as before.
    assert knock_with_connect(doors.herald.port, doors.make()) == 101


@pytest.mark.parametrize("doors", SERVERS, indirect=True)
@pytest.mark.parametrize("name", FAR)
def test_far_end_breaks_nothing(doors: Doors, name: str) -> None:
    token = FAR[name](doors.make)
    for way in HEADER_WAYS:
        for herald_v1 in (False, True):
            assert knock(doors.herald.port, opening(way, token, herald_v1=herald_v1)) == 101, way
    assert set(publish_statuses(doors.herald, token).values()) == {200, 202}
