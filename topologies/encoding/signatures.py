"""Ed25519 signatures with a domain tag: one made for one purpose is worthless for another."""

from typing import Final

import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64
SALT_BYTES = 16
SALT_CONTEXT: Final = "candor/salt/v1"
PUBLIC_KEY_BYTES = 32

_PRIME: Final = 2**255 - 19  # of the curve's field
_ORDER_8: Final = 0x5FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
# The y of the eight points of order 1, 2, 4 and 8; test_signatures.py computes what they are.
_SMALL_ORDER: Final = frozenset((0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8))


class SigningKey:
    """The secret half of an identity; its `repr` never shows the secret."""

    __slots__ = ("_private", "_salts", "public")

    def __init__(self, seed: bytes) -> None:
        """Build from a 32-byte Ed25519 seed."""
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public: bytes = self._private.public_key().public_bytes_raw()
        self._salts = blake3.blake3(seed, derive_key_context=SALT_CONTEXT).digest()

    def sign(self, domain: str, *parts: bytes) -> bytes:
        """Sign `domain || parts` (64 bytes)."""
        return self._private.sign(b"".join((domain.encode("ascii"), *parts)))

    def salt(self, *parts: bytes) -> bytes:
        """16 bytes for `parts` that nobody without the secret can tell from random ones: with them
        in it, the digest of a body does not let anyone test what the body might say."""
        return blake3.blake3(b"".join(parts), key=self._salts).digest(length=SALT_BYTES)

    def __repr__(self) -> str:
        return f"SigningKey({self.public.hex()[:16]}…)"


def is_sound(public: bytes) -> bool:
    """Whether bytes may be somebody's public key.

    Of a key of small order, which has no secret half, one signature holds for all messages or for
    each eighth one; and a y of the field's prime or above is a second name of another
    key (RFC 8032, 5.1.3, refuses it, libraries do not).
    """
    y = int.from_bytes(public, "little") & ((1 << 255) - 1)  # the last bit is the sign of x
    return len(public) == PUBLIC_KEY_BYTES and y < _PRIME and y not in _SMALL_ORDER


def verify(public: bytes, signature: bytes, domain: str, *parts: bytes) -> bool:
    """Whether `signature` is `public`'s over `domain || parts`; False for unsound keys too."""
    if not is_sound(public):
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(signature, b"".join((domain.encode("ascii"), *parts)))
    except (InvalidSignature, ValueError):
        return False
    return True
