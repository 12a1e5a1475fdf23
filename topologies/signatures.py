"""Ed25519 signatures with a domain tag: one made for one purpose is worthless for another."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32


class SigningKey:
    """The secret half of an identity; its `repr` never shows the secret."""

    __slots__ = ("_private", "public")

    def __init__(self, seed: bytes) -> None:
        """Build from a 32-byte Ed25519 seed."""
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public: bytes = self._private.public_key().public_bytes_raw()

    def sign(self, domain: str, *parts: bytes) -> bytes:
        """Sign `domain || parts` (64 bytes)."""
        return self._private.sign(b"".join((domain.encode("ascii"), *parts)))

    def __repr__(self) -> str:
        return f"SigningKey({self.public.hex()[:16]}…)"


def verify(public: bytes, signature: bytes, domain: str, *parts: bytes) -> bool:
    """Whether `signature` is `public`'s over `domain || parts`; False for malformed keys too."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(signature, b"".join((domain.encode("ascii"), *parts)))
    except (InvalidSignature, ValueError):
        return False
    return True
