"""Who may publish: holders of an API key, and services with a token of scope `publish`."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Any

from service.auth.tokens import TokenVerifier, require_scope
from service.core.errors import InvalidInput, Unauthorized
from service.core.principal import Publisher

_HASHED = re.compile(r"sha256:([0-9a-fA-F]{64})")
_API_KEY = Publisher("key")


def key_digests(keys: Iterable[str]) -> list[bytes]:
    """SHA-256 digests of API keys, which are given plain or as `sha256:<hex>`.

    Raises:
        InvalidInput
    """
    digests: list[bytes] = []
    for key in keys:
        if key.startswith("sha256:"):
            match = _HASHED.fullmatch(key)
            if not match:
                raise InvalidInput("after sha256: come 64 hex digits")
            digests.append(bytes.fromhex(match[1]))
        elif key:
            digests.append(hashlib.sha256(key.encode()).digest())
    return digests


class Publishers:
    """The `PublisherVerifier` port."""

    def __init__(self, digests: list[bytes], tokens: TokenVerifier | None) -> None:
        self._digests = digests
        self._tokens = tokens

    def verify_now(self, authorization: str | None) -> Publisher | None:
        """See `PublisherVerifier.verify_now`."""
        credential = _credential(authorization)
        if self._is_key(credential):
            return _API_KEY
        claims = self._service_tokens(credential).claims_now(credential)
        return None if claims is None else _service(claims)

    async def verify(self, authorization: str | None) -> Publisher:
        """See `PublisherVerifier.verify`."""
        publisher = self.verify_now(authorization)
        if publisher is None:
            credential = _credential(authorization)
            publisher = _service(await self._service_tokens(credential).claims(credential))
        return publisher

    def _is_key(self, credential: str) -> bool:
        # The header's bytes, which HTTP servers decode as ISO-8859-1. Digests are compared, each in
        # constant time and all of them, so that the time taken says nothing about the keys.
        digest = hashlib.sha256(credential.encode("latin-1", "replace")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)

    def _service_tokens(self, credential: str) -> TokenVerifier:
        if self._tokens is None or credential.count(".") != 2:
            raise Unauthorized("This API key is not known.")
        return self._tokens


def _credential(authorization: str | None) -> str:
    if authorization is None:
        raise Unauthorized("Send an API key: `Authorization: Bearer <key>`.")
    scheme, _, credential = authorization.partition(" ")
    credential = credential.strip()
    if scheme.lower() != "bearer" or not credential:
        raise Unauthorized("The Authorization header is `Bearer <key>`.")
    return credential


def _service(claims: dict[str, Any]) -> Publisher:
    require_scope(claims, "publish")
    try:
        claims["sub"].encode()
    except UnicodeEncodeError:
        raise Unauthorized("The token's `sub` is not text.") from None
    return Publisher("jwt:" + claims["sub"])
