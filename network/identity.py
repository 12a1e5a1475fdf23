"""Who an agent is: its Ed25519 identity, its CURVE transport key, and what binds the two.

The identity signs; the CURVE key encrypts. A certificate, signed by the identity, says that in one
run this CURVE key at this endpoint is its own. Entropy and time are arguments; where keys lie on
disk is `agent.daemon.keys`'s business.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from candor.network.errors import LocalProtocolError, RemoteProtocolError
from candor.topologies.encoding import z85
from candor.topologies.encoding.canonical import MalformedError, Value, pack, unpack
from candor.topologies.encoding.signatures import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    SigningKey,
    is_sound,
    verify,
)

CERTIFICATE_DOMAIN = "candor/curve-bind/v1"

SEED_BYTES = 32
CURVE_CHARS = 40
RUN_ID_BYTES_MAX = 64
ENDPOINT_BYTES_MAX = 272  # tcp:// + a host name of 253 + : + a port, and a little room
INTEGER_MAX = (1 << 63) - 1
CERTIFICATE_BYTES_MAX = 512  # the longest valid encoding has 468


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """The public halves of an agent's keys: `identity` 32 bytes, `curve` 40 Z85 characters."""

    identity: bytes
    curve: str

    def __post_init__(self) -> None:
        """Check both keys' sizes.

        Raises:
            MalformedError: not a 32-byte identity that somebody can have, or not a Z85 key.
        """
        if len(self.identity) != PUBLIC_KEY_BYTES:
            raise MalformedError(
                f"an identity has {PUBLIC_KEY_BYTES} bytes, not {len(self.identity)}"
            )
        if not is_sound(self.identity):
            raise MalformedError("the identity is nobody's: signatures for it are no proof")
        if len(z85.decode(self.curve)) != PUBLIC_KEY_BYTES:
            raise MalformedError(f"a CURVE key has {CURVE_CHARS} characters, not {len(self.curve)}")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Identity:
    """An agent's own keys; its `repr` never shows a secret."""

    signing_key: SigningKey
    curve_public: str
    curve_secret: str

    @classmethod
    def from_seeds(cls, identity_seed: bytes, curve_seed: bytes) -> "Identity":
        """The keys that two independent 32-byte seeds give."""
        for seed in (identity_seed, curve_seed):
            if len(seed) != SEED_BYTES:
                raise LocalProtocolError(f"a key seed has {SEED_BYTES} bytes, not {len(seed)}")
        return cls(SigningKey(identity_seed), curve_public(curve_seed), z85.encode(curve_seed))

    @property
    def public(self) -> PublicIdentity:
        """The halves that others may know."""
        return PublicIdentity(self.signing_key.public, self.curve_public)

    def __repr__(self) -> str:
        return f"Identity({self.signing_key.public.hex()[:16]}…, curve={self.curve_public})"


def curve_public(curve_seed: bytes) -> str:
    """The Z85 public key of a raw Curve25519 secret (32 bytes), as NaCl derives it."""
    return z85.encode(
        X25519PrivateKey.from_private_bytes(curve_seed).public_key().public_bytes_raw()
    )


@dataclass(frozen=True, slots=True)
class Certificate:
    """The statement "in this run, this CURVE key at this endpoint is mine".

    `serial` grows with each new certificate of an agent; `not_after_s` is the last valid second of
    Unix time, 0 for no expiry.
    """

    run_id: str
    curve: str
    endpoint: str
    serial: int
    not_after_s: int

    def __post_init__(self) -> None:
        """Check every bound.

        Raises:
            MalformedError: a field out of its bounds.
        """
        _check_text("run id", self.run_id, RUN_ID_BYTES_MAX)
        _check_text("endpoint", self.endpoint, ENDPOINT_BYTES_MAX)
        if len(self.curve) != CURVE_CHARS:
            raise MalformedError(f"a CURVE key has {CURVE_CHARS} characters, not {len(self.curve)}")
        z85.decode(self.curve)
        for name, number in (("serial", self.serial), ("expiry", self.not_after_s)):
            if not 0 <= number <= INTEGER_MAX:
                raise MalformedError(f"the {name} {number} is not from 0 to {INTEGER_MAX}")

    @property
    def body(self) -> bytes:
        """The canonical bytes that are signed under `CERTIFICATE_DOMAIN`."""
        return pack(self._fields())

    def _fields(self) -> list[Value]:
        return [self.run_id, self.curve, self.endpoint, self.serial, self.not_after_s]


