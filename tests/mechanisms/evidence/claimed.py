"""Claimed rounds with the products that belong to them, or with none to speak of."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.evidence.claims import ClaimedRound


def with_products(
    entries: Iterable[ClaimedRound], updates: Sequence[NDArray[np.float64]] | None = None
) -> tuple[ClaimedRound, ...]:
    """The rounds of a claim, each with its products with the earlier ones: of the updates (k,)
    injected in them, which are their traces where a model is small."""
    rounds = tuple(entries)
    traces = [np.frombuffer(entry.trace, "<f4").astype(np.float64) for entry in rounds]
    held = traces if updates is None else updates
    return tuple(
        replace(
            entry,
            products=np.array([held[s] @ held[t] for s in range(t)], "<f8").tobytes(),
        )
        for t, entry in enumerate(rounds)
    )


def at_right_angles(entries: Iterable[ClaimedRound]) -> tuple[ClaimedRound, ...]:
    """The rounds of a claim with products of 0, as they may be whatever the energies are."""
    return tuple(replace(entry, products=bytes(8 * t)) for t, entry in enumerate(entries))
