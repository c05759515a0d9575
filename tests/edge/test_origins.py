"""Which pages may come in, and which may read the answer."""

from __future__ import annotations

import pytest

from service.core.errors import InvalidInput
from service.edge.origins import Sender, parse_origins, permits, readers

NONE: frozenset[str] = frozenset()
APP = frozenset({"https://app.example.com", "http://localhost:3000"})
HOST = "push.example.com"


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "by_cookie", "permitted"),
    [
        # None configured: a cookie counts from the server's own origin only.
        (None, HOST, NONE, False, True),
        ("https://evil.example", HOST, NONE, False, True),
        ("null", HOST, NONE, False, True),
        (None, HOST, NONE, True, False),
        ("https://push.example.com", HOST, NONE, True, True),
        ("http://push.example.com", HOST, NONE, True, True),
        ("HTTPS://PUSH.example.com", "Push.Example.com", NONE, True, True),
        ("https://push.example.com:8443", "push.example.com:8443", NONE, True, True),
        ("https://push.example.com:8443", HOST, NONE, True, False),
        ("https://evil.example", HOST, NONE, True, False),
        ("https://push.example.com.evil.example", HOST, NONE, True, False),
        ("https://evil.example/push.example.com", HOST, NONE, True, False),
        ("https://push.example.com@evil.example", HOST, NONE, True, False),
        ("null", HOST, NONE, True, False),
        ("", HOST, NONE, True, False),
        ("null", "", NONE, True, False),
        ("", "", NONE, True, False),
        ("https://push.example.com", None, NONE, True, False),
        ("http://[", HOST, NONE, True, False),
        ("http://[::1]:8000", "[::1]:8000", NONE, True, True),
        # Some configured: wherever an Origin is sent, and always with a cookie.
        (None, HOST, APP, False, True),
        (None, HOST, APP, True, False),
        ("https://app.example.com", HOST, APP, True, True),
        ("https://app.example.com", HOST, APP, False, True),
        ("https://APP.example.com", HOST, APP, False, True),
        ("http://localhost:3000", HOST, APP, True, True),
        ("http://localhost:3001", HOST, APP, False, False),
        ("http://app.example.com", HOST, APP, False, False),
        ("https://app.example.com:8443", HOST, APP, False, False),
        ("https://app.example.com/", HOST, APP, False, False),
        ("https://app.example.com.evil.example", HOST, APP, False, False),
        ("https://evil.example", HOST, APP, False, False),
        ("https://push.example.com", HOST, APP, True, False),
        ("null", HOST, APP, False, False),
        ("", HOST, APP, False, False),
        ("http://[", HOST, APP, True, False),
    ],
)
def test_origin_is_permitted_exactly_where_it_should_be(
    origin: str | None,
    host: str | None,
    allowed: frozenset[str],
    by_cookie: bool,
    permitted: bool,
) -> None:
    assert permits(Sender(origin, host), allowed, by_cookie=by_cookie) is permitted
    if origin is not None:
        # An Origin that is sent says more than where the request claims to come from.
        own = Sender(origin, host, own=True)
        assert permits(own, allowed, by_cookie=by_cookie) is permitted


@pytest.mark.parametrize(
    ("host", "allowed", "permitted"),
    [
        # A page asks its own server with GET: no Origin, but Sec-Fetch-Site: same-origin.
        (HOST, NONE, True),
        ("127.0.0.1:8000", NONE, True),
        (HOST, APP, False),
        ("app.example.com", APP, True),
        ("APP.example.com", APP, True),
        ("app.example.com:443", APP, False),
        ("localhost:3000", APP, True),
        ("localhost", APP, False),
        ("", APP, False),
        ("https://app.example.com", APP, False),
        ("app.example.com/", APP, False),
    ],
)
def test_the_servers_own_page_is_permitted_where_its_host_is_an_allowed_origin(
    host: str, allowed: frozenset[str], permitted: bool
) -> None:
    own = Sender(None, host, own=True)
    assert permits(own, allowed, by_cookie=True) is permitted
    assert permits(own, allowed, by_cookie=False) is permitted


def test_a_request_without_a_host_is_nobodys_own() -> None:
    assert not permits(Sender(None, None, own=True), NONE, by_cookie=True)
    assert not permits(Sender(None, None, own=True), APP, by_cookie=True)


def _names(headers: tuple[tuple[bytes, bytes], ...]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


def test_without_an_origin_nothing_is_said_of_who_may_read() -> None:
    assert readers(Sender(None, HOST), NONE) == ()
    assert readers(Sender(None, HOST, own=True), APP) == ()


def test_where_none_are_configured_anybody_may_read_without_cookies() -> None:
    for origin in ("https://anywhere.example", "null", ""):
        said = _names(readers(Sender(origin, HOST), NONE))
        assert said == {
            "access-control-allow-origin": "*",
            "access-control-expose-headers": "retry-after",
        }


def test_a_configured_origin_may_read_with_cookies() -> None:
    for origin in ("https://app.example.com", "http://localhost:3000", "https://APP.example.com"):
        said = _names(readers(Sender(origin, HOST), APP))
        assert said["access-control-allow-origin"] == origin  # browsers compare it byte by byte
        assert said["access-control-allow-credentials"] == "true"
        assert said["vary"] == "origin"


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "", "https://app.example.com.evil.example", "http://[", "*"],
)
def test_another_origin_may_not_read_where_some_are_configured(origin: str) -> None:
    assert _names(readers(Sender(origin, HOST), APP)) == {"vary": "origin"}


def test_configured_origins_are_read_in_any_case_and_with_a_final_slash() -> None:
    items = [" https://App.Example.com/ ", "http://localhost:3000", "http://[::1]:80"]
    expected = {"https://app.example.com", "http://localhost:3000", "http://[::1]:80"}
    assert parse_origins(items) == expected


@pytest.mark.parametrize(
    "item",
    [
        "",
        "*",
        "null",
        "app.example.com",
        "//app.example.com",
        "https://",
        "https:app.example.com",
        "https://app.example.com/path",
        "https://app.example.com?q",
        "https://app.example.com?",
        "https://app.example.com#f",
        "https://user@app.example.com",
        "http://[",
        "ws://app.example.com",
        "file:///a",
    ],
)
def test_what_is_no_origin_is_refused_at_the_start(item: str) -> None:
    with pytest.raises(InvalidInput, match="not an origin"):
        parse_origins(["https://good.example.com", item])
