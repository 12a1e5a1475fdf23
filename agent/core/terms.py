"""What a cluster file alone fixes: the terms of statements, bills, channels and audits."""

import numpy as np
from numpy.typing import NDArray

from candor.agent.algorithms.catalogue import limit_of, phases_of, rewards_of
from candor.agent.algorithms.steps import step_schedule
from candor.mechanisms.evidence.examiner import Precision, RunTerms, Terms
from candor.mechanisms.evidence.fresh import Fresh, values_of
from candor.mechanisms.evidence.ratings import Trade
from candor.mechanisms.evidence.sketch import TRACE_SIZE
from candor.mechanisms.ledger.audit import AuditFacts
from candor.mechanisms.ledger.channel import ChannelTerms
from candor.mechanisms.payments.bills import BillTerms, parse_rule
from candor.mechanisms.rewards.barter import Groups
from candor.network.codecs import CODECS, Codec
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.specs import ConfigurationError


def run_terms(cluster: Cluster) -> RunTerms:
    """What every proof of the run is judged by."""
    return RunTerms(
        run=bytes.fromhex(cluster.run),
        dim=cluster.task.parameters,
        sketch_size=cluster.payments.sketch_size,
        window_rounds=cluster.payments.window,
        publics=_publics(cluster),
        phases=phases_of(cluster.algorithm),
        weights=cluster.memberships.of,
        rounds=cluster.rounds.rounds,
        precision=_precision(cluster),
        trade=trade_of(cluster),
        limit=limit_of(cluster),
        fresh=_stated_fresh(cluster),
        sits_out=cluster.rounds.pace is not None,
    )


def fresh_of(cluster: Cluster) -> Fresh | None:
    """How fresh sketches are compared with sketches; None where there are none: where sketches are
    the vectors, models are given in part, or charged vectors are stepped from what neighbours may
    not have held.

    Raises:
        ConfigurationError: as `phases_of` does.
    """
    dim, size = cluster.task.parameters, cluster.payments.sketch_size
    whole = cluster.algorithm.rewards is None and phases_of(cluster.algorithm).chained
    return Fresh(values_of(dim), size) if dim > size and whole else None


def _stated_fresh(cluster: Cluster) -> Fresh | None:
    """The same of what is stated: nothing where nothing is billed."""
    return None if cluster.payments.rule.strip() == "none" else fresh_of(cluster)


def trade_of(cluster: Cluster) -> Trade | None:
    """How neighbours trade parts of their models; None where all give all.

    Raises:
        ConfigurationError: as `rewards_of` does.
    """
    barter = rewards_of(cluster)
    if barter is None:
        return None
    groups = Groups(min(cluster.task.parameters, cluster.payments.sketch_size))
    return Trade(barter, lambda a: tuple(sorted((a, *cluster.neighbours(a)))), groups)


def bill_terms(cluster: Cluster) -> BillTerms:
    """What every bill of the run is judged against.

    Raises:
        ConfigurationError: the cluster's payment rule is not known here.
    """
    trace_size = min(cluster.task.parameters, cluster.payments.sketch_size, TRACE_SIZE)
    rounds = cluster.payments.window
    return BillTerms(
        run=bytes.fromhex(cluster.run),
        window_rounds=cluster.payments.window,
        trace_size=trace_size,
        publics=_publics(cluster),
        neighbours=cluster.memberships.neighbours(cluster.after + 1),
        earlier=lambda window: cluster.memberships.neighbours(1 + window * rounds),
        payments=parse_rule(cluster.payments.rule),
        fresh=_stated_fresh(cluster),
        takes=lambda t, taker, giver: (
            # A claim of somebody else's neighbour may name any round.
            t <= cluster.rounds.rounds and giver in cluster.memberships.of(t).taken[taker]
        ),
    )


def audit_facts(cluster: Cluster) -> AuditFacts:
    """What exports of this run are judged against.

    Raises:
        ConfigurationError: the cluster's payment rule is not known here.
    """
    return AuditFacts(
        run_id=cluster.run_id,
        credit_limit=cluster.payments.credit_limit,
        edges=cluster.memberships.edges,
        bills=bill_terms(cluster),
    )


def evidence_terms(cluster: Cluster, initial: NDArray[np.float32]) -> Terms:
    """What every statement of the run is judged against."""
    algorithm = cluster.algorithm
    return Terms(
        run=bytes.fromhex(cluster.run),
        dim=cluster.task.parameters,
        sketch_size=cluster.payments.sketch_size,
        window_rounds=cluster.payments.window,
        publics=_publics(cluster),
        weights=cluster.memberships.of,
        step_size=step_schedule(algorithm.step_size, algorithm.step_decay),
        initial=initial,
        rounds=cluster.rounds.rounds,
        phases=phases_of(algorithm),
        precision=_precision(cluster),
        trade=trade_of(cluster),
        limit=limit_of(cluster),
        fresh=_stated_fresh(cluster),
        sits_out=cluster.rounds.pace is not None,
    )


def channel_terms(cluster: Cluster, agent: str) -> dict[str, ChannelTerms]:
    """The terms of an agent's channels, by neighbour."""
    return {peer: _terms(cluster, *sorted((agent, peer))) for peer in cluster.neighbours(agent)}


def all_channel_terms(cluster: Cluster, agent: str) -> dict[str, ChannelTerms]:
    """The same by whoever is or was a neighbour in the run."""
    peers = cluster.memberships.ever(agent)
    return {peer: _terms(cluster, *sorted((agent, peer))) for peer in peers}


def _publics(cluster: Cluster) -> dict[str, bytes]:
    """The keys of everyone who is or was in the run."""
    return {agent: bytes.fromhex(key) for agent, key in cluster.memberships.identities.items()}


def _terms(cluster: Cluster, lo: str, hi: str) -> ChannelTerms:
    publics = cluster.memberships.identities
    return ChannelTerms(
        lo=lo,
        hi=hi,
        public_lo=bytes.fromhex(publics[lo]),
        public_hi=bytes.fromhex(publics[hi]),
        run_id=cluster.run_id,
        fingerprint=bytes.fromhex(cluster.run),
        credit_limit=cluster.payments.credit_limit,
    )


def _precision(cluster: Cluster) -> Precision:
    codec = codec_of(cluster)
    return Precision(codec.name, codec.relative, codec.absolute)


def codec_of(cluster: Cluster) -> Codec:
    """How the run's vectors travel; raises ConfigurationError for an unknown codec."""
    name = cluster.rounds.codec
    if name not in CODECS:
        raise ConfigurationError(f"rounds.codec: {name!r} is unknown; known: {', '.join(CODECS)}")
    return CODECS[name]
