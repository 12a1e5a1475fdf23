"""Simulated neighbours that rate each other's updates, and trade parts of models by that.

The same ratings as `mechanisms.evidence` holds statements to, from the same traces; as everybody
hears everybody here, they follow from what was measured alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor

from candor.agent.simulation.mixing import (
    NO_SKETCHES,
    NONE_APART,
    Apart,
    Floats,
    Mixing,
    RoundMixing,
    sparse_rows,
)
from candor.mechanisms.evidence.examiner import energy
from candor.mechanisms.evidence.sketch import TraceFold, window_of
from candor.mechanisms.rewards.barter import (
    Barter,
    Groups,
    Rating,
    novelty,
    scores_of,
    sections,
    ways,
)
from candor.topologies.cluster.file import Cluster

PREFIX: Final = "barter."
"""Of the names under which a saved simulation holds what is here."""


@dataclass(frozen=True, slots=True)
class TradedMixing(RoundMixing):
    """A round in which neighbours mix the groups of coordinates that both give: of each run of
    groups that are mixed alike, the buckets from where to where, and how."""

    size: int = 0
    sections: Sequence[tuple[int, int, RoundMixing]] = field(default=())

    def models(self, y: Tensor, apart: Apart[Tensor] = NONE_APART) -> Tensor:
        """The models y (agents, dim) mixed."""
        assert not apart
        whole = y.shape[1] // self.size * self.size
        head, tail = y[:, :whole].view(len(y), -1, self.size), y[:, whole:]
        mixed = torch.empty_like(y)
        into, rest = mixed[:, :whole].view(len(y), -1, self.size), mixed[:, whole:]
        for low, high, mixing in self.sections:
            part = head[:, :, low:high].reshape(len(y), -1)
            into[:, :, low:high] = mixing.rounded(part).view(len(y), -1, high - low)
            rest[:, low:high] = mixing.rounded(tail[:, low:high].contiguous())
        return mixed

    def sketches(self, stated: Floats, apart: Apart[Floats] = NO_SKETCHES) -> Floats:
        """The sketches (agents, k) of the mixed models."""
        assert not apart
        parts = [mixing.exact @ stated[:, low:high] for low, high, mixing in self.sections]
        return np.concatenate(parts, axis=1)


class Bartering:
    """What the agents of a run think of each other, round by round.

    Args:
        cluster: the run.
        barter: its rule.
        size: k, of a sketch.
        held: what `state` gave for the same run; without it all begin equal.
    """

    def __init__(
        self,
        cluster: Cluster,
        barter: Barter,
        mixing: Mixing,
        size: int,
        held: Mapping[str, Tensor],
    ) -> None:
        self._cluster = cluster
        self._barter = barter
        self._mixing = mixing
        self.groups = Groups(size)
        self._members = {a: tuple(sorted((a, *cluster.neighbours(a)))) for a in cluster.ids}
        self.ratings = {a: barter.equal(of, self.groups) for a, of in self._members.items()}
        self._given: dict[str, dict[str, int]] = {}  # in the round that is over
        # Of that round, (3, agents, r): traces of updates, of models, of what these started from.
        self._before: Floats | None = None
        if held:
            self._restore(held)

    def mixing(self, t: int) -> TradedMixing:
        """How the models of round t, the next one to be rated, are mixed."""
        given = {a: {k: r.groups for k, r in of.items()} for a, of in self.ratings.items()}
        return self._traded(t, given)

    def mixing_before(self, t: int) -> TradedMixing:
        """How those of round t were mixed, which is over."""
        return self._traded(t, self._given)

    def rate(self, t: int, injected: Floats, stated: Floats, step: Floats) -> None:
        """Take the sketches (agents, k) of the updates of round t and of the models, and the steps
        (agents, 1) of the updates; nobody is rated by those of the first round of a window, whose
        signs are not those of the round before."""
        cluster, rounds = self._cluster, self._cluster.payments.window
        run, window = bytes.fromhex(cluster.fingerprint), window_of(t, rounds)
        fold = TraceFold(run, window, self.groups.size, self.groups.bounds)
        now = fold(injected).astype(np.float64)
        now[~np.isfinite(energy(injected))] = 0.0
        if t > 1 and window != window_of(t - 1, rounds):
            scores: dict[str, dict[str, float]] = {agent: {} for agent in cluster.ids}
        else:
            new = {agent: self._novelty(t, agent, now) for agent in cluster.ids}
            scores = {agent: self._scores(t, agent, now, new) for agent in cluster.ids}
        models = fold.exact(stated)
        self._before = np.stack([now, models, models + step * now])
        self._given = {a: {k: r.groups for k, r in of.items()} for a, of in self.ratings.items()}
        for agent, of in self.ratings.items():
            reputations = {k: rating.reputation for k, rating in of.items()}
            self.ratings[agent] = self._barter.rated(reputations, scores[agent], self.groups)

    def part(self, vector: Tensor, giver: str, taker: str) -> Tensor:
        """What of a vector (dim,) of the round that is over one gave the other; zeros elsewhere."""
        buckets = torch.arange(len(vector), device=vector.device) % self.groups.size
        return vector.masked_fill(buckets >= self.groups.bound(self._given[giver][taker]), 0.0)

    def state(self) -> dict[str, Tensor]:
        """What the rounds to come depend on, by name: (agents, members) each, rows filled up."""
        if self._before is None:
            return {}
        most = max(map(len, self._members.values()))
        held = np.zeros((3, len(self._members), most))
        for row, (agent, of) in enumerate(self.ratings.items()):
            for place, (k, rating) in enumerate(sorted(of.items())):
                held[:, row, place] = rating.reputation, rating.score, self._given[agent][k]
        names = ("reputations", "scores", "given")
        tables = {PREFIX + name: torch.from_numpy(t) for name, t in zip(names, held, strict=True)}
        return {**tables, f"{PREFIX}before": torch.from_numpy(self._before)}

    def _restore(self, held: Mapping[str, Tensor]) -> None:
        tables = {name.removeprefix(PREFIX): tensor.numpy() for name, tensor in held.items()}
        self._before = tables.pop("before")
        for row, (agent, members) in enumerate(self._members.items()):
            found = {name: tables[name][row, : len(members)].tolist() for name in tables}
            reputations = dict(zip(members, found["reputations"], strict=True))
            scores = dict(zip(members, found["scores"], strict=True))
            given = dict(zip(members, found["given"], strict=True))
            earned = self._barter.earned(reputations, self.groups)
            self.ratings[agent] = {k: Rating(reputations[k], scores[k], earned[k]) for k in members}
            self._given[agent] = {k: int(count) for k, count in given.items()}

    def _novelty(self, t: int, agent: str, now: Floats) -> float:
        cluster, row = self._cluster, self._cluster.index(agent)
        if self._before is None:
            return 1.0
        traces, models, starts = self._before
        heard = sorted(cluster.round_weights.of(t - 1).taken[agent])
        rows, given = [cluster.index(k) for k in heard], [self._given[k][agent] for k in heard]
        shown = ways(starts[row], models[rows], given, self.groups.count)
        return novelty(now[row], [*traces[rows], *shown])

    def _scores(
        self, t: int, agent: str, now: Floats, new: Mapping[str, float]
    ) -> dict[str, float]:
        cluster = self._cluster
        heard = sorted((agent, *cluster.round_weights.of(t).taken[agent]))
        traces = {k: now[cluster.index(k)] for k in heard}
        reputations = {k: self.ratings[agent][k].reputation for k in heard}
        return scores_of(agent, reputations, traces, new)

    def _traded(self, t: int, given: Mapping[str, Mapping[str, int]]) -> TradedMixing:
        cluster, whole = self._cluster, self._mixing.of(t)
        taken = cluster.round_weights.of(t).taken
        traded = {a: {k: min(given[a][k], given[k][a]) for k in row} for a, row in taken.items()}
        mixed = {a: sections(a, row, traded[a], self.groups) for a, row in taken.items()}
        ends = sorted({high for found in mixed.values() for _, high, _ in found})
        made = []
        for low, high in pairwise([0, *ends]):
            rows = {
                agent: next(weights for _, end, weights in found if end >= high)
                for agent, found in mixed.items()
            }
            made.append((low, high, self._mixing.ordered(sparse_rows(cluster, rows), t)))
        return TradedMixing(
            whole.exact, whole.rounded, whole.mass, whole.rank, self.groups.size, made
        )
