"""Makes tokens that no honest library would make, and keys in every form."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "a secret of at least thirty-two bytes, for tests"

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PRIVATE: dict[str, Any] = {"RS256": RSA_KEY, "ES256": EC_KEY, "EdDSA": ED_KEY}
_TO_JWK: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def pem(private: Any) -> bytes:
    encoded: bytes = private.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def jwk(private: Any, algorithm: str, **members: Any) -> dict[str, Any]:
    """The public half as a JWK; members with the value None are left out."""
    item: dict[str, Any] = _TO_JWK[algorithm].to_jwk(private.public_key(), as_dict=True)
    return {k: v for k, v in {**item, **members}.items() if v is not None}


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims with changes; those with the value None are left out."""
    body = {"sub": "alice", "exp": int(time.time()) + 3600, **changes}
    return {k: v for k, v in body.items() if v is not None}


def forge(
    payload: bytes | dict[str, Any],
    header: bytes | dict[str, Any] | None = None,
    secret: bytes = SECRET.encode(),
) -> str:
    """A token with exactly this header and payload, signed with HMAC SHA-256."""
    header = {"alg": "HS256", "typ": "JWT"} if header is None else header
    parts = [
        base64url(part if isinstance(part, bytes) else json.dumps(part).encode())
        for part in (header, payload)
    ]
    signed = ".".join(parts)
    signature = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64url(signature)}"


def sign(private: Any, algorithm: str, headers: dict[str, Any] | None = None, **more: Any) -> str:
    return jwt.encode(claims(**more), private, algorithm=algorithm, headers=headers)
