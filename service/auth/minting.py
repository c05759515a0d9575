"""Makes user tokens, for development and for backends that share the secret."""

from __future__ import annotations

import time
from collections.abc import Iterable

import jwt


def mint_user_token(
    secret: str,
    user: str,
    *,
    ttl: float,
    topics: Iterable[str] = (),
    audience: str | None = None,
    issuer: str | None = None,
    algorithms: tuple[str, ...] = (),
) -> str:
    """A token for `user` that holds for `ttl` seconds from now; HS256 unless others are named."""
    now = time.time()
    claims: dict[str, object] = {"sub": user, "iat": int(now), "exp": int(now + ttl)}
    if names := list(topics):
        claims["topics"] = names
    if audience is not None:
        claims["aud"] = audience
    if issuer is not None:
        claims["iss"] = issuer
    return jwt.encode(claims, secret, algorithm=(algorithms or ("HS256",))[0])