@dataclass(frozen=True, slots=True)
class SignedCertificate:
    """A certificate and its issuer's signature (64 bytes); worth nothing before `check`."""

    certificate: Certificate
    signature: bytes

    def encode(self) -> bytes:
        """Canonical bytes: the five fields, then the signature."""
        return pack([*self.certificate._fields(), self.signature])

    @classmethod
    def decode(cls, data: bytes | memoryview) -> "SignedCertificate":
        """Read `encode`'s bytes and nothing else.

        Raises:
            MalformedError: too long, not canonical, a wrong type, or a field out of its bounds.
        """
        match unpack(data, bytes_max=CERTIFICATE_BYTES_MAX):
            case [
                str(run_id),
                str(curve),
                str(endpoint),
                int(serial),
                int(not_after_s),
                bytes(signature),
            ] if not isinstance(serial, bool) and not isinstance(not_after_s, bool):
                if len(signature) != SIGNATURE_BYTES:
                    raise MalformedError(f"a signature has 64 bytes, not {len(signature)}")
                return cls(Certificate(run_id, curve, endpoint, serial, not_after_s), signature)
            case _:
                raise MalformedError("not a certificate: expected three texts, two integers, bytes")

    def check(
        self, identity_public: bytes, run_id: str, curve: str, endpoint: str, now_s: float
    ) -> None:
        """Accept the certificate as `identity_public`'s for this run, CURVE key and endpoint.

        Raises:
            RemoteProtocolError: with the code of the first thing that does not hold. The signature
                comes first: what an unsigned certificate says is not worth reporting.
        """
        stated = self.certificate
        if not verify(identity_public, self.signature, CERTIFICATE_DOMAIN, stated.body):
            raise RemoteProtocolError(
                "certificate-signature", "not signed by the expected identity"
            )
        if stated.run_id != run_id:
            raise RemoteProtocolError("certificate-run", f"for {stated.run_id!r}, not {run_id!r}")
        if stated.curve != curve:
            raise RemoteProtocolError("certificate-key", f"for {stated.curve}, not {curve}")
        if stated.endpoint != endpoint:
            raise RemoteProtocolError(
                "certificate-endpoint", f"for {stated.endpoint!r}, not {endpoint!r}"
            )
        if stated.not_after_s and now_s > stated.not_after_s:
            raise RemoteProtocolError(
                "certificate-expired", f"valid until {stated.not_after_s}, now {int(now_s)}"
            )


def issue(
    key: SigningKey, *, run_id: str, curve: str, endpoint: str, serial: int, not_after_s: int = 0
) -> SignedCertificate:
    """Sign a certificate for our own CURVE key.

    Raises:
        LocalProtocolError: a field out of its bounds.
    """
    try:
        certificate = Certificate(run_id, curve, endpoint, serial, not_after_s)
    except MalformedError as exc:
        raise LocalProtocolError(f"cannot issue this certificate: {exc}") from exc
    return SignedCertificate(certificate, key.sign(CERTIFICATE_DOMAIN, certificate.body))


def _check_text(name: str, text: str, bytes_max: int) -> None:
    # ASCII only: two texts that look alike must not name two different runs or hosts.
    if not text.isascii() or not text.isprintable() or not 1 <= len(text) <= bytes_max:
        raise MalformedError(f"the {name} must be 1 to {bytes_max} printable ASCII characters")
