"""What is known of a neighbour: its session, its updates, its claims and bills, its ledger."""

from dataclasses import dataclass, field

import numpy as np

from tests.independent.bills import Bill
from tests.independent.claims import Claim
from tests.independent.ledger import Channel
from tests.independent.rounds import Source, Statement

HELLO_S = 0.2


@dataclass(slots=True)
class Slot:
    """An update on its way, with the statements that it names."""

    statement: Statement
    named: list[Source]
    data: bytearray = field(default_factory=bytearray)
    witnesses: dict[Source, Statement] = field(default_factory=dict)
    notice: bool = False

    @property
    def told(self) -> bool:
        """Of a notice: whether all witnesses are there."""
        return self.notice and set(self.named) <= set(self.witnesses)


@dataclass(slots=True)
class Neighbour:
    """What is known of a neighbour; updates by step, what it injected by round."""

    channel: Channel
    nonce: bytes = b""  # the proven one; empty while no session stands
    heard: bytes = b""  # the latest, proven or not
    misdirected: bool = False  # it writes to an earlier life
    hello_at_s: float = 0.0
    hello_wait_s: float = HELLO_S
    announced: int = 0
    judged: int = 0  # the latest step whose update was accepted or refused
    given_up: bool = False
    waiting: bool = False  # it has said so since our own step began
    slots: dict[int, Slot] = field(default_factory=dict)
    payloads: dict[int, np.ndarray] = field(default_factory=dict)
    statements: dict[int, Statement] = field(default_factory=dict)
    novelties: dict[int, float] = field(default_factory=dict)  # where models are traded
    injected: dict[int, np.ndarray] = field(default_factory=dict)
    wholes: dict[int, float] = field(default_factory=dict)  # energies that fresh sketches show
    claims: dict[int, Claim] = field(default_factory=dict)
    bills: dict[int, Bill] = field(default_factory=dict)
    checked: set[int] = field(default_factory=set)  # windows whose claim holds
    left: bool = False  # has said BYE
    knows_we_left: bool = False
    active_at_s: float = 0.0

    @property
    def settled_hello(self) -> bool:
        return bool(self.nonce) and self.heard == self.nonce and not self.misdirected

    @property
    def served(self) -> bool:
        return bool(self.nonce) and not self.left and not self.channel.closed
