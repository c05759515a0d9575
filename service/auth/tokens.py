"""From a JWT to who it is (RFC 7519, with the advice of RFC 8725)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jwt

from service.auth.keys import KeySource
from service.core.channel import parse_topic_grant, user_channel
from service.core.errors import Forbidden, InvalidChannel, Unauthorized
from service.core.principal import Principal

MAX_TOKEN_BYTES = 16 * 1024
"""A longer token is refused unread: header fields of this size do not pass most proxies either."""


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """What a token must say beyond its signature. `leeway` in seconds."""

    audience: str | None = None
    issuer: str | None = None
    leeway: float = 5.0


class TokenVerifier:
    """Checks signature and claims. The algorithm is the key's, never the header's choice."""

    def __init__(self, keys: KeySource, policy: TokenPolicy) -> None:
        self._keys = keys
        self._policy = policy
        self._decoder = jwt.PyJWT(
            options={
                "require": ["exp", "sub"],
                "verify_aud": policy.audience is not None,
                "verify_iss": policy.issuer is not None,
            }
        )

    async def claims(self, token: str) -> dict[str, Any]:
        """The verified claims; `sub` is text and `exp` a number.

        Raises:
            Unauthorized: with a text that says why and never the token.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthorized("The token is too long.")
        try:
            header = jwt.get_unverified_header(token)
            key = await self._keys.find(header.get("kid"), str(header.get("alg")))
            claims: dict[str, Any] = self._decoder.decode(
                token,
                key.key,
                algorithms=list(key.algorithms),
                audience=self._policy.audience,
                issuer=self._policy.issuer,
                leeway=self._policy.leeway,
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("The token has expired.") from None
        except jwt.ImmatureSignatureError:
            raise Unauthorized("The token is not valid yet.") from None
        except jwt.InvalidAudienceError:
            raise Unauthorized("The token is for another audience.") from None
        except jwt.InvalidIssuerError:
            raise Unauthorized("The token is from another issuer.") from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthorized(f"The token has no `{error.claim}`.") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
            # Not the library's text: it may quote what was sent.
            raise Unauthorized("The token is not valid.") from None
        if isinstance(claims["exp"], bool) or not isinstance(claims["exp"], int | float):
            raise Unauthorized("The token's `exp` is not a number.")
        try:
            float(claims["exp"])
        except OverflowError:
            raise Unauthorized("The token's `exp` is too large.") from None
        return claims


class JwtUserVerifier:
    """The `UserVerifier` port."""

    def __init__(self, tokens: TokenVerifier) -> None:
        self._tokens = tokens

    async def verify(self, token: str) -> Principal:
        """See `UserVerifier.verify`."""
        claims = await self._tokens.claims(token)
        topics = claims.get("topics", [])
        if not isinstance(topics, list) or not all(isinstance(item, str) for item in topics):
            raise Unauthorized("The token's `topics` is not a list of texts.")
        try:
            user_channel(claims["sub"])
            grant = parse_topic_grant(topics)
        except InvalidChannel as error:
            raise Unauthorized(f"The token's claims are not usable: {error}") from None
        return Principal(claims["sub"], float(claims["exp"]), grant)


def require_scope(claims: dict[str, Any], scope: str) -> None:
    """Check that a token has a scope; RFC 8693's text of words, or a list.

    Raises:
        Forbidden
    """
    granted = claims.get("scope", [])
    words = granted.split() if isinstance(granted, str) else granted
    if not isinstance(words, list) or scope not in words:
        raise Forbidden(f"The token does not have the scope {scope!r}.")
