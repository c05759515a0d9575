"""A whole Herald that verifies by an issuer's JWKS: good, slow, and away."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from websockets.exceptions import InvalidStatus

from tests.auth.forge import EC_KEY, jwk, sign
from tests.auth.issuer import Issuer, running_issuer, send
from tests.harness.process import Herald, open_herald, open_plain

TOKEN_HEADERS = {"kid": "one"}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        issuer.keys = [jwk(EC_KEY, "ES256", kid="one")]
        yield issuer


def token(user: str) -> str:
    return sign(EC_KEY, "ES256", TOKEN_HEADERS, sub=user)


async def test_tokens_of_an_issuer_are_good_in_both_ways_of_talking(
    start: Callable[..., Herald], issuer: Issuer, user: str
) -> None:
    herald = start(jwt_secret=None, jwt_jwks_url=issuer.url)
    for client in (
        await open_plain(herald, token=token(user)),
        await open_herald(herald, token=token(user)),
    ):
        assert (await client.expect("welcome"))["user"] == user
        await client.close()
    assert issuer.fetches == 1


async def test_a_slow_issuer_does_not_use_up_the_time_for_connect(
    start: Callable[..., Herald], issuer: Issuer, user: str
) -> None:
    answered = threading.Event()

    def slowly(request: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
        stopped.wait(1.5)
        answered.set()
        send(request, 200, b'{"keys":[]}' if stopped.is_set() else _document(issuer))

    issuer.behave = slowly
    herald = start(jwt_secret=None, jwt_jwks_url=issuer.url, connect_timeout="0.3")
    client = await open_herald(herald, token=token(user))
    await client.expect("welcome")
    assert answered.is_set()
    await client.close()


async def test_an_issuer_that_is_away_is_no_reason_to_call_a_token_bad(
    start: Callable[..., Herald], issuer: Issuer, user: str
) -> None:
    issuer.behave = lambda request, stopped: send(request, 500, b"")
    herald = start(jwt_secret=None, jwt_jwks_url=issuer.url)
    with pytest.raises(InvalidStatus) as refused:
        await open_plain(herald, token=token(user))
    assert refused.value.response.status_code == 503
    assert int(refused.value.response.headers["retry-after"]) > 0
    client = await open_herald(herald, token=token(user))
    assert await client.closed() == 1013
    answer = herald.post(
        "/v1/events", {"to": "all", "type": "t"}, authorization=f"Bearer {token(user)}"
    )
    assert answer.status_code == 503


def _document(issuer: Issuer) -> bytes:
    return json.dumps({"keys": issuer.keys}).encode()
