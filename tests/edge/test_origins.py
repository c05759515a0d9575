"""Which origins may open a WebSocket."""

from __future__ import annotations

import pytest

from service.core.errors import InvalidInput
from service.edge.origins import parse_origins, permits_origin

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
    assert permits_origin(origin, host, allowed, by_cookie=by_cookie) is permitted


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
