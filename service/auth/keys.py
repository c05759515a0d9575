"""Where the keys that verify tokens come from: a secret, a file, or a JWKS address."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from service.core.errors import InvalidInput, Unauthorized

logger = logging.getLogger("herald.auth")


class Key(NamedTuple):
    """A key and the algorithms that it may be used with: never what a token's header says."""

    key: Any
    algorithms: tuple[str, ...]


class KeySource(Protocol):
    """Gives the key for a token."""

    async def find(self, kid: str | None) -> Key:
        """Raises Unauthorized where no key fits."""


class FixedKey:
    """One key, whatever `kid` a token names."""

    def __init__(self, key: Key) -> None:
        self._key = key

    async def find(self, kid: str | None) -> Key:
        """See `KeySource.find`."""
        return self._key


def secret_key(secret: str, algorithms: tuple[str, ...]) -> Key:
    """A shared secret, for HS256 unless other HMAC algorithms are named.

    Raises:
        InvalidInput: for an algorithm that wants a public key.
    """
    names = algorithms or ("HS256",)
    for name in names:
        if not name.startswith("HS"):
            raise InvalidInput(f"{name} does not go with a shared secret")
    return Key(secret.encode(), names)


def public_key(pem: bytes, algorithms: tuple[str, ...]) -> Key:
    """A PEM public key; its kind decides the algorithm unless some are named.

    Raises:
        InvalidInput: if it is not one, or an algorithm does not go with it.
    """
    try:
        key = load_pem_public_key(pem)
    except Exception:
        raise InvalidInput("it holds no PEM public key") from None
    return Key(key, _fitting(_algorithms_of(key), algorithms))


def _algorithms_of(key: Any) -> tuple[str, ...]:
    if isinstance(key, RSAPublicKey):
        return ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
    if isinstance(key, EllipticCurvePublicKey):
        return {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}.get(
            key.curve.name, ()
        )
    if isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        return ("EdDSA",)
    return ()


_DEFAULTS = ("RS256", "ES256", "EdDSA")


def _fitting(possible: tuple[str, ...], allowed: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name for name in possible if name in (allowed or _DEFAULTS))
    if not names:
        raise InvalidInput("the key does not go with any of the allowed algorithms")
    return names


class Jwks:
    """The keys that an issuer publishes, fetched in a thread and never on the loop's time.

    The last good keys stay in use while the issuer is slow, down or answers nonsense. An unknown
    `kid` causes a fetch at most every `min_interval` seconds, however many tokens name one.
    """

    _MAX_BYTES = 1 << 20
    _MAX_KEYS = 100

    def __init__(
        self,
        url: str,
        algorithms: tuple[str, ...],
        *,
        lifetime: float = 300.0,
        min_interval: float = 10.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise InvalidInput("it begins with https:// (or http://)")
        self._url = url
        self._algorithms = algorithms
        self._lifetime = lifetime
        self._min_interval = min_interval
        self._timeout = timeout
        self._clock = clock
        self._keys: dict[str | None, list[Key]] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> Key:
        """See `KeySource.find`."""
        now = self._clock()
        key = self._lookup(kid)
        if key is not None:
            if self._fetched_at is None or now - self._fetched_at > self._lifetime:
                self._refresh(now)  # in the background; the known key is good meanwhile
            return key
        fetching = self._refresh(now)
        if fetching is not None:
            await asyncio.shield(fetching)
            key = self._lookup(kid)
        if key is None:
            raise Unauthorized("No trusted key fits this token.")
        return key

    def _lookup(self, kid: str | None) -> Key | None:
        if kid is not None:
            found = self._keys.get(kid)
            return found[0] if found else None
        # A token without `kid` is accepted where exactly one key fits.
        every = [key for keys in self._keys.values() for key in keys]
        return every[0] if len(every) == 1 else None

    def _refresh(self, now: float) -> asyncio.Task[None] | None:
        """The fetch under way, a new one, or None where it is too early for one."""
        if self._fetching is None:
            if self._tried_at is not None and now - self._tried_at < self._min_interval:
                return None
            self._tried_at = now
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            document = await asyncio.to_thread(self._download)
            keys = self._read(document)
            if not keys:
                raise InvalidInput("it holds no usable key")
            self._keys = keys
            self._fetched_at = self._clock()
        except (OSError, ValueError, InvalidInput) as error:
            logger.warning("JWKS not fetched; the last keys stay", extra={"reason": str(error)})
        finally:
            self._fetching = None

    def _download(self) -> bytes:
        request = urllib.request.Request(self._url, headers={"Accept": "application/json"})
        deadline = time.monotonic() + self._timeout
        parts: list[bytes] = []
        size = 0
        with urllib.request.urlopen(request, timeout=self._timeout) as response:
            # A hostile or broken issuer may send for ever, or a byte now and then.
            while chunk := response.read1(65536):
                parts.append(chunk)
                size += len(chunk)
                if size > self._MAX_BYTES:
                    raise ValueError("the document is too large")
                if time.monotonic() > deadline:
                    raise ValueError("the document came too slowly")
        return b"".join(parts)

    def _read(self, document: bytes) -> dict[str | None, list[Key]]:
        try:
            items = json.loads(document)["keys"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError("it is no JWKS document") from None
        found: dict[str | None, list[Key]] = {}
        for item in items[: self._MAX_KEYS] if isinstance(items, list) else []:
            if not isinstance(item, dict) or item.get("use", "sig") != "sig":
                continue
            try:
                key = jwt.PyJWK(item).key
                names = _fitting(_algorithms_of(key), self._algorithms)
            except (jwt.PyJWTError, InvalidInput, ValueError, TypeError):
                continue  # an algorithm or kind that is not for us
            named = item.get("alg")
            if named is not None:
                names = tuple(name for name in names if name == named)
            if names:
                kid = item.get("kid")
                found.setdefault(kid if isinstance(kid, str) else None, []).append(Key(key, names))
        return found
