"""What somebody who did rounds again says of them, signed: it holds no data of the agent.

    attestation = pack([body, signature])
    body        = pack([1, run, agent, auditor, samples, root, [[round, told, statement], …]])

`told` is 1 for true, 0 for false and 2 where it cannot be told; `statement` is the SHA-256 of the
body of the agent's charged statement of that round, by which its neighbours know what was judged.
Whether the auditor is to be trusted is for the reader: a signature says who spoke.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from candor.mechanisms.evidence.sample_tree import ROOT_BYTES, Samples
from candor.mechanisms.evidence.statements import ID_CHARS_MAX
from candor.topologies.encoding.canonical import (
    MalformedError,
    Value,
    is_count,
    is_name,
    pack,
    unpack,
)
from candor.topologies.encoding.signatures import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    SigningKey,
    verify,
)

ATTESTATION_DOMAIN: Final = "candor/attestation/v1"
ATTESTATION_VERSION: Final = 1
ATTESTATION_BYTES_MAX: Final = 2**22


class Told(IntEnum):
    """What doing a round again tells of what was stated of it."""

    FALSE = 0
    TRUE = 1
    UNKNOWN = 2


@dataclass(frozen=True, slots=True)
class AttestedRound:
    """What was told of a round, and the SHA-256 (32 bytes) of its charged statement's body."""

    round: int
    told: Told
    statement: bytes


@dataclass(frozen=True, slots=True)
class Attestation:
    """What an auditor, by public key, says of rounds of an agent, ascending, and its samples."""

    run: bytes
    agent: str
    auditor: bytes
    samples: Samples
    rounds: tuple[AttestedRound, ...]

    def sign(self, key: SigningKey) -> bytes:
        """The canonical bytes with the auditor's signature, whose key this is."""
        rounds: list[Value] = [[one.round, int(one.told), one.statement] for one in self.rounds]
        head: list[Value] = [ATTESTATION_VERSION, self.run, self.agent, self.auditor]
        body = pack([*head, self.samples.count, self.samples.root, rounds])
        return pack([body, key.sign(ATTESTATION_DOMAIN, body)])

    @classmethod
    def verified(cls, data: bytes) -> Self:
        """Parse `sign`'s bytes; raises MalformedError, also where the auditor did not sign."""
        match unpack(data, bytes_max=ATTESTATION_BYTES_MAX):
            case [bytes(body), bytes(signature)] if len(signature) == SIGNATURE_BYTES:
                found = cls._decoded(body)
                if verify(found.auditor, signature, ATTESTATION_DOMAIN, body):
                    return found
                raise MalformedError("the auditor did not sign it")
        raise MalformedError("not an attestation")

    @classmethod
    def _decoded(cls, body: bytes) -> Self:
        match unpack(body, bytes_max=ATTESTATION_BYTES_MAX):
            case [
                int(version),
                bytes(run),
                str(agent),
                bytes(auditor),
                int(count),
                bytes(root),
                [*rounds],
            ] if (
                is_count(version)
                and version == ATTESTATION_VERSION
                and len(run) == 32
                and is_name(agent, ID_CHARS_MAX)
                and len(auditor) == PUBLIC_KEY_BYTES
                and is_count(count)
                and len(root) == ROOT_BYTES
            ):
                attested = tuple(map(_round, rounds))
                if [one.round for one in attested] == sorted({one.round for one in attested}):
                    return cls(run, agent, auditor, Samples(count, root), attested)
        raise MalformedError("not an attestation of this version")


def _round(entry: Value) -> AttestedRound:
    match entry:
        case [int(number), int(told), bytes(statement)] if (
            is_count(number, least=1)
            and is_count(told)
            and told in set(Told)
            and len(statement) == 32
        ):
            return AttestedRound(number, Told(told), statement)
    raise MalformedError("not an attested round")
