"""Cross-site WebSocket hijacking (CWE-1385): a foreign page opens a socket with the user's cookie.

A browser sends the cookie whichever page asks, and says which page it was in `Origin`, which no
page can change. What a page can choose are the URL and the subprotocols. The rule itself is in
tests/edge/test_origins.py; this is the attack on a live server.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.broker.embedded import EmbeddedEngine
from tests.attack.doors import OPENING, knock
from tests.edge.wire import request_bytes
from tests.harness.process import Herald, mint, running
from tests.hub.wire import TEXT, frame

HOST = "push.example.com"
OWN = f"https://{HOST}"
APP = "https://app.example.com"
CONFIGURED = f"{APP}, http://localhost:3000"


@pytest.fixture(scope="module", params=[None, CONFIGURED], ids=["none configured", "configured"])
def allowed(request: pytest.FixtureRequest) -> str | None:
    origins: str | None = request.param
    return origins


@pytest.fixture(scope="module")
def target(
    engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory, allowed: str | None
) -> Iterator[Herald]:
    with running(
        engine.url, tmp_path_factory.mktemp("hijacking"), allowed_origins=allowed
    ) as herald:
        yield herald


def trusted(allowed: str | None) -> str:
    """The origin whose look-alikes are tried: the server's own, or the configured one."""
    return OWN if allowed is None else APP


def open_from(
    herald: Herald,
    origins: list[str],
    *,
    herald_v1: bool = False,
    query: str = "",
    protocols: str = "",
) -> int:
    """The user's browser opens a socket for a page, with the user's cookie."""
    offered = ", ".join(part for part in ("herald.v1" if herald_v1 else "", protocols) if part)
    fields = [
        ("Host", HOST),
        *OPENING,
        ("cookie", f"theme=dark; herald_token={mint('victim')}"),
        *(("origin", origin.encode().decode("latin-1")) for origin in origins),
        *([("sec-websocket-protocol", offered)] if offered else []),
    ]
    request = request_bytes("GET", "/v1/ws" + query, fields).replace(b"host: localhost\r\n", b"")
    if herald_v1:
        request += frame(TEXT, b'{"type":"connect"}')
    return knock(herald.port, request)


def look_alikes(origin: str) -> dict[str, list[str]]:
    """Origins that are not this one, whatever they look like."""
    scheme, _, host = origin.partition("://")
    first, _, domain = host.partition(".")
    return {
        "foreign": ["https://evil.example"],
        "null": ["null"],
        "missing": [],
        "empty": [""],
        "a space": [" "],
        "a star": ["*"],
        "suffix": [f"{origin}.evil.example"],
        "suffix without a dot": [f"{origin}evil"],
        "prefix": [f"{scheme}://evil{host}"],
        "prefix with a dot": [f"{scheme}://evil.{host}"],
        "sibling": [f"{scheme}://evil.{domain}"],
        "parent": [f"{scheme}://{domain}"],
        "dot left out": [f"{scheme}://{first}{domain}"],
        "dot for another sign": [f"{scheme}://{first}x{domain}"],
        "trailing dot": [f"{origin}."],
        "other port": [f"{origin}:8443"],
        "port empty": [f"{origin}:"],
        "port that is none": [f"{origin}:evil"],
        "userinfo": [f"{scheme}://{host}@evil.example"],
        "userinfo with a password": [f"{scheme}://{host}:443@evil.example"],
        "userinfo before it": [f"{scheme}://evil.example@{host}"],
        "path": [f"https://evil.example/{host}"],
        "query": [f"https://evil.example?{origin}"],
        "fragment": [f"https://evil.example#{origin}"],
        "backslash": [f"https://evil.example\\@{host}"],
        "backslash after it": [f"{origin}\\.evil.example"],
        "of a file": [f"file://{host}"],
        "of another scheme": [f"ftp://{host}"],
        "of an extension": [f"chrome-extension://{host}"],
        "of a script": [f"javascript://{host}"],
        "without a scheme": [host],
        "scheme alone": [f"{scheme}://"],
        "scheme relative": [f"//{host}"],
        "letter of another script": [origin.replace("p", "р", 1)],
        "full-width dot": [origin.replace(".", "．")],
        "percent-encoded": [origin.replace(".", "%2e")],
        "percent-encoded end": [f"{origin}%00.evil.example"],
        "brackets": ["http://["],
        "list": [f"{origin} https://evil.example"],
        "list with a comma": [f"https://evil.example, {origin}"],
        "twice, the foreign one first": ["https://evil.example", origin],
    }


NAMES = list(look_alikes(OWN))


@pytest.mark.parametrize("name", NAMES)
def test_cookie_does_not_count_for_a_foreign_page(
    target: Herald, allowed: str | None, name: str
) -> None:
    before = target.metrics()
    origins = look_alikes(trusted(allowed))[name]
    assert open_from(target, origins) == 403
    assert open_from(target, origins, herald_v1=True) == 3003
    after = target.metrics()
    refusals = 'herald_refusals_total{reason="origin"}'
    assert after[refusals] == before.get(refusals, 0) + 2
    assert after["herald_connects_total"] == before["herald_connects_total"]
    # The user's own page is served, in whatever case its origin is written.
    for origin in (trusted(allowed), trusted(allowed).upper()):
        assert open_from(target, [origin]) == 101
        assert open_from(target, [origin], herald_v1=True) == 101


@pytest.mark.parametrize(
    ("scheme", "status"), [("http", {None: 101, CONFIGURED: 403}), ("ws", {None: 403})]
)
def test_scheme_counts_where_it_is_known(
    target: Herald, allowed: str | None, scheme: str, status: dict[str | None, int]
) -> None:
    """TLS ends before Herald: which of the two its own origin has, it does not know."""
    origin = trusted(allowed).replace("https", scheme)
    assert open_from(target, [origin]) == status.get(allowed, 403)


def test_own_origin_is_foreign_once_others_are_configured(
    target: Herald, allowed: str | None
) -> None:
    assert open_from(target, [OWN]) == (101 if allowed is None else 403)


CHOSEN = {
    "token empty": ("?token=", ""),
    "token without a value": ("?token", ""),
    "tokens empty": ("?token=&token=", ""),
    "bearer empty": ("", "bearer."),
    "bearer alone": ("", "bearer"),
    "bearer of nonsense": ("", "bearer.x"),
    "token of nonsense": ("?token=x", ""),
    "another path": ("/", ""),
    "too many parameters": ("?" + "a=b&" * 1_200, ""),
}


@pytest.mark.parametrize("herald_v1", [False, True])
@pytest.mark.parametrize(("query", "protocols"), CHOSEN.values(), ids=CHOSEN.keys())
def test_nothing_that_a_page_can_choose_makes_the_cookie_count(
    target: Herald, query: str, protocols: str, herald_v1: bool
) -> None:
    code = open_from(
        target, ["https://evil.example"], herald_v1=herald_v1, query=query, protocols=protocols
    )
    assert code in (401, 403, 404, 3000, 3003)
