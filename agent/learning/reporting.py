"""How rows of gradients become reports: each by its agent's strategy, honestly by default."""

from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor

from candor.mechanisms.strategies.lies import Honest, Strategy, StrategyContext
from candor.mechanisms.strategies.specs import canonical_strategy, parse_strategy

REPORTS: Final = "reports"  # what was reported in the round before, kept where somebody lies


class Reporting:
    """Every agent's strategy, with the rows of one spec handed to one strategy at once.

    Args:
        seed: the run's.
        agents: the place in the cluster file of each row's agent.
        specs: strategies by row; the others are honest.
        neighbours: of each row those rows that are its neighbours, where strategies may overhear
            them, which only a simulation offers; else None.

    Raises:
        ConfigurationError: a strategy is unknown, or for simulations only.
    """

    def __init__(
        self,
        seed: int,
        agents: Sequence[int],
        specs: Mapping[int, str],
        neighbours: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self._seed = seed
        self._agents = agents
        self._neighbours = neighbours
        self._simulated = neighbours is not None
        rows: dict[str, list[int]] = {}
        for row, spec in specs.items():
            rows.setdefault(canonical_strategy(spec), []).append(row)
        made = [
            (parse_strategy(s, simulated=self._simulated), sorted(of)) for s, of in rows.items()
        ]
        self._groups: list[tuple[Strategy, list[int]]] = [
            (strategy, sorted(of)) for strategy, of in made if not isinstance(strategy, Honest)
        ]

    def by_agent(self) -> dict[int, Strategy]:
        """The strategies of the agents that have one, by place in the cluster file."""
        return {self._agents[row]: strategy for strategy, rows in self._groups for row in rows}

    def report(self, gradient: Tensor, t: int, before: Tensor | None) -> Tensor:
        """The reports (agents, dim) of round t; `before` are those of the round before."""
        if not self._groups:
            return gradient
        reports = gradient.clone()
        for strategy, rows in self._groups:
            own = None if before is None else before[rows]
            agents = tuple(self._agents[row] for row in rows)
            overheard = self._overheard(rows, before)
            context = StrategyContext(t, self._seed, agents, overheard, self._simulated, own)
            reports[rows] = strategy.report(gradient[rows], context)
        return reports

    @property
    def lies(self) -> bool:
        """Whether anyone has a strategy: only these read the reports of the round before, which
        are as large as the models."""
        return bool(self._groups)

    def _overheard(self, rows: list[int], before: Tensor | None) -> tuple[Tensor, ...] | None:
        if before is None or self._neighbours is None:
            return None
        return tuple(before[list(self._neighbours[row])] for row in rows)
