"""Where Herald is and with what key, from arguments or the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from herald_client.errors import ConfigurationError

URL_VARIABLE = "HERALD_URL"
KEY_VARIABLE = "HERALD_API_KEY"


@dataclass(frozen=True, slots=True)
class Target:
    """The publish API: base URL without a slash at its end, and the key."""

    url: str
    key: str = field(repr=False)


def find_target(url: str | None, key: str | None) -> Target:
    """The publish API as given, or as the environment says.

    Raises:
        ConfigurationError: where neither says it, or it makes no sense.
    """
    url = url or os.environ.get(URL_VARIABLE)
    key = key or os.environ.get(KEY_VARIABLE)
    if not url:
        raise ConfigurationError(f"Give `url`, as http://127.0.0.1:8000, or set {URL_VARIABLE}.")
    if not key:
        raise ConfigurationError(f"Give `key`, or set {KEY_VARIABLE}.")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"`url` is as http://127.0.0.1:8000, not {url!r}.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError("`key` has characters that no key has.")
    return Target(url.rstrip("/"), key)


def websocket_url(url: str | None) -> str:
    """The WebSocket's URL for `ws(s)://…` or `http(s)://…`, with or without `/v1/ws`.

    Raises:
        ConfigurationError: where neither the argument nor the environment says it.
    """
    url = url or os.environ.get(URL_VARIABLE)
    if not url:
        raise ConfigurationError(f"Give `url`, as ws://127.0.0.1:8000, or set {URL_VARIABLE}.")
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname or parts.fragment:
        raise ConfigurationError(f"`url` is as ws://127.0.0.1:8000, not {url!r}.")
    path = parts.path.rstrip("/")
    if not path.endswith("/v1/ws"):
        path += "/v1/ws"
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))
