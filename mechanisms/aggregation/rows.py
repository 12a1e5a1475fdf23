"""Weights that follow from sketches: rules of which every neighbour derives the same mixing row.

The same chains weigh whole vectors in `mechanisms.aggregation.aggregators`; here they are given the
inner products of sketches, which are added up in a written order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from candor.mechanisms.aggregation.chains import Chain, Measures
from candor.mechanisms.aggregation.points import Floats, inner_products, lengths_alone

RowRule: TypeAlias = Callable[
    [str, int, Mapping[str, float], Mapping[str, Floats]], dict[str, float]
]
"""Weights by agent from the taker's id, the round, its weights of those that the taker heard and
its own, and the sketches (k,) that all of these stated; the same bits wherever it is computed."""


@dataclass(frozen=True, slots=True)
class DerivedRow:
    """The `RowRule` of a chain whose weights have the same bits on every machine."""

    chain: Chain

    def __call__(
        self,
        agent: str,
        round_number: int,
        weights: Mapping[str, float],
        sketches: Mapping[str, Floats],
    ) -> dict[str, float]:
        """The taker's vector comes first, then those of the others in order of id."""
        ids = [agent, *sorted(weights.keys() - {agent})]
        vectors = [sketches[k] for k in ids]
        if self.chain.origin:
            vectors.append(np.zeros_like(vectors[0]))
        mixing = np.array([weights[k] for k in ids])
        # Of a diverged simulation numbers are not finite; over a network they are refused before.
        with np.errstate(all="ignore"):
            inner = self._inner(np.stack(vectors))
            row = self.chain.weights(inner, mixing, (agent, round_number))
        return dict(sorted(zip(ids, row.tolist(), strict=True)))

    def _inner(self, vectors: Floats) -> Floats:
        if self.chain.measures is Measures.PAIRS:
            return inner_products(vectors)
        return lengths_alone(vectors, origin=self.chain.origin)
