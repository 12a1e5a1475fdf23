"""Algorithms by name: their text, and the exchanges of their rounds, which all agents must know.

Names and exchanges are here and the texts where they are imported from, since auditors of a run
need the exchanges without torch. A run's aggregator takes the place of the graph's mixing weights
in every exchange that an algorithm mixes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from candor.agent.algorithms.steps import (
    AGREEMENT_ROUNDS,
    LARGE_BATCH,
    SMALL_BATCH,
    SWITCH_PROBABILITY,
    given_or,
)
from candor.mechanisms.aggregation.rows import RowRule
from candor.mechanisms.aggregation.specs import (
    DEFAULT_AGGREGATOR,
    Aggregator,
    parse_aggregator,
)
from candor.mechanisms.agreement import coin
from candor.mechanisms.agreement.averaging import (
    AGREEMENT,
    FIRST,
    Averaging,
    first,
    least_to_agree,
)
from candor.mechanisms.agreement.coin import Coin
from candor.mechanisms.evidence.hidden import SIZE_LEAST
from candor.mechanisms.evidence.influence import WINDOW_LEAST as WINDOW_OF_LIMIT
from candor.mechanisms.evidence.influence import Limit
from candor.mechanisms.evidence.phases import MIXED_MODEL, How, Part, Phase, Phases
from candor.mechanisms.payments.rules import parse_rule
from candor.mechanisms.rewards.barter import NEIGHBOURS_MAX, WINDOW_LEAST, Barter, parse_rewards
from candor.topologies.cluster.file import POLICY_ALGORITHMS, AlgorithmSettings, Cluster
from candor.topologies.specs.specs import (
    ConfigurationError,
    is_import_path,
    load_object,
    parse_spec,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An algorithm: where its generator function is, and the exchanges of a round, or what makes
    them of the settings. `aggregates`: whether another aggregator may take the place of the graph's
    mixing weights; `aggregator`: the one where the run names none, and with its values where it
    names that one without any."""

    path: str
    phases: Phases | Callable[[AlgorithmSettings], Phases] = MIXED_MODEL
    aggregates: bool = True
    aggregator: str = DEFAULT_AGGREGATOR


TRACKING: Final = Phases(
    (
        Phase("tracker", (Part(0, before=True),), direct=True, charged=True),
        Phase("model", (Part(1, before=True), Part(0, how=How.OWN, stepped=True))),
    )
)
MEDIAN: Final = Phases(
    (
        Phase("gradient", (), direct=True, charged=True),
        Phase(
            "model", (Part(1, before=True), Part(0, how=How.AGGREGATE, rule="median", stepped=True))
        ),
    )
)


def _policy_phases(settings: AlgorithmSettings) -> Phases:
    """Of policy gradients: gradients, then policies once stepped, then policies averaged until they
    agree; of ByzPG policies once, all taking the first agent's."""
    exchanges = given_or(settings.agreement_rounds, AGREEMENT_ROUNDS)
    rules: dict[str, RowRule] = {}
    if settings.name == BYZ_PG:
        rule, exchanges, rules = FIRST, 1, {FIRST: first}
    elif aggregator_of(settings) is not None:
        rule, rules = AGREEMENT, {AGREEMENT: Averaging(settings.max_byzantine or 0)}
    else:
        rule, exchanges = "", given_or(settings.agreement_rounds, 1)  # one mean is all of them
    model = Part(exchanges, before=True, rule=rule)
    policy = Phase("policy", (model, Part(0, stepped=True)), free=True)
    later = [Phase(f"agreement {k}", (Part(k - 1, rule=rule),)) for k in range(2, exchanges + 1)]
    return Phases((Phase("gradient", (), direct=True, charged=True), policy, *later), rules)


_ROOM: Final = "candor.agent.algorithms"
_POLICY_GRADIENT: Final = f"{_ROOM}.decbyzpg:decentralized_policy_gradient"
DEC_BYZ_PG, BYZ_PG = POLICY_ALGORITHMS
# RFA as the paper takes it: the smoothing is large, and what aggregates starts alike at all agents.
_FROM_ZERO: Final = "rfa:floor=0.1,start=zero"

ALGORITHMS: Final[Mapping[str, Entry]] = MappingProxyType(
    {
        "decentralized-sgd": Entry(f"{_ROOM}.dsgd:decentralized_sgd"),
        "diloco": Entry(f"{_ROOM}.diloco:diloco"),
        "gradient-push": Entry(f"{_ROOM}.push:gradient_push", aggregates=False),
        "gradient-tracking": Entry(f"{_ROOM}.tracking:gradient_tracking", TRACKING),
        "median-sgd": Entry(f"{_ROOM}.median:median_sgd", MEDIAN),
        DEC_BYZ_PG: Entry(_POLICY_GRADIENT, _policy_phases, aggregator=_FROM_ZERO),
        BYZ_PG: Entry(_POLICY_GRADIENT, _policy_phases, aggregator=_FROM_ZERO),
    }
)


