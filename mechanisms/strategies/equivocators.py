"""Attacks that send every neighbour another vector: equivocation, which two statements prove.

Over a network the first receiver who compares statements has the proof; in a simulation nobody
compares, so that what the vectors themselves do can be studied. What such an agent is measured by
there is what it sends its first neighbour by id.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from candor.mechanisms.strategies.lies import ReportsTruly
from candor.mechanisms.strategies.sending import SendContext
from candor.topologies.specs.specs import ConfigurationError

SENT_DOMAIN: Final = 0x73656E74


@dataclass(frozen=True, slots=True)
class LargeNoise(ReportsTruly):
    """s_k ~ U[-b, b] by coordinate, drawn anew for each receiver k and exchange, knowing nothing
    (the large-noise attack of Jordan et al. 2024, DecByzPG, section 5; there b = 1000, on gradients
    and parameters alike)."""

    size: float

    def sent(self, vectors: Tensor, context: SendContext) -> Tensor:
        """Noise (rows, neighbours, dim) that depends on seed, agent, round and phase alone."""
        most = max(map(len, context.neighbours))
        out = torch.zeros(len(vectors), most, vectors.shape[1])
        for row, agent in enumerate(context.agents):
            key = [context.seed, SENT_DOMAIN, agent, context.round, context.phase]
            shape = len(context.neighbours[row]), vectors.shape[1]
            drawn = np.random.default_rng(key).random(shape, dtype=np.float32)
            out[row, : shape[0]] = torch.from_numpy(drawn).mul_(2).sub_(1).mul_(self.size)
        return out.to(vectors)


@dataclass(frozen=True, slots=True)
class Dissensus(ReportsTruly):
    """s_k = x_k - a sum_{j honest neighbour of k} (x_j - x_k) / (attackers among k's neighbours):
    with a = 1 it cancels what receiver k would gain from its honest neighbours, with more it drives
    the agents apart (the dissensus attack of He, Karimireddy & Jaggi 2022, ClippedGossip, equation
    (5), at equal mixing weights). Knows the honest vectors; for simulations only.

    Attackers get the honest mean. It acts where models are exchanged.
    """

    factor: float
    omniscient = True

    def sent(self, vectors: Tensor, context: SendContext) -> Tensor:
        """One vector for each receiver: (rows, neighbours, dim).

        Raises:
            ConfigurationError: this is no simulation.
        """
        if not context.agrees:
            return vectors
        if context.honest is None or not context.run.graph:
            raise ConfigurationError("strategy dissensus needs to know what honest agents send")
        row_of = {agent: index for index, agent in enumerate(context.honest_agents)}
        mean = context.honest.mean(dim=0)
        out = mean.repeat(len(vectors), max(map(len, context.neighbours)), 1)
        for row, receivers in enumerate(context.neighbours):
            for at, receiver in enumerate(receivers):
                if receiver in row_of:
                    out[row, at] = self._to(receiver, row_of, context)
        return out

    def _to(self, receiver: int, row_of: dict[int, int], context: SendContext) -> Tensor:
        honest = context.honest
        assert honest is not None
        own = honest[row_of[receiver]]
        around = context.run.graph[receiver]
        near = [row_of[agent] for agent in around if agent in row_of]
        pull = honest[near].sum(dim=0) - len(near) * own
        return own - self.factor * pull / (len(around) - len(near))


@dataclass(frozen=True, slots=True)
class InDiameter(ReportsTruly):
    """s_k = m + c_k d, c_k d the largest step from the honest mean m along d or against it, by
    turns, that stays within the honest diameter of every honest vector: no honest agent can tell it
    from an honest one by distances, and receivers are drawn apart. d joins the two honest vectors
    that are farthest apart. Made for averaging agreement, which it holds up; it acts on gradients,
    too, as agents that aggregate and step alike have nothing to agree on.

    Knows the honest vectors, or over a network what neighbours sent in the exchange before.
    """

    omniscient: bool = True
    overhears = True

    def sent(self, vectors: Tensor, context: SendContext) -> Tensor:
        """One vector for each receiver: (rows, neighbours, dim)."""
        most = max(map(len, context.neighbours))
        out = vectors[:, None].repeat(1, most, 1)
        for row in range(len(vectors)):
            honest = self._honest(context, row)
            if honest is not None and len(honest) > 1:
                ends = torch.stack(within_diameter(honest))
                out[row] = ends[torch.arange(most, device=ends.device) % 2]
        return out

    def _honest(self, context: SendContext, row: int) -> Tensor | None:
        if self.omniscient and context.honest is not None:
            return context.honest
        # What was sent just before is of another kind where gradients turn into models.
        alike = context.agrees and context.phase - 1 != context.run.phases.charged
        told = context.just_heard if alike else context.heard
        return None if told is None else told[row]


def within_diameter(honest: Tensor) -> tuple[Tensor, Tensor]:
    """The two ends (dim,) that `InDiameter` sends, of honest vectors (n, dim), in binary64."""
    exact = honest.double()
    apart = torch.cdist(exact, exact, compute_mode="donot_use_mm_for_euclid_dist")  # (n, n)
    first, second = divmod(int(apart.argmax()), len(exact))
    diameter = apart[first, second]
    mean = exact.mean(dim=0)
    if diameter == 0:
        return honest[0], honest[0]
    direction = (exact[first] - exact[second]) / diameter
    offsets = mean - exact  # (n, dim)
    along = offsets @ direction  # (n,)
    slack = diameter**2 - offsets.square().sum(dim=1)
    root = (along.square() + slack).clamp_min(0).sqrt()
    up, down = (root - along).min(), (root + along).min()
    return (mean + up * direction).to(honest), (mean - down * direction).to(honest)
