"""What the client commands take from the environment when no option says otherwise."""

from __future__ import annotations

import os

import typer

from service.app.credentials import plain_key
from service.cli.asking import check_address
from service.settings import Settings, load_settings


def settings() -> Settings:
    """The settings of this environment.

    Raises:
        SettingsError
    """
    return load_settings(os.environ)


def api_key(key: str | None) -> str:
    """The key to publish with: `key`, HERALD_API_KEY, or the first configured one."""
    if key := key or os.environ.get("HERALD_API_KEY"):
        return key
    if (configured := plain_key(settings())) is not None:
        return configured
    raise typer.BadParameter("give --key, or set HERALD_API_KEY, or HERALD_API_KEYS to a plain key")


def base_url(url: str | None, *, api: bool) -> str:
    """Where the server is: `url`, HERALD_URL, or the configured host and port."""
    if url := url or os.environ.get("HERALD_URL"):
        schemes = ("http://", "https://") if api else ("http://", "https://", "ws://", "wss://")
        if not url.startswith(schemes):
            raise typer.BadParameter(f"--url begins with {' or '.join(schemes)}; this is '{url}'")
        check_address(url)
        # As curl is given it.
        return url.rstrip("/").removesuffix("/v1/events")
    here = settings()
    host = "127.0.0.1" if here.host in ("0.0.0.0", "::") else here.host
    if ":" in host:
        host = f"[{host}]"
    port = here.api_port if api and here.api_port is not None else here.port
    return f"http://{host}:{port}"
