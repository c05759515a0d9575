"""The keys that an issuer publishes at an address (RFC 7517)."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import jwt

from service.auth.fetching import fetch
from service.auth.keys import Key, algorithms_of, fitting
from service.core.errors import InvalidInput, KeysUnavailable, Unauthorized

logger = logging.getLogger("herald.auth")


class Jwks:
    """The keys that an issuer publishes, fetched in a thread and never on the loop's time.

    The last good keys stay in use while the issuer is slow, down or answers nonsense. An unknown
    `kid` causes a fetch at most every `min_interval` seconds, however many tokens name one.
    `fetched` is told of each fetch whether keys came.
    """

    _MAX_BYTES = 1 << 20
    _MAX_KEYS = 100

    only = None

    def __init__(
        self,
        url: str,
        algorithms: tuple[str, ...],
        *,
        lifetime: float = 300.0,
        min_interval: float = 10.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        fetched: Callable[[bool], None] = lambda good: None,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise InvalidInput("it begins with https:// (or http://)")
        self._url = url
        self._algorithms = algorithms
        self._lifetime = lifetime
        self._min_interval = min_interval
        self._timeout = timeout
        self._clock = clock
        self._tell_fetched = fetched
        self._keys: dict[str | None, list[Key]] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    def age(self) -> float | None:
        """Seconds since the keys were fetched, or None before the first time."""
        return None if self._fetched_at is None else self._clock() - self._fetched_at

    def known(self, kid: str | None, algorithm: str) -> Key | None:
        """See `KeySource.known`."""
        key = self._lookup(kid, algorithm)
        now = self._clock()
        if key is not None and (
            self._fetched_at is None or now - self._fetched_at > self._lifetime
        ):
            self._refresh(now)  # in the background; the known key is good meanwhile
        return key

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """See `KeySource.find`.

        Raises:
            KeysUnavailable: no keys were ever fetched, so a good token cannot be told from a bad.
        """
        key = self.known(kid, algorithm)
        if key is not None:
            return key
        fetching = self._refresh(self._clock())
        if fetching is not None:
            await asyncio.shield(fetching)
            key = self._lookup(kid, algorithm)
        if key is None:
            if self._fetched_at is None:
                raise KeysUnavailable("The issuer's keys cannot be had at the moment.")
            raise Unauthorized("No trusted key fits this token.")
        return key

    def _lookup(self, kid: str | None, algorithm: str) -> Key | None:
        if kid is not None:
            found = self._keys.get(kid)
            return found[0] if found else None
        # A token without `kid` is accepted where exactly one key fits.
        fitting = [
            key for keys in self._keys.values() for key in keys if algorithm in key.algorithms
        ]
        return fitting[0] if len(fitting) == 1 else None

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
            document = await asyncio.to_thread(
                fetch, self._url, timeout=self._timeout, max_bytes=self._MAX_BYTES
            )
            keys = self._read(document)
            if not keys:
                raise InvalidInput("it holds no usable key")
            self._keys = keys
            self._fetched_at = self._clock()
            self._tell_fetched(True)
        except (OSError, http.client.HTTPException, ValueError, InvalidInput) as error:
            logger.warning("JWKS not fetched; the last keys stay", extra={"reason": str(error)})
            self._tell_fetched(False)
        finally:
            self._fetching = None

    def _read(self, document: bytes) -> dict[str | None, list[Key]]:
        try:
            items = json.loads(document)["keys"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError("it is no JWKS document") from None
        found: dict[str | None, list[Key]] = {}
        for item in items[: self._MAX_KEYS] if isinstance(items, list) else []:
            if not isinstance(item, dict) or item.get("use", "sig") != "sig":
                continue
            key = self._read_key(item)
            if key is not None:
                kid = item.get("kid")
                found.setdefault(kid if isinstance(kid, str) else None, []).append(key)
        return found

    def _read_key(self, item: dict[str, Any]) -> Key | None:
        try:
            key = jwt.PyJWK(item).key
            names = fitting(algorithms_of(key), self._algorithms)
        except Exception:
            # An algorithm or kind that is not for us, or nonsense, for which the libraries raise
            # what they like: the other keys count.
            return None
        named = item.get("alg")
        if named is not None:
            names = tuple(name for name in names if name == named)
        return Key(key, names) if names else None
