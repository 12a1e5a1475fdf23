"""What an agent makes: the vectors that it states, from its gradients and from what came.

Its loss is 0.05 ||x||^2, so that a round of local training is one line.
"""

import numpy as np

from tests.independent import barter, graphs, influence, rounds
from tests.independent.phases import MEDIAN, OWN, Part, decoded, encoded
from tests.independent.rounds import ATTESTED, DERIVED, LISTED, Formed
from tests.independent.wire import Cluster


class Training:
    """The vectors of agent `own` from x_1 on."""

    def __init__(self, cluster: Cluster, own: str, initial: np.ndarray) -> None:
        self._cluster, self._own = cluster, own
        self._initial = self._x = initial
        self._gradient = np.zeros_like(initial)  # of the round before
        self._base = self._moved = np.zeros_like(initial)  # where a round starts; in this window
        self._vectors: dict[int, np.ndarray] = {}  # by phase: the last one, as stated
        self._came: dict[int, dict[str, np.ndarray]] = {}  # by phase: by agent, its own among them
        self._mixes: dict[int, tuple[Formed, np.ndarray]] = {}  # by phase: the last row, its result

    def make(self, t: int, phase: int) -> tuple[list[Formed], np.ndarray, bytes]:
        """How the parts came about, the vector as it is decoded, and the payload."""
        cluster = self._cluster
        step_size = np.float32(rounds.step_size_of(cluster, t, phase, self._own))
        formed, y = [], np.zeros_like(self._initial)
        for part in cluster.phases[phase].parts:
            how, vector = self._part(t, part)
            formed.append(how)
            y = y - step_size * vector if part.stepped else y + vector
        self._base = y
        if phase == cluster.charged:
            y = y - step_size * self._learned()
        data = encoded(cluster.codec, y)
        self._vectors[phase] = decoded(cluster.codec, data)
        return formed, self._vectors[phase], data

    def shorten(self, t: int, kept: float) -> tuple[np.ndarray, bytes]:
        """The vector of round t again, and the payload, with such a share of what was injected in
        the window."""
        cluster, y = self._cluster, self._vectors[0].astype(np.float64)
        mass = graphs.masses(cluster, t)[self._own]
        before = self._moved if influence.place_of(cluster, t) > 1 else np.zeros_like(y)
        if kept < 1.0:
            after = before + mass * (self._base - y)
            y = self._base - (kept * after - before) / mass
        data = encoded(cluster.codec, y.astype(np.float32))
        self._vectors[0] = decoded(cluster.codec, data)
        self._moved = before + mass * (self._base - self._vectors[0])
        return self._vectors[0], data

    def mix(
        self,
        t: int,
        phase: int,
        payloads: dict[str, np.ndarray],
        said: dict[str, rounds.Statement],
    ) -> None:
        """Combine the own vector with those of the neighbours that were heard; `said` is what they
        and the agent itself stated of them."""
        came = payloads | {self._own: self._vectors[phase]}
        rule, attested = self._combines(phase)
        if attested:
            median = np.median(list(came.values()), axis=0).astype(np.float32)
            self._came[phase], self._mixes[phase] = came, ([], median)
            if phase == self._cluster.model:
                self._x = median
            return
        if rule:
            heard = {one: said[one] for one in came}
            row = rounds.derived_row(self._cluster, self._own, rule, heard)
        else:
            row = rounds.mixing_row(self._cluster, self._own, t, list(payloads))
        total = np.zeros(self._cluster.dim)
        if barter.rule_of(self._cluster):
            total = self._traded(t, came, said)
        else:
            for agent in sorted(came):
                total += row[agent] * came[agent].astype(np.float64)
        weights = [[agent, row[agent]] for agent in sorted(row)]
        listed = [DERIVED, rule, weights] if rule else [LISTED, weights]
        self._came[phase], self._mixes[phase] = came, (listed, total.astype(np.float32))
        if phase == self._cluster.model:
            self._x = self._mixes[phase][1]

    def _traded(
        self, t: int, came: dict[str, np.ndarray], said: dict[str, rounds.Statement]
    ) -> np.ndarray:
        """What is mixed of those parts that both ends give."""
        cluster, own = self._cluster, said[self._own]
        shared = {
            agent: min(own.given(agent), said[agent].given(self._own))
            for agent in came
            if agent != self._own
        }
        total = np.zeros(cluster.dim)
        for group, (_, row) in enumerate(barter.sections(cluster, t, self._own, shared)):
            there = barter.held(cluster, group, group + 1)
            for agent in sorted(row):
                total[there] += row[agent] * came[agent][there].astype(np.float64)
        return total

    def derives(self, phase: int) -> bool:
        """Whether vectors of a phase are mixed by a row that follows from sketches."""
        return bool(self._combines(phase)[0])

    def vector(self, phase: int) -> np.ndarray:
        """What was last stated in a phase."""
        return self._vectors[phase]

    def _combines(self, phase: int) -> tuple[str, bool]:
        """The rule that rows over a phase derive from, and whether its aggregate is attested."""
        parts = [part for one in self._cluster.phases for part in one.parts if part.phase == phase]
        attested = any(part.made == MEDIAN and part.before for part in parts)
        return next((part.rule for part in parts if part.rule), ""), attested

    def _part(self, t: int, part: Part) -> tuple[Formed, np.ndarray]:
        if part.made == OWN:
            return [LISTED, [[self._own, 1.0]]], self._vectors[part.phase]
        if part.made == MEDIAN and t > part.before:
            came = self._came[part.phase]
            median = np.median(list(came.values()), axis=0).astype(np.float32)
            shown = rounds.sketch(self._cluster, self._cluster.window_of(t), median)
            return [ATTESTED, MEDIAN, sorted(set(came) - {self._own}), shown], median
        if t > part.before:
            return self._mixes[part.phase]
        if part.phase == self._cluster.model:
            return [LISTED, [[self._own, 1.0]]], self._initial
        return [LISTED, []], np.zeros_like(self._initial)

    def _learned(self) -> np.ndarray:
        """What is injected in a round: the gradient, or how it changed."""
        before, self._gradient = self._gradient, np.float32(0.1) * self._x
        tracks = self._cluster.file["algorithm"]["name"] == "gradient-tracking"
        return self._gradient - before if tracks else self._gradient
