"""One session with one neighbour: the signed HELLO handshake, as a pure state machine.

States: connecting -> established | refused; a HELLO with a new nonce (the peer restarted) or with
the right fingerprint (its operator mended the file) moves either of them on again.
Events: `tick`, `received`, `misaddressed`. Effects: HELLOs to send, returned in order.
Invariants: a session is established only by a HELLO, signed by the identity in the cluster file,
that echoes our own nonce (so it is not a recording) and bears our fingerprint; every other message
must carry our nonce, and what we send carries the peer's.

The HELLO's signature covers both CURVE keys and both nonces; the certificate in it binds the peer's
CURVE key, which the transport has authenticated, to its identity.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from candor.network.errors import RemoteProtocolError
from candor.network.identity import SignedCertificate
from candor.network.messages import Hello, valid_nonce
from candor.topologies.encoding.canonical import MalformedError, is_count, is_name, pack, unpack
from candor.topologies.encoding.signatures import SigningKey, verify

HELLO_DOMAIN: Final = "candor/hello/v1"
GREETING_VERSION: Final = 5
HELLO_BYTES_MAX: Final = 4096
MEMORY_BYTES_MAX: Final = 512
ID_CHARS_MAX: Final = 32
# A lost HELLO costs one retry interval at the start of a run; more than one a second is noise.
HELLO_RETRY_FIRST_S: Final = 0.2
HELLO_RETRY_LAST_S: Final = 2.0

_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")


class SessionState(StrEnum):
    """Where a session stands."""

    CONNECTING = "connecting"
    ESTABLISHED = "established"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Party:
    """An end of a session, as the cluster file names it."""

    agent: str
    identity: bytes
    curve: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Greeting:
    """The body of a HELLO.

    `established`: the sender has proof that the life it writes to is the one it hears;
    `round`: the sender's current round, 0 before it starts; `revision`: the number of its cluster
    file, 0 for one without. The fingerprint decides, the number tells people who is behind.
    `memory`: what the sender has of the receiver's own hand, for one that has forgotten it; opaque.
    """

    fingerprint: str
    sender: str
    receiver: str
    sender_curve: str
    receiver_curve: str
    nonce: bytes
    echo: bytes
    established: bool
    round: int
    certificate: bytes
    revision: int = 0
    memory: bytes = b""

    def encode(self) -> bytes:
        """The canonical bytes that are signed."""
        return pack(
            [
                GREETING_VERSION,
                self.fingerprint,
                self.sender,
                self.receiver,
                self.sender_curve,
                self.receiver_curve,
                self.nonce,
                self.echo,
                self.established,
                self.round,
                self.certificate,
                self.revision,
                self.memory,
            ]
        )

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Parse canonical bytes; raises RemoteProtocolError."""
        try:
            fields = unpack(body, bytes_max=HELLO_BYTES_MAX)
        except MalformedError as exc:
            raise RemoteProtocolError("hello", str(exc)) from exc
        match fields:
            case [
                int(version),
                str(fingerprint),
                str(sender),
                str(receiver),
                str(sender_curve),
                str(receiver_curve),
                bytes(nonce),
                bytes(echo),
                bool(established),
                int(number),
                bytes(certificate),
                int(revision),
                bytes(memory),
            ] if (
                is_count(version)
                and version == GREETING_VERSION
                and _FINGERPRINT.fullmatch(fingerprint)
                and is_name(sender, ID_CHARS_MAX)
                and is_name(receiver, ID_CHARS_MAX)
                and valid_nonce(nonce)
                and (not echo or valid_nonce(echo))
                and is_count(number)
                and is_count(revision)
                and len(memory) <= MEMORY_BYTES_MAX
            ):
                return cls(
                    fingerprint,
                    sender,
                    receiver,
                    sender_curve,
                    receiver_curve,
                    nonce,
                    echo,
                    established,
                    number,
                    certificate,
                    revision,
                    memory,
                )
        raise RemoteProtocolError("hello", "not a greeting")


@dataclass(frozen=True, slots=True)
class Greeted:
    """What a HELLO changed: `established` and `refused` are set only when the state moved there."""

    replies: tuple[Hello, ...] = ()
    established: bool = False
    refused: str | None = None