def entry_of(name: str) -> Entry:
    """The algorithm of a name, or of a user's own `module:Object` that has `phases` and is called
    as the others are.

    Raises:
        ConfigurationError: no algorithm has this name, or it is none.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if is_import_path(name):
        phases = getattr(load_object(name, "algorithm"), "phases", None)
        if isinstance(phases, Phases):
            return Entry(name, phases, aggregates=not phases.rows)
        raise ConfigurationError(f"algorithm {name!r}: has no `phases` of type Phases")
    known = ", ".join(ALGORITHMS)
    raise ConfigurationError(f"algorithm {name!r} is unknown; known: {known}")


def phases_of(settings: AlgorithmSettings) -> Phases:
    """The exchanges of a round, with the run's aggregator in the place of mixing weights.

    Raises:
        ConfigurationError: as `entry_of` and `aggregator_of` do.
    """
    entry, aggregator = entry_of(settings.name), aggregator_of(settings)
    phases = entry.phases if isinstance(entry.phases, Phases) else entry.phases(settings)
    return phases if aggregator is None or not entry.aggregates else _aggregated(phases, aggregator)


def aggregator_of(settings: AlgorithmSettings) -> Aggregator | None:
    """The run's aggregator; None where vectors are mixed by the graph's weights.

    Raises:
        ConfigurationError: it is unknown, or the algorithm takes none.
    """
    entry = entry_of(settings.name)
    spec = settings.aggregator
    if spec is None or spec == parse_spec(entry.aggregator).name:
        spec = entry.aggregator
    aggregator = parse_aggregator(spec, settings.max_byzantine or 0)
    if aggregator is not None and not entry.aggregates:
        raise ConfigurationError(
            f"algorithm {settings.name!r} takes no aggregator but {DEFAULT_AGGREGATOR}"
        )
    return aggregator


def rewards_of(cluster: Cluster) -> Barter | None:
    """By what rule neighbours trade parts of their models; None where all give all.

    Raises:
        ConfigurationError: the rule is unknown, or does not go with the run's other settings.
    """
    text = cluster.algorithm.rewards
    barter = parse_rewards(text)
    if barter is None:
        return None
    if phases_of(cluster.algorithm) != MIXED_MODEL:
        raise ConfigurationError(
            f"rewards {text}: only models that are mixed once a round by the graph's weights are "
            "traded; choose algorithm decentralized-sgd or diloco, without an --aggregator"
        )
    if cluster.round_weights.graph(1).is_directed():
        raise ConfigurationError(
            f"rewards {text}: neighbours give each other alike; choose a graph without directions"
        )
    if cluster.payments.window < WINDOW_LEAST:
        raise ConfigurationError(
            f"rewards {text}: nobody is rated in the first round of a window; use a window of "
            f"{WINDOW_LEAST} or more"
        )
    crowded = [a for a in cluster.ids if len(cluster.neighbours(a)) > NEIGHBOURS_MAX]
    if crowded:
        raise ConfigurationError(
            f"rewards {text}: {crowded[0]} has {len(cluster.neighbours(crowded[0]))} neighbours, "
            f"and the updates of more than {NEIGHBOURS_MAX} leave little that is new"
        )
    return barter


def limit_of(cluster: Cluster) -> Limit | None:
    """What bounds an agent's injections in a window; None where nothing does.

    Raises:
        ConfigurationError: the bound does not go with the run's other settings.
    """
    factor, window = cluster.algorithm.influence, cluster.payments.window
    if factor is None:
        return None
    if phases_of(cluster.algorithm) != MIXED_MODEL:
        why = (
            "only what is mixed once a round by the graph's weights is bounded; choose algorithm "
            "decentralized-sgd, diloco or gradient-push, without an --aggregator"
        )
    elif rewards_of(cluster) is not None:
        why = "what neighbours trade of models is not bounded; leave out --rewards"
    elif window < WINDOW_OF_LIMIT:
        why = f"in windows of one round nothing can be taken back; use {WINDOW_OF_LIMIT} or more"
    else:
        return Limit(factor, window)
    raise ConfigurationError(f"influence {factor:g}: {why}")


def check_breakdown(cluster: Cluster) -> None:
    """Refuse an aggregator below its breakdown point, for the graph of any round; and sketches so
    short that anything could be hidden from them, where rows follow from them; and rewards that do
    not go with the rest; and rounds that cannot be done again; and a bound that cannot be held; and
    rounds that cannot be sat out.

    Raises:
        ConfigurationError: naming an agent with too few neighbours for what is to be withstood, or
            the least size of sketches, or as `rewards_of` and `limit_of` do.
    """
    rewards_of(cluster)
    limit_of(cluster)
    _check_replay(cluster)
    _check_pace(cluster)
    aggregator = aggregator_of(cluster.algorithm)
    if aggregator is None:
        return
    size = cluster.payments.sketch_size
    if aggregator.row is not None and size < min(SIZE_LEAST, cluster.task.parameters):
        raise ConfigurationError(
            f"aggregator {aggregator.name}: its weights follow from sketches, and from sketches of "
            f"{size} values a vector may hide anything; use a sketch_size of {SIZE_LEAST} or more"
        )
    for agent in cluster.ids:
        aggregator.check(agent, len(cluster.neighbours(agent)))
    if cluster.algorithm.name in POLICY_ALGORITHMS:
        _check_agreement(cluster)


def _check_replay(cluster: Cluster) -> None:
    """Refuse to keep rounds that nobody could pick, or do again, and to show what is not kept."""
    payments = cluster.payments
    if payments.disclose is not None and payments.replay is None:
        raise ConfigurationError("disclose: what is shown must be kept; add --replay")
    if payments.disclose is not None and cluster.algorithm.name in POLICY_ALGORITHMS:
        raise ConfigurationError(
            "disclose: policies sample actions, which may fall otherwise on another machine; leave "
            "out --disclose"
        )
    if payments.bond is not None and payments.disclose is None:
        raise ConfigurationError("bond: only what is shown is proven false; add --disclose")
    if payments.replay is None:
        return
    if not parse_rule(cluster.payments.rule).settles:
        why = "the claims of a window pick its round, and without a payment rule none are made"
    elif cluster.algorithm.local_seconds is not None:
        why = "no two local phases of so many seconds are alike; count steps or epochs"
    elif parse_rewards(cluster.algorithm.rewards) is not None:
        why = "what neighbours trade of models is not kept; leave out --rewards"
    elif cluster.algorithm.influence is not None:
        why = "a report that was shortened is not what training gives; leave out --influence"
    else:
        return
    raise ConfigurationError(f"replay: {why}")


def _check_pace(cluster: Cluster) -> None:
    """Refuse to sit rounds out where what an agent goes on from cannot be an earlier round."""
    if cluster.rounds.pace is None:
        return
    algorithm = cluster.algorithm
    if phases_of(algorithm) != MIXED_MODEL:
        why = (
            "only what is mixed once a round by the graph's weights is gone on from later; choose "
            "algorithm decentralized-sgd or diloco, without an --aggregator"
        )
    elif cluster.round_weights.push_sum:
        why = "under push-sum masses move every round; choose a graph without directions"
    elif rewards_of(cluster) is not None:
        why = "who sits rounds out is not rated in them; leave out --rewards"
    elif algorithm.influence is not None:
        why = "a window's sum needs each of its rounds; leave out --influence"
    elif cluster.payments.replay is not None:
        why = "no kept round tells which one is gone on from; leave out --replay"
    else:
        return
    raise ConfigurationError(f"pace {cluster.rounds.pace}: {why}")


def _check_agreement(cluster: Cluster) -> None:
    """Refuse graphs on which policies do not come to agree."""
    settings, others = cluster.algorithm, len(cluster.ids) - 1
    lonely = [agent for agent in cluster.ids if len(cluster.neighbours(agent)) < others]
    if settings.name == BYZ_PG and lonely:
        raise ConfigurationError(
            f"algorithm {BYZ_PG}: {min(cluster.ids)} hands its policy to all, and {lonely[0]} is "
            "not everyone's neighbour; choose --topology complete"
        )
    least = least_to_agree(settings.max_byzantine or 0)
    for agent in cluster.ids if settings.name == DEC_BYZ_PG else ():
        if len(cluster.neighbours(agent)) + 1 < least:
            raise ConfigurationError(
                f"algorithm {DEC_BYZ_PG}: with {settings.max_byzantine} Byzantine neighbours "
                f"policies are sure to come closer among {least} agents or more, and {agent} has "
                f"{len(cluster.neighbours(agent))} neighbours; choose a denser graph or a smaller "
                "--max-byzantine"
            )


def batches_of(settings: AlgorithmSettings) -> tuple[int, int]:
    """Trajectories of an agent in a round with a large batch, and with a small one."""
    return given_or(settings.large_batch, LARGE_BATCH), given_or(settings.small_batch, SMALL_BATCH)


def coin_of(cluster: Cluster) -> Coin:
    """The run's common coin, which policy gradients switch by."""
    probability = given_or(cluster.algorithm.switch_probability, SWITCH_PROBABILITY)
    return coin.coin_of(cluster.seed.to_bytes(8, "big"), probability)


def _aggregated(phases: Phases, aggregator: Aggregator) -> Phases:
    """The same exchanges where an aggregator takes the place of mixing weights."""
    how = How.MIXED if aggregator.row is not None else How.AGGREGATE

    def changed(part: Part) -> Part:
        mixes = part.how is How.MIXED and not part.rule
        return replace(part, how=how, rule=aggregator.name) if mixes else part

    made = tuple(replace(p, parts=tuple(map(changed, p.parts))) for p in phases.phases)
    if any(sum(part.how is How.AGGREGATE for part in phase.parts) > 1 for phase in made):
        raise ConfigurationError(
            f"aggregator {aggregator.name}: this algorithm attests an aggregate of its own; choose "
            "one that neighbours can check"
        )
    rows = {} if aggregator.row is None else {aggregator.name: aggregator.row}
    return Phases(made, {**phases.rows, **rows})
