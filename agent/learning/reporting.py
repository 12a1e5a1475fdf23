"""How rows of gradients become reports, and rows of vectors what is sent: each by its agent's
strategy, honestly by default."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from candor.mechanisms.strategies.lies import Honest, Strategy, StrategyContext
from candor.mechanisms.strategies.sending import AltersVectors, KnownRun, SendContext
from candor.mechanisms.strategies.specs import attacks, canonical_strategy, marked, parse_strategy

REPORTS: Final = "reports"  # what was reported in the round before, kept where somebody lies
_KEPT: Final = "kept"  # of a `memory`: what strategies keep themselves


@dataclass(frozen=True, slots=True)
class _Group:
    """The rows of one strategy; `sends`, `overhears`, `omniscient`: what it does, and by what;
    `kept`: what it keeps, (rows, ...) each."""

    strategy: Strategy
    rows: list[int]
    sends: bool
    overhears: bool
    omniscient: bool
    kept: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, strategy: Strategy, rows: list[int]) -> "_Group":
        overhears, omniscient = (marked(strategy, mark) for mark in ("overhears", "omniscient"))
        return cls(strategy, rows, attacks(strategy), overhears, omniscient)


class Reporting:
    """Every agent's strategy, with the rows of one spec handed to one strategy at once.

    Args:
        seed: the run's.
        agents: the place in the cluster file of each row's agent.
        specs: strategies by row; the others are honest.
        neighbours: of each row those rows that are its neighbours, where strategies may know what
            they report, which only a simulation offers; else None.
        known: what everybody knows of the run, for attacks on what is sent.

    Raises:
        ConfigurationError: a strategy is unknown, or for simulations only.
    """

    def __init__(
        self,
        seed: int,
        agents: Sequence[int],
        specs: Mapping[int, str],
        neighbours: Sequence[Sequence[int]] | None = None,
        known: KnownRun | None = None,
    ) -> None:
        self._seed = seed
        self._agents = agents
        self._neighbours = neighbours
        self._simulated = neighbours is not None
        self._known = known or KnownRun()
        rows: dict[str, list[int]] = {}
        for row, spec in specs.items():
            rows.setdefault(canonical_strategy(spec), []).append(row)
        made = [
            (parse_strategy(s, simulated=self._simulated), sorted(of)) for s, of in rows.items()
        ]
        self._groups = [
            _Group.of(strategy, of) for strategy, of in made if not isinstance(strategy, Honest)
        ]
        lying = {row for group in self._groups for row in group.rows}
        self._honest = [row for row in range(len(agents)) if row not in lying]
        # By phase and row: what the agent sent in the last exchange, then what it heard there.
        self._heard: dict[int, dict[int, Tensor]] = {}
        self._last_phase: int | None = None

    def by_agent(self) -> dict[int, Strategy]:
        """The strategies of the agents that have one, by place in the cluster file."""
        return {self._agents[row]: group.strategy for group in self._groups for row in group.rows}

    def report(self, gradient: Tensor, t: int, before: Tensor | None) -> Tensor:
        """The reports (agents, dim) of round t; `before` are those of the round before."""
        if not self._groups:
            return gradient
        reports = gradient.clone()
        for group in self._groups:
            rows = group.rows
            own = None if before is None else before[rows]
            agents = tuple(self._agents[row] for row in rows)
            overheard = self._overheard(group, t, before)
            context = StrategyContext(
                t, self._seed, agents, overheard, self._simulated, own, self._known, group.kept
            )
            reports[rows] = group.strategy.report(gradient[rows], context)
        return reports

    def sent(self, v: Tensor, t: int, phase: int) -> tuple[Tensor, dict[int, Tensor]]:
        """What is sent in a phase of round t in place of v (agents, dim): v itself where nobody
        attacks. By row, of those who send each neighbour another vector, in order of id, these
        (neighbours, dim); theirs in the first answer is what the first neighbour gets."""
        groups = [group for group in self._groups if group.sends]
        if not groups:
            return v, {}
        sent, apart = v.clone(), {}
        honest = v[self._honest] if self._simulated and any(g.omniscient for g in groups) else None
        for group in groups:
            assert isinstance(group.strategy, AltersVectors)
            made = group.strategy.sent(v[group.rows], self._context(group, t, phase, honest))
            if made.ndim == 3:
                for row, each in zip(group.rows, made, strict=True):
                    if around := self._around(row):
                        apart[row] = each[: len(around)]
                made = made[:, 0]
            sent[group.rows] = made
        return sent, apart

    @property
    def overhears(self) -> tuple[int, ...]:
        """The rows whose strategies go by what neighbours sent before."""
        rows = (group.rows for group in self._groups if self._listens(group))
        return tuple(sorted(row for of in rows for row in of))

    def _listens(self, group: _Group) -> bool:
        return group.overhears and not (self._simulated and group.omniscient)

    def overheard(self, phase: int, heard: Mapping[int, Tensor]) -> None:
        """Take what rows of `overhears` heard in the exchange that is over: first the vector that
        the agent sent itself, then its neighbours', (1 + n, dim)."""
        self._heard[phase] = dict(heard)
        self._last_phase = phase

    @property
    def memory(self) -> dict[str, Tensor]:
        """What was overheard, and what strategies keep, by name, to go on with later."""
        last = self._last_phase
        heard = {
            f"{phase}.{row}.{int(phase == last)}": vectors
            for phase, rows in self._heard.items()
            for row, vectors in rows.items()
        }
        return heard | {
            f"{_KEPT}.{row}.{name}": value
            for group in self._groups
            for name, values in group.kept.items()
            for row, value in zip(group.rows, values, strict=True)
        }

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Go on with a `memory`."""
        kept = {name for name in memory if name.startswith(f"{_KEPT}.")}
        for group in self._groups:
            of = [f"{_KEPT}.{row}." for row in group.rows]
            names = [name.removeprefix(of[0]) for name in kept if name.startswith(of[0])]
            group.kept.update({n: torch.stack([memory[row + n] for row in of]) for n in names})
        for name in memory.keys() - kept:
            vectors = memory[name]
            phase, row, last = map(int, name.split("."))
            self._heard.setdefault(phase, {})[row] = vectors
            if last:
                self._last_phase = phase

    @property
    def lies(self) -> bool:
        """Whether anyone has a strategy: only these read the reports of the round before, which
        are as large as the models."""
        return bool(self._groups)

    def _context(self, group: _Group, t: int, phase: int, honest: Tensor | None) -> SendContext:
        rows, byzantine = group.rows, self._known.byzantine
        if self._simulated:
            byzantine = len(self._agents) - len(self._honest)
        heard = self._memory(rows, phase) if group.overhears else [None] * len(rows)
        before = self._last_phase
        just = heard if before in (None, phase) else self._memory(rows, before or 0)
        return SendContext(
            t,
            phase,
            self._seed,
            tuple(self._agents[row] for row in rows),
            tuple(self._around(row) for row in rows),
            honest if group.omniscient else None,
            [None if one is None else one[1:] for one in heard],
            byzantine,
            tuple(self._agents[row] for row in self._honest) if self._simulated else (),
            [None if one is None else one[1:] for one in just],
            [None if one is None else one[0] for one in heard],
            self._known,
        )

    def _memory(self, rows: Sequence[int], phase: int) -> list[Tensor | None]:
        kept = self._heard.get(phase, {})
        return [kept.get(row) for row in rows]

    def _around(self, row: int) -> tuple[int, ...]:
        """The places of a row's neighbours."""
        graph, agent = self._known.graph, self._agents[row]
        return graph[agent] if agent < len(graph) else ()

    def _overheard(self, group: _Group, t: int, before: Tensor | None) -> tuple[Tensor, ...] | None:
        """What neighbours reported in the round before t, of each row: as far as it shows to those
        who listen, in truth to others in a simulation."""
        if before is None:
            return None
        if not self._listens(group):
            around = self._neighbours
            return None if around is None else tuple(before[list(around[r])] for r in group.rows)
        heard = self._memory(group.rows, self._known.phases.charged)
        return tuple(
            before[row, None][:0]
            if vectors is None
            else self._known.injected(before[row], vectors.to(before.device), t - 1)
            for row, vectors in zip(group.rows, heard, strict=True)
        )


