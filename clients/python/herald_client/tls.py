"""Whom to trust."""

from __future__ import annotations

import ssl

import httpx2


def tls_context(url: str, given: ssl.SSLContext | None) -> ssl.SSLContext:
    """The context given, or one that trusts what the system trusts (or `SSL_CERT_FILE` names).

    To be made once, and not in an event loop: reading all the certificates takes a while. Where
    the URL says that no TLS is wanted, it trusts nobody, which costs nothing.
    """
    if given is not None:
        return given
    if url.startswith(("https:", "wss:")):
        return httpx2.create_ssl_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
