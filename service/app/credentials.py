"""From settings to who verifies what, and to what a client shows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from service.auth.jwks import Jwks
from service.auth.keys import FixedKey, KeySource, public_key, secret_key
from service.auth.minting import mint_user_token
from service.auth.publishers import Publishers, key_digests
from service.auth.tokens import JwtUserVerifier, TokenPolicy, TokenVerifier
from service.core.errors import InvalidInput
from service.settings import Settings, SettingsError

logger = logging.getLogger("herald.node")

_LEAST_SECRET_BYTES = 32  # RFC 7518, 3.2: as long as the hash


class Verifiers(NamedTuple):
    """Of users and of publishers.

    `keys_age`: seconds since the issuer's keys were fetched; None where they never were, and where
    the keys are not an issuer's.
    """

    users: JwtUserVerifier
    publishers: Publishers
    keys_age: Callable[[], float | None]


def build_verifiers(
    settings: Settings, keys_fetched: Callable[[bool], None] = lambda good: None
) -> Verifiers:
    """Make the verifiers. `keys_fetched` is told of each fetch from an issuer whether keys came.

    Raises:
        SettingsError: for none or several sources of keys, or one that cannot be used.
    """
    keys = _key_source(settings, keys_fetched)
    tokens = TokenVerifier(
        keys,
        TokenPolicy(settings.jwt_audience, settings.jwt_issuer, settings.jwt_leeway),
    )
    try:
        digests = key_digests(settings.api_keys)
    except InvalidInput as error:
        raise SettingsError([f"HERALD_API_KEYS has a bad value: {error}."]) from None
    return Verifiers(
        JwtUserVerifier(tokens),
        Publishers(digests, tokens),
        keys.age if isinstance(keys, Jwks) else lambda: None,
    )


def _key_source(settings: Settings, keys_fetched: Callable[[bool], None]) -> KeySource:
    given = {
        "HERALD_JWT_SECRET": settings.jwt_secret,
        "HERALD_JWT_PUBLIC_KEY_FILE": settings.jwt_public_key_file,
        "HERALD_JWT_JWKS_URL": settings.jwt_jwks_url,
    }
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        one_of = ", ".join(given)
        raise SettingsError(
            [f"Set exactly one of {one_of}; set now: {', '.join(names) or 'none'}."]
        )
    algorithms = settings.jwt_algorithms
    try:
        if settings.jwt_secret is not None:
            if len(settings.jwt_secret.encode()) < _LEAST_SECRET_BYTES:
                logger.warning(
                    "HERALD_JWT_SECRET is short; use 32 random bytes or more",
                    extra={"bytes": len(settings.jwt_secret.encode())},
                )
            return FixedKey(secret_key(settings.jwt_secret, algorithms))
        if settings.jwt_public_key_file is not None:
            try:
                pem = Path(settings.jwt_public_key_file).read_bytes()
            except OSError:
                raise InvalidInput("the file cannot be read") from None
            return FixedKey(public_key(pem, algorithms))
        assert settings.jwt_jwks_url is not None
        return Jwks(settings.jwt_jwks_url, algorithms, fetched=keys_fetched)
    except InvalidInput as error:
        raise SettingsError([f"{names[0]} cannot be used: {error}."]) from None


def check_for_production(settings: Settings) -> None:
    """What `herald serve` needs beyond valid settings.

    Raises:
        SettingsError: naming each that is missing.
    """
    problems: list[str] = []
    if settings.redis_url is None:
        problems.append("HERALD_REDIS_URL is not set: where is the engine?")
    if not (settings.jwt_secret or settings.jwt_public_key_file or settings.jwt_jwks_url):
        problems.append(
            "None of HERALD_JWT_SECRET, HERALD_JWT_PUBLIC_KEY_FILE, HERALD_JWT_JWKS_URL is set: "
            "how are users' tokens verified?"
        )
    if not settings.api_keys:
        problems.append(
            "HERALD_API_KEYS is not set: who may publish? "
            "(For service tokens alone, set it to the digest of a key that nobody has.)"
        )
    if problems:
        raise SettingsError(problems)


def mint_token(settings: Settings, user: str, topics: Iterable[str], ttl: float) -> str:
    """A user's token by the configured secret, which there must be."""
    assert settings.jwt_secret is not None
    return mint_user_token(
        settings.jwt_secret,
        user,
        ttl=ttl,
        topics=topics,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        algorithms=settings.jwt_algorithms,
    )


def plain_key(settings: Settings) -> str | None:
    """The first API key that is known in plain text."""
    return next((key for key in settings.api_keys if not key.startswith("sha256:")), None)
