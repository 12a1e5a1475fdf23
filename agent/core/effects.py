"""What algorithms and the core ask for: effects are commands; a runtime performs them.

An optimisation algorithm is a generator over tensors with a leading agent axis. It yields one of
the effects below and is sent the result; the daemon performs them for one row over the network,
the vectorised runtime for all rows at once.

The core's methods return lists of the effects in the second half, to be performed in order:
`Persist` stands before every `Send` that depends on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.evidence.disclosures import ShownRound
from candor.mechanisms.evidence.statements import (
    EvidenceError,
    SignedStatement,
    Source,
    Statement,
)
from candor.mechanisms.ledger.effects import ReadRecords as ReadRecords
from candor.mechanisms.ledger.effects import StoreChange
from candor.mechanisms.rewards.barter import Groups
from candor.network.slots import Slot
from candor.network.wire import Envelope


@dataclass(frozen=True, slots=True)
class Arrived:
    """A complete update with the statements it names that are already trusted here. Where models
    are traded, `groups` is how many of it this agent is given, and `novelties` how new those of
    `trusted` were. `held` are vectors (dim,) of some of `trusted`, its sender's and this agent's,
    where there are fresh sketches."""

    slot: Slot[SignedStatement, Source]
    trusted: Mapping[Source, SignedStatement]
    groups: int | None = None
    novelties: Mapping[Source, float] = field(default_factory=dict)
    held: Mapping[Source, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Send:
    """Hand a message to the transport; bulk of an older step may be dropped for a newer one."""

    peer: str
    envelope: Envelope
    bulk_step: int | None = None


@dataclass(frozen=True, slots=True)
class PutValue:
    """Persist: a value of the agent's own under a key, replacing what was there."""

    key: str
    value: bytes


StoreOperation: TypeAlias = StoreChange | PutValue


@dataclass(frozen=True, slots=True)
class Persist:
    """Commit in one transaction before anything that follows in the list is done."""

    operations: tuple[StoreOperation, ...]


@dataclass(frozen=True, slots=True)
class Remember:
    """Replace the snapshot of the window under way, for the case that this process dies. It need
    not outlive the machine, so it costs no sync; it must be written before what follows is sent."""

    snapshot: bytes


@dataclass(frozen=True, slots=True)
class Verify:
    """Judge a complete update off the event loop; answer with `AgentCore.verified`."""

    peer: str
    update: Arrived


@dataclass(frozen=True, slots=True)
class Begin:
    """Every neighbour is there, or the start deadline has passed: start with round 1."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with what an earlier life has kept of its training: `inside` the exchange of round and
    phase, whose vector and statement are those, so that its `Combine` follows; else with the round
    after it, from the vector that was kept."""

    round: int
    phase: int
    inside: bool


@dataclass(frozen=True, slots=True)
class Derive:
    """Derive the row with which an exchange is mixed by `rule`, without one that of the cluster
    file, of what all in `payloads`, by agent (dim,), this one among them, have stated, off the
    event loop; and say whose vector is farther away than its sketch shows, whom the row leaves out.
    Answer with `AgentCore.derived`."""

    round: int
    phase: int
    rule: str
    payloads: Mapping[str, NDArray[np.float32]]
    statements: Mapping[str, Statement]


@dataclass(frozen=True, slots=True)
class Derived:
    """The answer to `Derive`: the row by agent, and why others are not in it."""

    row: Mapping[str, float]
    hidden: Mapping[str, EvidenceError]


@dataclass(frozen=True, slots=True)
class Traded:
    """How many of the `groups` of a model an agent mixes of each other's, by agent."""

    groups: Groups
    shared: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Combine:
    """What was heard in an exchange, in order of id: `parts` are (agent, weight, payload (dim,)),
    the agent's own among them. Answer with `AgentCore.combined` once they have been used: mixed by
    their weights where the algorithm asked for that, handed to it otherwise; where models are
    `traded`, in what both give each other. With `reentry` the one part there is a neighbour's
    model, from which the algorithm starts anew in round + 1."""

    round: int
    phase: int
    parts: tuple[tuple[str, float, NDArray[np.float32]], ...]
    reentry: bool
    traded: "Traded | None" = None


@dataclass(frozen=True, slots=True)
class Show:
    """Read what this agent shows of the picked round of a window, from an offset on, off the event
    loop; answer with `AgentCore.showing`, if there is anything."""

    peer: str
    window: int
    offset: int


@dataclass(frozen=True, slots=True)
class Judge:
    """Do the round again that a neighbour has shown, off the event loop, in no hurry; answer with
    `AgentCore.judged`."""

    shown: ShownRound
    window: int


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close a neighbour's connections for a while: what it sends is good for nothing."""

    peer: str


@dataclass(frozen=True, slots=True)
class Log:
    """A stable event name with fields; level is logging's."""

    level: int
    event: str
    fields: Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Finished:
    """The run is over for this agent; `failure` is one line when it did not end well."""

    failure: str | None = None
    exit_code: int = 0


Effect: TypeAlias = (
    Send
    | Persist
    | Remember
    | ReadRecords
    | Verify
    | Begin
    | Resume
    | Derive
    | Combine
    | Show
    | Judge
    | HangUp
    | Log
    | Finished
)
