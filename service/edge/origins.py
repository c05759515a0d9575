"""Which web pages may open a WebSocket (cross-site WebSocket hijacking: CWE-1385)."""

from __future__ import annotations

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
            good = parts.scheme in ("http", "https") and bool(parts.netloc)
        except ValueError:  # brackets that are no IPv6 address
            good = False
        if not good or origin != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc:
            raise InvalidInput(f"{item!r} is not an origin, as https://app.example.com")
        origins.add(origin)
    return frozenset(origins)


def permits_origin(
    origin: str | None, host: str | None, allowed: frozenset[str], *, by_cookie: bool
) -> bool:
    """Whether a handshake from this `Origin` may go on.

    Browsers send a cookie whichever page asks, so a token in a cookie counts only together with an
    allowed origin; where none are configured, that is the server's own. Other tokens are given by
    the page itself: their origin matters once origins are configured, and one is sent.
    """
    if allowed:
        return not by_cookie if origin is None else origin.lower() in allowed
    if not by_cookie:
        return True
    return origin is not None and host is not None and _same(origin, host)


def _same(origin: str, host: str) -> bool:
    # Which of the two schemes it is does not count: TLS usually ends before this server.
    try:
        parts = urlsplit(origin.lower())
    except ValueError:  # brackets that are no IPv6 address
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc) and parts.netloc == host.lower()
