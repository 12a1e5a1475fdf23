"""The factor with which an attack does most damage, by a line search against the run's aggregator.

Damage is how far one neighbourhood's aggregate lies from the mean of its honest vectors, as in
Shejwalkar & Houmansadr (NDSS 2021, section IV) and in the ByzFL library; the attacker knows the
run's aggregator and graph from the cluster file.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from candor.mechanisms.strategies.sending import SendContext

FACTORS: Final = tuple(2.0**power for power in range(-4, 7))  # 1/16 to 64
HALVINGS: Final = 3
"""Of the step between two factors, in the exponent; finer ones change the damage by less than the
honest vectors do from round to round."""


def worst_factor(
    made: Callable[[float], Tensor], others: Tensor, row: int, context: SendContext
) -> float:
    """The factor a for which `made(a)` (dim,), sent by every attacker of a neighbourhood, does most
    damage there: the best of `FACTORS`, made finer around that one. The first one wins ties.

    Args:
        made: the vector of a factor.
        others: what is known of honest vectors, (n, dim).
        row: whose neighbourhood stands in where honest agents' ones are not known.
        context: the run and the exchange.
    """
    honest, own, attackers = neighbourhood(others, row, context)
    target = torch.cat([honest, own[None]]).mean(dim=0)

    def damage(factor: float) -> float:
        bad = made(factor).expand(attackers, -1)
        far = context.run.combine(torch.cat([honest, bad]), own) - target
        length = float(far.double().norm())
        return length if length == length else -1.0  # nan: nothing that an agent would take

    return line_search(damage)


def line_search(damage: Callable[[float], float]) -> float:
    """The factor of most damage, see `worst_factor`."""
    found = {factor: damage(factor) for factor in FACTORS}
    best = max(found, key=found.__getitem__)
    step = 2.0
    for _ in range(HALVINGS):
        step = step**0.5
        for factor in (best / step, best * step):
            found[factor] = damage(factor)
        best = max(found, key=found.__getitem__)
    return best


def neighbourhood(others: Tensor, row: int, context: SendContext) -> tuple[Tensor, Tensor, int]:
    """The honest neighbours' vectors (n, dim) of an honest agent, its own (dim,), and how many
    attackers it hears: of the honest agent with most of them, where honest vectors are known; else
    as if the attacker itself were that agent."""
    graph, places = context.run.graph, context.honest_agents
    if context.honest is not None and others is context.honest and graph:
        row_of = {agent: index for index, agent in enumerate(places)}
        victim = max(places, key=lambda agent: sum(k not in row_of for k in graph[agent]))
        near = [row_of[k] for k in graph[victim] if k in row_of]
        return others[near], others[row_of[victim]], max(1, len(graph[victim]) - len(near))
    attackers = max(1, context.run.byzantine)
    honest = others[: max(1, len(context.neighbours[row]) - attackers)]
    return honest, others.mean(dim=0), attackers
