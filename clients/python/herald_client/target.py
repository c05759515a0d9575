"""Where Herald is and with what key, from arguments or the environment."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit, urlunsplit

import httpx2
from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from herald_client.errors import ConfigurationError

URL_VARIABLE = "HERALD_URL"
KEY_VARIABLE = "HERALD_API_KEY"
_ENDPOINT = re.compile(r"/v1/(?:events(?:/batch)?|tickets|ws|stream)/*$")
"""What is copied from a document along with the address; it may stand there, or be left out."""
_UNREADABLE = "`url` is as {}; the host or the port of this one cannot be read."


@dataclass(frozen=True, slots=True)
class Target:
    """The publish API: base URL without a slash at its end, and the key."""

    url: str
    key: str = field(repr=False)


def find_target(url: str | None, key: str | None) -> Target:
    """The publish API as given, or as the environment says.

    A path is the prefix of a reverse proxy; where an endpoint's stands at its end, that is left
    out. Of a prefix that ends so itself, give the whole URL: `https://h/v1/events/v1/events`.

    Raises:
        ConfigurationError: where neither says it, or it makes no sense.
    """
    url = url or os.environ.get(URL_VARIABLE)
    key = key or os.environ.get(KEY_VARIABLE)
    if not url:
        raise ConfigurationError(f"Give `url`, as http://127.0.0.1:8000, or set {URL_VARIABLE}.")
    if not key:
        raise ConfigurationError(f"Give `key`, or set {KEY_VARIABLE}.")
    parts = _split(url, "http://127.0.0.1:8000", ("http", "https"))
    if parts.query or "@" in parts.netloc:
        raise ConfigurationError("`url` has no user, password or query: the key says who you are.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError("`key` has characters that no key has.")
    url = urlunsplit((parts.scheme, parts.netloc, _prefix(parts.path), "", ""))
    try:
        httpx2.URL(url)
    except httpx2.InvalidURL:
        raise ConfigurationError(_UNREADABLE.format("http://127.0.0.1:8000")) from None
    return Target(url, key)


def websocket_url(url: str | None) -> str:
    """The WebSocket's URL for `ws(s)://…` or `http(s)://…`, with or without `/v1/ws`.

    For a path the same holds as for `find_target`.

    Raises:
        ConfigurationError: where neither the argument nor the environment says it.
    """
    url = url or os.environ.get(URL_VARIABLE)
    if not url:
        raise ConfigurationError(f"Give `url`, as ws://127.0.0.1:8000, or set {URL_VARIABLE}.")
    parts = _split(url, "ws://127.0.0.1:8000", ("ws", "wss", "http", "https"))
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    url = urlunsplit((scheme, parts.netloc, _prefix(parts.path) + "/v1/ws", parts.query, ""))
    try:
        parse_uri(url)
    except (InvalidURI, ValueError):
        raise ConfigurationError(_UNREADABLE.format("ws://127.0.0.1:8000")) from None
    return url


def _prefix(path: str) -> str:
    return _ENDPOINT.sub("", path).rstrip("/")


def _split(url: str, example: str, schemes: tuple[str, ...]) -> SplitResult:
    """The errors do not repeat the URL: it may hold a password, or be a key in the wrong place."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and parts.hostname and not parts.fragment
        port = parts.port
    except ValueError:
        raise ConfigurationError(_UNREADABLE.format(example)) from None
    if not good or port == 0:
        raise ConfigurationError(
            f"`url` is as {example}: it begins with {'://, '.join(schemes)}:// and names a host."
        )
    return parts
