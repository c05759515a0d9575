"""Every way we know to get in with a bad token, and that each is refused without a word of it."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from service.auth.keys import FixedKey, public_key, secret_key
from service.auth.minting import mint_user_token
from service.auth.tokens import JwtUserVerifier, TokenPolicy, TokenVerifier
from service.core.errors import InvalidInput, Unauthorized
from tests.auth.forge import (
    EC_KEY,
    ED_KEY,
    OTHER_RSA_KEY,
    PRIVATE,
    RSA_KEY,
    SECRET,
    base64url,
    claims,
    forge,
    jwk,
    pem,
    sign,
)


def by_secret(policy: TokenPolicy = TokenPolicy(), *algorithms: str) -> JwtUserVerifier:
    return JwtUserVerifier(TokenVerifier(FixedKey(secret_key(SECRET, algorithms)), policy))


def by_key(private: Any, *algorithms: str) -> JwtUserVerifier:
    key = FixedKey(public_key(pem(private), algorithms))
    return JwtUserVerifier(TokenVerifier(key, TokenPolicy()))


async def refusal(verifier: JwtUserVerifier, token: str) -> str:
    """The text of the refusal, which must come, and must not quote the token."""
    with pytest.raises(Unauthorized) as caught:
        await verifier.verify(token)
    text = str(caught.value)
    assert all(part not in text for part in token.split(".") if len(part) > 8)
    return text


async def test_good_token_says_who_and_until_when() -> None:
    exp = int(time.time()) + 60
    token = forge(claims(exp=exp, topics=["orders", "news.*"]))
    principal = await by_secret().verify(token)
    assert (principal.user, principal.expires) == ("alice", float(exp))
    assert principal.topics.permits("orders")
    assert principal.topics.permits("news.sport")
    assert not principal.topics.permits("order")


async def test_minted_token_is_accepted() -> None:
    policy = TokenPolicy(audience="web", issuer="us")
    token = mint_user_token(
        SECRET, "zoë", ttl=60, topics=["a"], audience="web", issuer="us", algorithms=("HS384",)
    )
    assert (await by_secret(policy, "HS384").verify(token)).user == "zoë"


def _unsigned(header: dict[str, Any]) -> str:
    signed = forge(claims(), header)
    return signed.rpartition(".")[0] + "."


OWN_KEY_HEADERS = {
    "jku": {"jku": "http://127.0.0.1:9/jwks", "alg": "RS256"},
    "x5u": {"x5u": "http://127.0.0.1:9/cert.pem", "alg": "RS256"},
    "jwk": {"jwk": jwk(OTHER_RSA_KEY, "RS256"), "alg": "RS256"},
    "x5c": {"x5c": ["MIIB"], "alg": "RS256"},
}

FORGED = {
    "alg none": _unsigned({"alg": "none"}),
    "alg None": _unsigned({"alg": "None"}),
    "alg NONE with a signature": forge(claims(), {"alg": "NONE"}),
    "alg empty": forge(claims(), {"alg": ""}),
    "alg missing": forge(claims(), {"typ": "JWT"}),
    "alg null": forge(claims(), {"alg": None}),
    "alg a list": forge(claims(), {"alg": ["HS256"]}),
    "alg an object": forge(claims(), {"alg": {}}),
    "alg in other case": forge(claims(), {"alg": "hs256"}),
    "alg that is not allowed": jwt.encode(claims(), SECRET, algorithm="HS384"),
    "RS256 where a secret is configured": sign(RSA_KEY, "RS256"),
    "another secret": forge(claims(), secret=b"another secret of thirty-two bytes!"),
    "empty secret": forge(claims(), secret=b""),
    "signature cut": forge(claims())[:-4],
    "signature empty": forge(claims()).rpartition(".")[0] + ".",
    "payload changed": forge(claims()).replace(base64url(b'{"sub'), base64url(b'{"suc')),
    "crit that nobody knows": forge(claims(), {"alg": "HS256", "crit": ["x"], "x": 1}),
    "payload detached": forge(claims(), {"alg": "HS256", "b64": False, "crit": ["b64"]}),
    "kid a list": forge(claims(), {"alg": "HS256", "kid": ["a"]}),
    "kid an object": forge(claims(), {"alg": "HS256", "kid": {"a": 1}}),
    "kid a number": forge(claims(), {"alg": "HS256", "kid": 5}),
    "header no object": forge(claims(), b"[]"),
    "header a number": forge(claims(), b"5"),
    "header not JSON": forge(claims(), b"{alg:HS256}"),
    "header not UTF-8": forge(claims(), b'{"alg":"HS256","a":"\xff"}'),
    "payload no object": forge(b"[]"),
    "payload a text": forge(b'"alice"'),
    "payload not JSON": forge(b"alice"),
    "payload not UTF-8": forge(b'{"sub":"\xff","exp":9999999999}'),
    "payload nested deeply": forge(b"[" * 11000),
    "claim nested deeply": forge(b'{"sub":"a","exp":9999999999,"a":' + b"[" * 5000 + b"]" * 5000),
    "1 MB": forge(claims(padding="x" * 1_000_000)),
    "1 MB without dots": "x" * 1_000_000,
    "a megabyte of dots": "." * 1_000_000,
    "JWE, five parts": ".".join([*forge(claims()).split("."), "a", "b"]),
    "two parts": forge(claims()).rpartition(".")[0],
    "empty": "",
    "dots": "..",
    "not ASCII": "é.é.é",
    "lone surrogate": "\ud800.\ud800.\ud800",
    "control characters": "a\x00.b\n.c",
    "with white space": " ".join(forge(claims())),
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED.keys())
async def test_forged_token_is_refused(token: str) -> None:
    await refusal(by_secret(), token)


BAD_CLAIMS = {
    "expired": (claims(exp=int(time.time()) - 60), "has expired"),
    "expired a year ago": (claims(exp=int(time.time()) - 31_536_000), "has expired"),
    "nbf in the future": (claims(nbf=int(time.time()) + 86_400), "not valid yet"),
    "nbf no number": (claims(nbf="soon"), "`nbf` is not a number"),
    "nbf infinite": (claims(nbf=float("inf")), "`nbf` is not a number"),
    "iat in the future": (claims(iat=int(time.time()) + 86_400), "not valid yet"),
    "iat no number": (claims(iat="now"), "`iat` is not a number"),
    "jti no text": (claims(jti=5), "`jti` is not text"),
    "sub missing": (claims(sub=None), "`sub`"),
    "exp missing": (claims(exp=None), "`exp`"),
    "sub null": (b'{"sub":null,"exp":9999999999}', ""),
    "exp null": (b'{"sub":"a","exp":null}', ""),
    "sub empty": (claims(sub=""), "1 to 255 bytes"),
    "sub a number": (claims(sub=5), "`sub` is not text"),
    "sub a list": (claims(sub=["alice"]), "`sub` is not text"),
    "sub an object": (claims(sub={"a": 1}), "`sub` is not text"),
    "sub true": (claims(sub=True), "`sub` is not text"),
    "sub with a newline": (claims(sub="a\nb"), "control"),
    "sub with a NUL": (claims(sub="a\x00"), "control"),
    "sub with a C1 control": (claims(sub="a\x85"), "control"),
    "sub of 256 bytes": (claims(sub="x" * 256), "1 to 255 bytes"),
    "sub of 256 bytes, not ASCII": (claims(sub="é" * 128), "1 to 255 bytes"),
    "sub a lone surrogate": (claims(sub="\ud800"), "surrogate"),
    "exp a text": (claims(exp=str(int(time.time()) + 3600)), "not a number"),
    "exp an empty text": (claims(exp=""), "`exp` is not a number"),
    "exp true": (claims(exp=True), ""),
    "exp a list": (claims(exp=[9999999999]), "`exp` is not a number"),
    "exp an object": (claims(exp={}), "`exp` is not a number"),
    "exp NaN": (claims(exp=float("nan")), "`exp` is not a number"),
    "exp infinite": (claims(exp=float("inf")), "`exp` is not a number"),
    "exp infinite as a number": (b'{"sub":"a","exp":1e999}', "`exp` is not a number"),
    "exp of 401 digits": (b'{"sub":"a","exp":1' + b"0" * 400 + b"}", "too large"),
    "exp of 9,000 digits": (b'{"sub":"a","exp":1' + b"0" * 9000 + b"}", "not a JWT"),
    "exp negative": (claims(exp=-1), "has expired"),
    "exp zero": (claims(exp=0), "has expired"),
    "topics a text": (claims(topics="orders"), "`topics`"),
    "topics an object": (claims(topics={"orders": 1}), "`topics`"),
    "topics null": (b'{"sub":"a","exp":9999999999,"topics":null}', "`topics`"),
    "topics of numbers": (claims(topics=[1]), "`topics`"),
    "topics with null": (claims(topics=["a", None]), "`topics`"),
    "topic with a space": (claims(topics=["a b"]), "topic name"),
    "topic empty": (claims(topics=[""]), "topic name"),
    "topic of 201": (claims(topics=["x" * 201]), "topic name"),
    "pattern with two stars": (claims(topics=["a**"]), "topic name"),
    "pattern with a star inside": (claims(topics=["a*b"]), "topic name"),
}


@pytest.mark.parametrize(("payload", "word"), BAD_CLAIMS.values(), ids=BAD_CLAIMS.keys())
async def test_token_with_a_bad_claim_is_refused_with_the_reason(
    payload: bytes | dict[str, Any], word: str
) -> None:
    assert word in await refusal(by_secret(), forge(payload))


NO_JWT = "The token is not a JWT, or not all of one."
MISTAKES = {
    "another secret": (
        forge(claims(), secret=b"another secret of thirty-two bytes!"),
        "The token was signed with another key or secret.",
    ),
    "signature cut": (forge(claims())[:-2], NO_JWT),
    "a number for a user": (forge(claims(sub=7)), "The token's `sub` is not text."),
    "an API key": ("an-api-key-for-tests", NO_JWT),
    "an API key with dots": ("an.api.key", NO_JWT),
    "empty": ("", NO_JWT),
    "not UTF-8": ("\ud800.\ud800.\ud800", NO_JWT),
    "a list": (forge(b"[]"), NO_JWT),
    "RS256 for a secret": (sign(RSA_KEY, "RS256"), "The token's algorithm is not allowed here."),
    "alg none": (_unsigned({"alg": "none"}), "The token's algorithm is not allowed here."),
    "kid a list": (
        forge(claims(), {"alg": "HS256", "kid": ["a"]}),
        "The token's header cannot be used: see its `kid` and `crit`.",
    ),
    "clock behind": (
        forge(claims(iat=int(time.time()) + 86_400)),
        "The token is not valid yet: its `nbf` or `iat` is in the future.",
    ),
    # Who cannot sign learns nothing of what the claims should be.
    "all wrong": (
        forge(claims(sub=7, exp="x", aud=5), secret=b"another secret of thirty-two bytes!"),
        "The token was signed with another key or secret.",
    ),
}


@pytest.mark.parametrize(("token", "said"), MISTAKES.values(), ids=MISTAKES.keys())
async def test_common_mistake_is_told_in_words_of_its_own(token: str, said: str) -> None:
    assert await refusal(by_secret(TokenPolicy()), token) == said
    # A close reason has room for 123 bytes.
    assert len(said.encode()) <= 123


GOOD_CLAIMS = {
    "exp with a fraction": claims(exp=time.time() + 60.5),
    "exp in the far future": claims(exp=10**15),
    "exp just passed, within the leeway": claims(exp=int(time.time()) - 1),
    "nbf within the leeway": claims(nbf=int(time.time()) + 2),
    "sub of 255 bytes": claims(sub="x" * 255),
    "sub of 85 signs of three bytes": claims(sub="€" * 85),
    "sub with spaces, slashes and colons": claims(sub="a b/c:d@e%f*"),
    "no topics": claims(topics=[]),
    "a star alone": claims(topics=["*"]),
    "aud that nobody asked for": claims(aud="elsewhere", iss="someone"),
    "unknown claims": claims(roles=["x"], nested={"a": [1]}),
}


@pytest.mark.parametrize("payload", GOOD_CLAIMS.values(), ids=GOOD_CLAIMS.keys())
async def test_token_at_the_edge_of_the_rules_is_accepted(payload: dict[str, Any]) -> None:
    assert (await by_secret(TokenPolicy(leeway=3600.0)).verify(forge(payload))).user == payload[
        "sub"
    ]


HOSTILE_KIDS = {
    "path": "../../../../dev/null",
    "absolute path": "/dev/null",
    "SQL": "x' UNION SELECT 'key' --",
    "shell": "x|id",
    "URL": "http://127.0.0.1:9/",
    "empty": "",
    "NUL": "\x00",
    "huge": "k" * 8000,
}


@pytest.mark.parametrize("kid", HOSTILE_KIDS.values(), ids=HOSTILE_KIDS.keys())
async def test_kid_never_chooses_another_key_than_the_configured(kid: str) -> None:
    header = {"alg": "HS256", "kid": kid}
    assert (await by_secret().verify(forge(claims(), header))).user == "alice"
    for secret in (b"", b"\x00", kid.encode()):
        await refusal(by_secret(), forge(claims(), header, secret))


@pytest.mark.parametrize("header", OWN_KEY_HEADERS.values(), ids=OWN_KEY_HEADERS.keys())
async def test_key_that_a_token_brings_itself_is_not_used(header: dict[str, Any]) -> None:
    more = {name: value for name, value in header.items() if name != "alg"}
    await refusal(by_key(RSA_KEY), sign(OTHER_RSA_KEY, "RS256", more))
    # With the right key the same header is no harm: it is passed over.
    assert (await by_key(RSA_KEY).verify(sign(RSA_KEY, "RS256", more))).user == "alice"


@pytest.mark.parametrize("private", PRIVATE.values(), ids=PRIVATE.keys())
async def test_public_key_is_never_taken_for_a_secret(private: Any) -> None:
    text = pem(private)
    for secret in (text, text.strip(), text.replace(b"\n", b"")):
        await refusal(by_key(private), forge(claims(), secret=secret))


@pytest.mark.parametrize("algorithm", PRIVATE)
async def test_pem_key_verifies_its_own_algorithm_and_no_other(algorithm: str) -> None:
    private = PRIVATE[algorithm]
    verifier = by_key(private)
    assert (await verifier.verify(sign(private, algorithm))).user == "alice"
    for other, key in PRIVATE.items():
        if other != algorithm:
            await refusal(verifier, sign(key, other))
    await refusal(verifier, _unsigned({"alg": "none"}))


async def test_algorithms_are_restricted_to_the_named_ones() -> None:
    only_384 = by_key(RSA_KEY, "RS384")
    assert (await only_384.verify(sign(RSA_KEY, "RS384"))).user == "alice"
    await refusal(only_384, sign(RSA_KEY, "RS256"))
    await refusal(by_key(RSA_KEY), sign(RSA_KEY, "RS384"))
    await refusal(by_key(RSA_KEY), sign(RSA_KEY, "PS256"))
    assert (await by_key(RSA_KEY, "PS256").verify(sign(RSA_KEY, "PS256"))).user == "alice"


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: secret_key(SECRET, ("RS256",)), "RS256"),
        (lambda: secret_key(SECRET, ("HS256", "none")), "none"),
        (lambda: public_key(pem(RSA_KEY), ("HS256",)), "algorithms"),
        (lambda: public_key(pem(RSA_KEY), ("ES256",)), "algorithms"),
        (lambda: public_key(pem(EC_KEY), ("RS256", "EdDSA")), "algorithms"),
        (lambda: public_key(pem(ED_KEY), ("none",)), "algorithms"),
        (lambda: public_key(b"nothing", ()), "PEM"),
        (lambda: public_key(b"", ()), "PEM"),
    ],
)
def test_key_with_an_algorithm_that_does_not_go_with_it_is_refused_at_the_start(
    make: Any, word: str
) -> None:
    with pytest.raises(InvalidInput, match=word):
        make()


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({"aud": "web", "iss": "us"}, True),
        ({"aud": ["other", "web"], "iss": "us"}, True),
        ({"aud": "WEB", "iss": "us"}, False),
        ({"aud": "web.evil", "iss": "us"}, False),
        ({"aud": ["other"], "iss": "us"}, False),
        ({"aud": [], "iss": "us"}, False),
        ({"aud": 5, "iss": "us"}, False),
        ({"aud": {"web": 1}, "iss": "us"}, False),
        ({"iss": "us"}, False),
        ({"aud": "web", "iss": "us/"}, False),
        ({"aud": "web", "iss": ["us"]}, False),
        ({"aud": "web", "iss": 5}, False),
        ({"aud": "web"}, False),
    ],
)
async def test_audience_and_issuer_must_be_the_configured_ones(
    changes: dict[str, Any], accepted: bool
) -> None:
    verifier = by_secret(TokenPolicy(audience="web", issuer="us"))
    token = forge(claims(**changes))
    if accepted:
        assert (await verifier.verify(token)).user == "alice"
    else:
        await refusal(verifier, token)


async def test_leeway_is_kept_on_both_ends() -> None:
    now = int(time.time())
    wide, narrow = by_secret(TokenPolicy(leeway=1000.0)), by_secret(TokenPolicy(leeway=0.0))
    for changes in ({"exp": now - 500}, {"nbf": now + 500}):
        token = forge(claims(**changes))
        assert (await wide.verify(token)).user == "alice"
        await refusal(narrow, token)