class SideBySide(Reporting):
    """The reports of several runs whose rows follow each other, of as many agents each; nobody in
    them alters what is sent. They are not gone on with later."""

    def __init__(self, runs: Sequence[Reporting]) -> None:
        self._runs = runs
        self._rows = len(runs[0]._agents)
        assert not any(group.sends for run in runs for group in run._groups)

    def _places(self) -> list[slice]:
        """The rows of each run."""
        starts = range(0, len(self._runs) * self._rows, self._rows)
        return [slice(start, start + self._rows) for start in starts]

    def by_agent(self) -> dict[int, Strategy]:
        """None: samples are as they are."""
        return {}

    def report(self, gradient: Tensor, t: int, before: Tensor | None) -> Tensor:
        """See `Reporting.report`."""
        each = [
            run.report(gradient[rows], t, None if before is None else before[rows])
            for run, rows in zip(self._runs, self._places(), strict=True)
        ]
        return torch.cat(each)

    def sent(self, v: Tensor, t: int, phase: int) -> tuple[Tensor, dict[int, Tensor]]:  # noqa: ARG002
        """What there is to send."""
        return v, {}

    @property
    def overhears(self) -> tuple[int, ...]:
        """See `Reporting.overhears`."""
        return tuple(
            rows.start + row
            for run, rows in zip(self._runs, self._places(), strict=True)
            for row in run.overhears
        )

    def overheard(self, phase: int, heard: Mapping[int, Tensor]) -> None:
        """See `Reporting.overheard`."""
        for number, run in enumerate(self._runs):
            own = {row: v for row, v in heard.items() if row // self._rows == number}
            run.overheard(phase, {row % self._rows: v for row, v in own.items()})

    @property
    def memory(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Nothing is remembered."""
        assert not memory

    @property
    def lies(self) -> bool:
        """Whether anyone has a strategy."""
        return any(run.lies for run in self._runs)
