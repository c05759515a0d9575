"""From a JWT to who it is (RFC 7519, with the advice of RFC 8725)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jwt
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidJTIError, InvalidSubjectError
from jwt.types import Options

from service.auth.keys import SECRET_ALGORITHMS, Key, KeySource
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


class _CheckedHmac(HMACAlgorithm):
    """HMAC with a secret that `secret_key` has checked.

    PyJWT looks at the secret at every token, whether it is a PEM, DER or JWK key that somebody took
    for one: a third of the time of a verification. Here that is done once, when it is read.
    """

    def prepare_key(self, key: str | bytes) -> bytes:
        if not isinstance(key, bytes):
            raise jwt.InvalidKeyError("A secret is bytes.")
        return key

    def check_key_length(self, key: bytes) -> str | None:
        return None


class _Decoder(jwt.PyJWT):
    def __init__(self, options: Options) -> None:
        super().__init__(options)
        for name in SECRET_ALGORITHMS:
            digest = getattr(HMACAlgorithm, "SHA" + name.removeprefix("HS"))
            self._jws.unregister_algorithm(name)
            self._jws.register_algorithm(name, _CheckedHmac(digest))


class TokenVerifier:
    """Checks signature and claims. The algorithm is the key's, never the header's choice."""

    def __init__(self, keys: KeySource, policy: TokenPolicy) -> None:
        self._keys = keys
        self._policy = policy
        self._decoder = _Decoder(
            options={
                "require": ["exp", "sub"],
                "verify_aud": policy.audience is not None,
                "verify_iss": policy.issuer is not None,
            }
        )

    def claims_now(self, token: str) -> dict[str, Any] | None:
        """The verified claims, or None where a key must be fetched first; see `claims`."""
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthorized("The token is too long.")
        key = self._keys.only or self._keys.known(*_named_key(token))
        return None if key is None else self._check(token, key)

    async def claims(self, token: str) -> dict[str, Any]:
        """The verified claims; `sub` is text and `exp` a number.

        Raises:
            Unauthorized: with a text that says why and never the token.
            KeysUnavailable
        """
        claims = self.claims_now(token)
        if claims is None:
            claims = self._check(token, await self._keys.find(*_named_key(token)))
        return claims

    def _check(self, token: str, key: Key) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = self._decoder.decode(
                token,
                key.key,
                algorithms=key.algorithms,
                audience=self._policy.audience,
                issuer=self._policy.issuer,
                leeway=self._policy.leeway,
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("The token has expired.") from None
        except jwt.ImmatureSignatureError:
            raise Unauthorized(
                "The token is not valid yet: its `nbf` or `iat` is in the future."
            ) from None
        except jwt.InvalidAudienceError:
            raise Unauthorized("The token is for another audience.") from None
        except jwt.InvalidIssuerError:
            raise Unauthorized("The token is from another issuer.") from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthorized(f"The token has no `{error.claim}`.") from None
        except _NOT_A_TOKEN as error:
            raise Unauthorized(_flaw(error, token)) from None
        if isinstance(claims["exp"], bool) or not isinstance(claims["exp"], int | float):
            raise Unauthorized("The token's `exp` is not a number.")
        try:
            float(claims["exp"])
        except OverflowError:
            raise Unauthorized("The token's `exp` is too large.") from None
        return claims


# Their texts are not passed on: they may quote what was sent.
_NOT_A_TOKEN = (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError)
_NO_JWT = "The token is not a JWT, or not all of one."


def _flaw(error: Exception, token: str) -> str:
    """Why a token is refused.

    Its sender learns nothing that the token does not say, nor of the key anything but that it is
    another one: claims are looked at only where the signature is good.
    """
    match error:
        case jwt.InvalidSignatureError():
            return "The token was signed with another key or secret."
        case jwt.InvalidAlgorithmError():
            return "The token's algorithm is not allowed here."
        case InvalidSubjectError():
            return "The token's `sub` is not text."
        case jwt.InvalidIssuedAtError():
            return "The token's `iat` is not a number."
        case InvalidJTIError():
            return "The token's `jti` is not text."
        case jwt.DecodeError():
            return _undecodable(token)
        case UnicodeEncodeError():
            return _NO_JWT
        case jwt.InvalidTokenError():
            return "The token's header cannot be used: see its `kid` and `crit`."
    return "The token is not valid."


def _undecodable(token: str) -> str:
    """PyJWT's one error for what is no JWT and for times that are no numbers."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except _NOT_A_TOKEN:
        return _NO_JWT
    for name in ("nbf", "exp"):
        try:
            int(claims.get(name, 0))
        except (ValueError, TypeError, OverflowError):
            return f"The token's `{name}` is not a number."
    return _NO_JWT


def _named_key(token: str) -> tuple[str | None, str]:
    """`kid` and `alg` of the header, which nobody has verified: they only choose between keys."""
    try:
        header = jwt.get_unverified_header(token)
        return header.get("kid"), str(header.get("alg"))
    except _NOT_A_TOKEN as error:
        raise Unauthorized(_flaw(error, token)) from None


class JwtUserVerifier:
    """The `UserVerifier` port."""

    def __init__(self, tokens: TokenVerifier) -> None:
        self._tokens = tokens

    def verify_now(self, token: str) -> Principal | None:
        """See `UserVerifier.verify_now`."""
        claims = self._tokens.claims_now(token)
        return None if claims is None else _principal(claims)

    async def verify(self, token: str) -> Principal:
        """See `UserVerifier.verify`."""
        return _principal(await self._tokens.claims(token))


def _principal(claims: dict[str, Any]) -> Principal:
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