class Session:
    """The handshake with one neighbour; `peer_nonce` addresses what is sent to it.

    `memory` is what this end has of the peer's own hand, to be set by who uses the session, and
    `own_memory` what the peer's last HELLO had of ours: both opaque, and not checked here.
    `peer_behind`: it is refused for an earlier revision of our file, and may come back with ours;
    `peer_ahead`: for a later one, and we may come back with that.
    """

    def __init__(
        self,
        *,
        key: SigningKey,
        own: Party,
        peer: Party,
        run_id: str,
        fingerprint: str,
        certificate: bytes,
        nonce: bytes,
        revision: int = 0,
    ) -> None:
        self._key = key
        self._own = own
        self._peer = peer
        self._run_id = run_id
        self._fingerprint = fingerprint
        self._revision = revision
        self._certificate = certificate
        self.nonce = nonce
        self.peer_nonce: bytes | None = None
        self.peer_round = 0
        self.memory = self.own_memory = b""
        self.peer_behind = self.peer_ahead = False
        self.state = SessionState.CONNECTING
        self.reason: str | None = None
        self._candidate = b""  # the peer's latest nonce, echoed but not yet proven fresh
        self._addressed = True  # as far as we know, by what the peer writes to us
        self._next_hello_s = 0.0
        self._retry_s = HELLO_RETRY_FIRST_S

    @property
    def established(self) -> bool:
        """Whether messages may flow."""
        return self.state is SessionState.ESTABLISHED

    @property
    def _settled(self) -> bool:
        # A restarted peer may take the session for established, and be silent, while we write to
        # its earlier life: the life heard last must be the proven one. And a late message of a
        # life that is over may have made the peer write to an earlier life of ours.
        return self.established and self._candidate == self.peer_nonce and self._addressed

    def tick(self, now_s: float, own_round: int) -> list[Hello]:
        """HELLOs due now: repeated with growing intervals until the peer's life is proven."""
        if self._settled or now_s < self._next_hello_s:
            return []
        self._next_hello_s = now_s + self._retry_s
        self._retry_s = min(2 * self._retry_s, HELLO_RETRY_LAST_S)
        return [self._hello(own_round)]

    def received(self, hello: Hello, wall_s: float, own_round: int) -> Greeted:
        """Judge a HELLO that came over the peer's CURVE connection; `wall_s` is Unix time.

        Raises:
            RemoteProtocolError: it is not this peer's, not for us, or malformed.
        """
        greeting = Greeting.decode(hello.body)
        peer = self._peer
        if not verify(peer.identity, hello.signature, HELLO_DOMAIN, hello.body):
            raise RemoteProtocolError("hello-signature", f"not {peer.agent}'s identity")
        if (greeting.sender, greeting.receiver) != (peer.agent, self._own.agent):
            raise RemoteProtocolError("hello-address", f"{greeting.sender} to {greeting.receiver}")
        if (greeting.sender_curve, greeting.receiver_curve) != (peer.curve, self._own.curve):
            raise RemoteProtocolError("hello-curve", "other CURVE keys than the connection's")
        # It needs an answer as long as it lacks ours, or takes an earlier life of ours for this.
        reply = not greeting.established or greeting.echo != self.nonce
        self._candidate = greeting.nonce
        if greeting.fingerprint != self._fingerprint:
            return self._refuse(greeting, reply, own_round)
        self._check_certificate(greeting, wall_s)
        self.peer_round, self.own_memory = greeting.round, greeting.memory
        fresh = greeting.echo == self.nonce
        moved = fresh and (not self.established or self.peer_nonce != greeting.nonce)
        self._addressed = self._addressed or fresh
        if moved:
            self.peer_nonce = greeting.nonce
            self.state, self.reason = SessionState.ESTABLISHED, None
            self.peer_behind = self.peer_ahead = False
            self._retry_s = HELLO_RETRY_FIRST_S
        return Greeted((self._hello(own_round),) if reply else (), established=moved)

    @property
    def heard_nonce(self) -> bytes:
        """That of the peer's life which was heard last, whether it is served or not; b"" before."""
        return self._candidate

    def misaddressed(self) -> None:
        """A message came that bears another nonce than ours: tell the peer which one is."""
        self._addressed = False

    def _refuse(self, greeting: Greeting, reply: bool, own_round: int) -> Greeted:
        reason = _difference(
            (self._own.agent, self._revision, self._fingerprint),
            (self._peer.agent, greeting.revision, greeting.fingerprint),
        )
        moved = self.reason != reason
        self.state, self.reason, self.peer_nonce = SessionState.REFUSED, reason, None
        self.peer_behind = 0 < greeting.revision < self._revision
        self.peer_ahead = 0 < self._revision < greeting.revision
        # The peer learns of it from our own fingerprint; what is lost, the ticks repeat.
        replies = (self._hello(own_round),) if reply and moved else ()
        return Greeted(replies, refused=reason if moved else None)

    def _check_certificate(self, greeting: Greeting, wall_s: float) -> None:
        try:
            certificate = SignedCertificate.decode(greeting.certificate)
        except MalformedError as exc:
            raise RemoteProtocolError("certificate", str(exc)) from exc
        peer = self._peer
        certificate.check(peer.identity, self._run_id, peer.curve, peer.endpoint, wall_s)

    def _hello(self, own_round: int) -> Hello:
        greeting = Greeting(
            fingerprint=self._fingerprint,
            sender=self._own.agent,
            receiver=self._peer.agent,
            sender_curve=self._own.curve,
            receiver_curve=self._peer.curve,
            nonce=self.nonce,
            echo=self._candidate,
            established=self._settled,
            round=own_round,
            certificate=self._certificate,
            revision=self._revision,
            memory=self.memory,
        )
        body = greeting.encode()
        return Hello(body, self._key.sign(HELLO_DOMAIN, body))


def _difference(own: tuple[str, int, str], peer: tuple[str, int, str]) -> str:
    """Two cluster files told apart, and who has to move: (agent, revision, fingerprint) each."""
    told = ", ".join(
        f"{agent} has {f'revision {number} ' if number else ''}{fingerprint[:16]}"
        for agent, number, fingerprint in (own, peer)
    )
    behind, ahead = sorted((own, peer), key=lambda file: file[1])
    late = 0 < behind[1] < ahead[1]
    waited = " and is waited for" if behind == peer else ""
    advice = f"; {behind[0]} needs revision {ahead[1]}{waited}" if late else ""
    return f"cluster files differ: {told}{advice}"
