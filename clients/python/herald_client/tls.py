"""Whom to trust."""

from __future__ import annotations

import functools
import os
import ssl

import httpx2


def tls_context(url: str, given: ssl.SSLContext | None) -> ssl.SSLContext:
    """The context given, or one that trusts what the system trusts (or `SSL_CERT_FILE` names).

    One for all that trust the same, because reading all the certificates takes a while and half a
    megabyte. Where the URL says that no TLS is wanted, it trusts nobody, which costs nothing.
    """
    if given is not None:
        return given
    if url.startswith(("https:", "wss:")):
        return _default(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@functools.cache
def _default(file: str | None, directory: str | None) -> ssl.SSLContext:
    """As these variables of the environment say, which httpx2 reads itself."""
    return httpx2.create_ssl_context()
