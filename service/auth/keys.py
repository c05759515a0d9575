"""The keys that verify tokens, and which algorithms each may be used with."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import InvalidKeyError
from jwt.algorithms import HMACAlgorithm

from service.core.errors import InvalidInput

SECRET_ALGORITHMS = ("HS256", "HS384", "HS512")


class Key(NamedTuple):
    """A key and the algorithms that it may be used with: never what a token's header says."""

    key: Any
    algorithms: tuple[str, ...]


class KeySource(Protocol):
    """Gives the key for a token."""

    @property
    def only(self) -> Key | None:
        """The key for every token, where there is just one: no header need be read."""

    def known(self, kid: str | None, algorithm: str) -> Key | None:
        """As `find`, or None where that would have to fetch keys."""

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """The key for a token whose header says this; `algorithm` only chooses between keys.

        Raises:
            Unauthorized: where no key fits.
        """


class FixedKey:
    """One key, whatever `kid` a token names."""

    def __init__(self, key: Key) -> None:
        self.only = key

    def known(self, kid: str | None, algorithm: str) -> Key:
        """See `KeySource.known`."""
        return self.only

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """See `KeySource.find`."""
        return self.only


def secret_key(secret: str, algorithms: tuple[str, ...]) -> Key:
    """A shared secret, for HS256 unless other HMAC algorithms are named.

    Raises:
        InvalidInput: for an algorithm that wants a public key, or a secret that is a public key.
    """
    names = algorithms or ("HS256",)
    for name in names:
        if name not in SECRET_ALGORITHMS:
            raise InvalidInput(f"{name} does not go with a shared secret")
    try:
        return Key(HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret), names)
    except InvalidKeyError:
        raise InvalidInput(
            "it is a key or a certificate, which others may know; a secret is random text"
        ) from None


def public_key(pem: bytes, algorithms: tuple[str, ...]) -> Key:
    """A PEM public key; its kind decides the algorithm unless some are named.

    Raises:
        InvalidInput: if it is not one, or an algorithm does not go with it.
    """
    try:
        key = load_pem_public_key(pem)
    except Exception:
        raise InvalidInput("it holds no PEM public key") from None
    return Key(key, fitting(algorithms_of(key), algorithms))


def algorithms_of(key: Any) -> tuple[str, ...]:
    """The algorithms that a public key can be used with; none for an unknown kind."""
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


def fitting(possible: tuple[str, ...], allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the possible algorithms that are allowed; unset: RS256, ES256, EdDSA.

    Raises:
        InvalidInput: where none is left.
    """
    names = tuple(name for name in possible if name in (allowed or _DEFAULTS))
    if not names:
        raise InvalidInput("the key does not go with any of the allowed algorithms")
    return names
