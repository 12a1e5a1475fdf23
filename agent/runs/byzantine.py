"""Which agents of a run attack, where only their number is given: drawn by the run's seed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import comb
from typing import Final

import numpy as np

from candor.agent.runs.plan import Plan, graph_of
from candor.topologies.specs.specs import ConfigurationError

DOMAIN: Final = 0x62797A61  # keeps this stream apart from others drawn from the same seed
DRAWS: Final = 1000
TRIED_MAX: Final = 100_000  # sets, before the search for one gives up


def with_byzantine(plan: Plan, asked: str) -> Plan:
    """The plan with attackers, as many and of the kind that COUNT:ATTACK says.

    They are drawn by the plan's seed among the agents without a strategy, but never the first one
    by id, so that no honest agent has more of them as neighbours than `max_byzantine`. If that is
    not given, it becomes the most that an honest agent has.

    Raises:
        ConfigurationError: another form, too many, or no such set of agents is found.
    """
    count, attack = parse_byzantine(asked)
    schedule, ids = graph_of(plan)
    graph = schedule.neighbours()
    around = {agent: frozenset(graph[agent]) for agent in ids}
    free = sorted(set(ids) - set(plan.strategies))[
        1 if sorted(ids)[0] not in plan.strategies else 0 :
    ]
    if count > len(free):
        raise ConfigurationError(
            f"--byzantine: {count} are too many, {len(free)} of {len(ids)} agents can be drawn: "
            "not the first one, nor those that have a --strategy"
        )
    limit = plan.algorithm.max_byzantine
    chosen = drawn(around, free, count, limit, plan.seed)
    if chosen is None:
        raise ConfigurationError(
            f"--byzantine: found no {count} agents of {plan.topology} that leave every "
            f"honest one with at most {limit} Byzantine neighbours; raise --max-byzantine, or take "
            "a sparser graph or fewer attackers"
        )
    if limit is None:
        limit = most_around(around, chosen)
    return replace(
        plan,
        strategies={**plan.strategies, **dict.fromkeys(chosen, attack)},
        byzantine=tuple(sorted({*plan.byzantine, *chosen})),
        algorithm=plan.algorithm.model_copy(update={"max_byzantine": limit}),
    )


def parse_byzantine(asked: str) -> tuple[int, str]:
    """How many attack, and by which strategy.

    Raises:
        ConfigurationError: it is not written as COUNT:ATTACK.
    """
    count, colon, attack = asked.partition(":")
    if not (colon and attack and count.isascii() and count.isdecimal() and 0 < int(count) < 10**6):
        raise ConfigurationError(
            f"--byzantine {asked!r}: write COUNT:ATTACK, such as 3:avg-zero or 2:ipm:0.5"
        )
    return int(count), attack


def most_around(around: Mapping[str, frozenset[str]], chosen: Sequence[str]) -> int:
    """The most of the chosen that one of the others has as neighbours."""
    among = frozenset(chosen)
    return max(
        (len(near & among) for agent, near in around.items() if agent not in among), default=0
    )


def drawn(
    around: Mapping[str, frozenset[str]],
    free: Sequence[str],
    count: int,
    limit: int | None,
    seed: int,
) -> list[str] | None:
    """`count` of the free agents that leave none of the others with more than `limit` of them
    around it; None where there is no such set, or none is found among so many."""
    random = np.random.default_rng([seed, DOMAIN])
    bound = count if limit is None else limit
    for _ in range(DRAWS):
        chosen: list[str] = []
        for index in random.permutation(len(free)):
            more = [*chosen, free[index]]
            if most_around(around, more) <= bound:
                chosen = more
            if len(chosen) == count:
                return sorted(chosen)
    if comb(len(free), count) > TRIED_MAX:
        return None
    sets = (list(one) for one in combinations(free, count))
    return next((one for one in sets if most_around(around, one) <= bound), None)
