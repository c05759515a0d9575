"""How the commands ask the HTTP API, and what they say where that fails."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import typer

_TIMEOUT = 30.0


def ask(request: urllib.request.Request, key: str) -> bytes:
    """The body of a good answer. Any other, or none, is told and ends the command."""
    try:
        # HTTP clients send ISO-8859-1, and a line end would begin another header.
        if not key.isprintable():
            raise ValueError
        key.encode("latin-1")
    except ValueError:
        raise typer.BadParameter("the API key has characters that no header can carry") from None
    request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            body: bytes = response.read()
            return body
    except urllib.error.HTTPError as error:
        typer.echo(error.read().decode(errors="replace"), err=True)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        typer.echo(f"herald: no answer from {request.full_url}: {_said(reason)}", err=True)
    raise typer.Exit(1)


def _said(reason: object) -> str:
    if isinstance(reason, ssl.SSLError) and reason.reason == "WRONG_VERSION_NUMBER":
        return "it does not speak TLS; is it http://?"
    if isinstance(reason, http.client.HTTPException) and not isinstance(reason, OSError):
        return "what answers there does not speak HTTP"
    return str(reason) or type(reason).__name__


def check_address(url: str) -> None:
    """Raises BadParameter for a URL that no library takes."""
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, or an unclosed bracket
        good = False
    if not good or not url.isascii() or any(sign <= " " for sign in url):
        raise typer.BadParameter(f"--url is http://host:port; this is {url!r}")
