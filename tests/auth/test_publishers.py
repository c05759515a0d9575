"""Who may publish: API keys, plain and as digests, and services' tokens."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from service.auth.keys import FixedKey, secret_key
from service.auth.publishers import Publishers, key_digests
from service.auth.tokens import TokenPolicy, TokenVerifier
from service.core.errors import Forbidden, InvalidInput, Unauthorized
from tests.auth.forge import SECRET, claims, forge

HASHED = "sha256:" + hashlib.sha256(b"second key").hexdigest()
UPPER = "sha256:" + hashlib.sha256(b"third key").hexdigest().upper()


@pytest.fixture
def publishers() -> Publishers:
    tokens = TokenVerifier(FixedKey(secret_key(SECRET, ())), TokenPolicy())
    return Publishers(key_digests(["first-key", HASHED, UPPER]), tokens)


@pytest.mark.parametrize("key", ["first-key", "second key", "third key"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_every_configured_key_is_the_same_publisher(
    publishers: Publishers, scheme: str, key: str
) -> None:
    assert (await publishers.verify(f"{scheme}  {key} ")).name == "key"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "first-key",
        "Basic first-key",
        "Bearer first-ke",
        "Bearer first-key2",
        "Bearer FIRST-KEY",
        f"Bearer {HASHED}",
        f"Bearer {HASHED.removeprefix('sha256:')}",
        "Bearer schlüssel",
        "Bearer a.b.c",
        "Bearer " + "x" * 1_000_000,
        "Bearer " + "." * 1_000_000,
    ],
)
async def test_other_credentials_are_refused_and_not_quoted(
    publishers: Publishers, header: str | None
) -> None:
    with pytest.raises(Unauthorized) as caught:
        await publishers.verify(header)
    assert "first-k" not in str(caught.value)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("scope", ["publish", "read publish", ["publish"], ["read", "publish"]])
async def test_service_with_the_scope_is_a_publisher_of_its_own(
    publishers: Publishers, scope: Any
) -> None:
    token = forge(claims(sub="billing", scope=scope))
    assert (await publishers.verify(f"Bearer {token}")).name == "jwt:billing"


@pytest.mark.parametrize(
    "scope",
    [None, "", "publisher", "publish:all", "PUBLISH", [], ["read"], 5, {"publish": 1}, True],
)
async def test_token_without_the_scope_is_forbidden(publishers: Publishers, scope: Any) -> None:
    with pytest.raises(Forbidden):
        await publishers.verify(f"Bearer {forge(claims(scope=scope))}")


async def test_bad_service_token_is_unauthorized(publishers: Publishers) -> None:
    for token in (
        forge(claims(scope="publish"), secret=b"x" * 32),
        forge(claims(scope="publish", exp=1)),
        forge(claims(scope="publish", sub=None)),
    ):
        with pytest.raises(Unauthorized):
            await publishers.verify(f"Bearer {token}")


async def test_tokens_are_refused_where_none_can_be_verified() -> None:
    with pytest.raises(Unauthorized):
        await Publishers(key_digests(["k"]), None).verify(f"Bearer {forge(claims())}")


@pytest.mark.parametrize(
    "key", ["sha256:", "sha256:abc", "sha256:" + "g" * 64, "sha256:" + "a" * 65]
)
def test_bad_digest_is_refused_at_the_start(key: str) -> None:
    with pytest.raises(InvalidInput, match="64 hex digits"):
        key_digests(["good", key])


def test_empty_key_is_nobodys() -> None:
    assert key_digests(["", "a"]) == key_digests(["a"])
