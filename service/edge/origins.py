"""Which web pages may come in (cross-site WebSocket hijacking: CWE-1385) and read the answer."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from service.core.errors import InvalidInput


def parse_origins(items: list[str]) -> frozenset[str]:
    """Check a list of origins, each `scheme://host` or `scheme://host:port`.

    Raises:
        InvalidInput
    """
    origins: set[str] = set()
    for item in items:
        origin = item.strip().rstrip("/").lower()
        try:
            parts = urlsplit(origin)
            good = parts.scheme in _SCHEMES and bool(parts.netloc)
        except ValueError:  # brackets that are no IPv6 address
            good = False
        if not good or origin != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc:
            raise InvalidInput(f"{item!r} is not an origin, as https://app.example.com")
        origins.add(origin)
    return frozenset(origins)


class Sender(NamedTuple):
    """What a browser says of the page that asks.

    Attributes:
        origin: the header `Origin`, which is left out where a page asks its own server with GET.
        host: the header `Host`.
        own: `Sec-Fetch-Site` says that the page is the server's own. Scripts cannot set it.
    """

    origin: str | None
    host: str | None
    own: bool = False


def permits(sender: Sender, allowed: frozenset[str], *, by_cookie: bool) -> bool:
    """Whether a request from this page may go on.

    Browsers send a cookie whichever page asks, so a token in a cookie counts only together with an
    allowed origin; where none are configured, that is the server's own. Other tokens are given by
    the page itself: their origin matters once origins are configured, and one is sent.
    """
    origin, host, own = sender
    if origin is None and own and host is not None:
        # TLS usually ends before this server, so which scheme it is is not known.
        return not allowed or any(f"{scheme}://{host.lower()}" in allowed for scheme in _SCHEMES)
    if allowed:
        return not by_cookie if origin is None else origin.lower() in allowed
    if not by_cookie:
        return True
    return origin is not None and host is not None and _same(origin, host)


def readers(sender: Sender, allowed: frozenset[str]) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that let a script read the answer to its page's request (CORS, Fetch standard).

    Those of an allowed origin may, with cookies; where none are configured any may, without.
    """
    if sender.origin is None:
        return ()
    if not allowed:
        return ((b"access-control-allow-origin", b"*"), _EXPOSED)
    if sender.origin.lower() not in allowed:
        return (_VARY,)
    return (
        (b"access-control-allow-origin", sender.origin.encode("latin-1")),
        (b"access-control-allow-credentials", b"true"),
        _EXPOSED,
        _VARY,
    )


_SCHEMES = ("http", "https")
_EXPOSED = (b"access-control-expose-headers", b"retry-after")
_VARY = (b"vary", b"origin")


def _same(origin: str, host: str) -> bool:
    # Which of the two schemes it is does not count: TLS usually ends before this server.
    try:
        parts = urlsplit(origin.lower())
    except ValueError:  # brackets that are no IPv6 address
        return False
    return parts.scheme in _SCHEMES and bool(parts.netloc) and parts.netloc == host.lower()
