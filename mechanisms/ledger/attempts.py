"""The refused attempts of a channel: what each end remembers of them, and when they end it.

A signed REJECT closes attempt a of number seq for good; the proposer may then sign attempt a + 1 of
that number with other content. Both ends keep the same list, the acceptor first, and judge it by
the same rule, so that they agree on whether the channel goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from candor.mechanisms.ledger.bodies import ATTEMPTS_MAX, SETTLEMENT, Body

CODE_CREDIT_LIMIT: Final = "credit-limit"
CODE_MISMATCH: Final = "mismatch"
CODE_SKIPPED: Final = "window-skipped"
CODE_ORDER: Final = "window-order"
CODE_PAYMENT: Final = "payment-differs"
CODE_UNTOLD: Final = "payment-untold"
CODE_DISPUTED: Final = "disputed"
CODE_OLD: Final = "old-attempt"

_FINAL_CODES: Final = frozenset({CODE_MISMATCH, CODE_DISPUTED})
"""Neither changes by itself: amounts follow from signed claims, and a dispute does not end."""
_WINDOW_CODES: Final = frozenset({CODE_SKIPPED, CODE_ORDER})
"""Either may pass when the other end catches up, but not when the window is refused once more."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A closed attempt: the proposer's body and signature, and the acceptor's signed REJECT."""

    seq: int
    attempt: int
    body: bytes
    sig_p: bytes
    code: str
    signature: bytes


class Attempts:
    """Every refusal of a channel, by number and attempt."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self._refusals = {(refusal.seq, refusal.attempt): refusal for refusal in refusals}

    def find(self, seq: int, attempt: int) -> Refusal | None:
        """The refusal that closed an attempt, if it is closed."""
        return self._refusals.get((seq, attempt))

    def close(self, refusal: Refusal) -> None:
        """Take a refusal in."""
        self._refusals[(refusal.seq, refusal.attempt)] = refusal

    def due(self, seq: int) -> int:
        """The attempt that number `seq` has come to: above every closed one."""
        return max((refusal.attempt + 1 for refusal in self._of(seq)), default=0)

    def refused_windows(self, seq: int) -> list[int]:
        """The window of each settlement that was refused under number `seq`."""
        bodies = [Body.decode(refusal.body) for refusal in self._of(seq)]
        return [body.window for body in bodies if body.kind == SETTLEMENT]

    def untold(self, seq: int) -> bool:
        """Whether a payment was refused under number `seq` that the acceptor was not told of."""
        return any(refusal.code == CODE_UNTOLD for refusal in self._of(seq))

    def end_channel(self, seq: int) -> bool:
        """Whether the refusals of number `seq` leave nothing to propose, and a dispute."""
        refusals = self._of(seq)
        if any(refusal.code in _FINAL_CODES for refusal in refusals):
            return True
        contents = [
            Body.decode(refusal.body).window
            for refusal in refusals
            if refusal.code in _WINDOW_CODES
        ]
        twice = len(contents) > len(set(contents))
        return twice or self.due(seq) >= ATTEMPTS_MAX

    def _of(self, seq: int) -> list[Refusal]:
        found = (self.find(seq, attempt) for attempt in range(ATTEMPTS_MAX))
        return [refusal for refusal in found if refusal is not None]
