"""Puts an agent together from its parts: cluster file, identity, store and initial model.

Used by every runtime that runs the real core; drivers differ in clock, sockets and disk only.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.algorithms import step_schedule
from agent.book import WINDOWS_KEPT, EvidenceBook
from agent.core import RESERVED_KEY, AgentCore, CoreSettings
from agent.neighbour import Neighbour
from agent.settlement import Edge, Settlement, claim_key
from agent.store import Store
from mechanisms.evidence import Examiner, Terms
from mechanisms.ledger import Channel, ChannelTerms
from mechanisms.payments import parse_rule
from mechanisms.sketch import window_of
from network.identity import Identity, issue
from network.rounds import SLOTS_PER_NEIGHBOUR, BufferPool, Inbox
from network.session import Party, Session
from topologies.canonical import MalformedError
from topologies.cluster import Cluster
from topologies.specs import ConfigurationError

# A neighbour may wait for two deadlines itself before it gets to settle.
SETTLE_DEADLINES: Final = 4


def evidence_terms(cluster: Cluster, initial: NDArray[np.float32]) -> Terms:
    """What every statement of the run is judged against."""
    matrix, ids = cluster.mixing_matrix(), cluster.ids
    mixing = {
        agent: {k: float(matrix[cluster.index(agent), cluster.index(k)]) for k in neighbours}
        for agent, neighbours in ((agent, cluster.neighbours(agent)) for agent in ids)
    }
    algorithm = cluster.algorithm
    return Terms(
        run=bytes.fromhex(cluster.fingerprint),
        dim=cluster.task.parameters,
        sketch_size=cluster.payments.sketch_size,
        window_rounds=cluster.payments.window,
        publics={entry.id: bytes.fromhex(entry.identity) for entry in cluster.agents},
        mixing=mixing,
        step_size=step_schedule(algorithm.step_size, algorithm.step_decay),
        initial=initial,
        rounds=cluster.rounds.rounds,
    )


def channel_terms(cluster: Cluster, agent: str) -> dict[str, ChannelTerms]:
    """The terms of an agent's channels, by neighbour."""
    return {peer: _terms(cluster, *sorted((agent, peer))) for peer in cluster.neighbours(agent)}


def _terms(cluster: Cluster, lo: str, hi: str) -> ChannelTerms:
    return ChannelTerms(
        lo=lo,
        hi=hi,
        public_lo=bytes.fromhex(cluster.agent(lo).identity),
        public_hi=bytes.fromhex(cluster.agent(hi).identity),
        run_id=cluster.run_id,
        fingerprint=bytes.fromhex(cluster.fingerprint),
        credit_limit=cluster.payments.credit_limit,
    )


def assemble(
    cluster: Cluster,
    agent: str,
    identity: Identity,
    store: Store,
    initial: NDArray[np.float32],
    *,
    nonce: bytes,
    chunk_bytes: int,
    link_reason: Callable[[str], str | None],
    snapshot: bytes | None = None,
) -> AgentCore:
    """The core of `agent`, as the store left it; `nonce` (16 random bytes) is this life's own.

    `snapshot` is what the last `Remember` of an earlier life left; raises MalformedError when it or
    the store is damaged.
    """
    terms = evidence_terms(cluster, initial)
    examiner = Examiner(terms)
    book = EvidenceBook(agent, examiner)
    peers = cluster.neighbours(agent)
    pool = BufferPool(terms.dim, spare_max=(SLOTS_PER_NEIGHBOUR + 1) * max(1, len(peers)))
    key = identity.signing_key
    own = _party(cluster, agent)
    certificate = issue(
        key, run_id=cluster.run_id, curve=own.curve, endpoint=own.endpoint, serial=1
    ).encode()
    neighbours = {
        peer: Neighbour(
            peer,
            Session(
                key=key,
                own=own,
                peer=_party(cluster, peer),
                run_id=cluster.run_id,
                fingerprint=cluster.fingerprint,
                certificate=certificate,
                nonce=nonce,
            ),
            Inbox(pool),
        )
        for peer in peers
    }
    edges = {
        peer: Edge(
            Channel(channel, key, store.channel_state(channel.channel_id)),
            terms.publics[peer],
        )
        for peer, channel in channel_terms(cluster, agent).items()
    }
    reserved = store.value(RESERVED_KEY) or b"0"
    if not reserved.isdigit():
        raise MalformedError("the stored reserve is not a number")
    reserved_round = int(reserved)
    settlement = Settlement(
        key,
        book,
        parse_rule(cluster.payments.rule),
        edges,
        overdue_s=SETTLE_DEADLINES * cluster.rounds.deadline_s,
    )
    _restore_claims(settlement, store, window_of(reserved_round, terms.window_rounds))
    if snapshot and reserved_round == 0:
        raise ConfigurationError(
            "the ledger database is new, but window.bin is of an earlier life of this agent; "
            "bring the database back, or start with a new data directory"
        )
    taken_over = settlement.take_over(snapshot) if snapshot else ()
    settings = CoreSettings(
        agent=agent,
        mixing=terms.mixing[agent],
        endpoints={peer: cluster.agent(peer).endpoint for peer in peers},
        rounds=cluster.rounds.rounds,
        deadline_s=cluster.rounds.deadline_s,
        start_deadline_s=cluster.rounds.start_deadline_s,
        chunk_bytes=chunk_bytes,
        reserved_round=reserved_round,
        window_rounds=terms.window_rounds,
    )
    return AgentCore(
        settings,
        key=key,
        examiner=examiner,
        neighbours=neighbours,
        pool=pool,
        settlement=settlement,
        book=book,
        link_reason=link_reason,
        taken_over=taken_over,
    )


def _party(cluster: Cluster, agent: str) -> Party:
    entry = cluster.agent(agent)
    return Party(agent, bytes.fromhex(entry.identity), entry.curve, entry.endpoint)


def _restore_claims(settlement: Settlement, store: Store, last: int) -> None:
    """The claims of an earlier life that a neighbour may not have settled yet."""
    for window in range(max(0, last - WINDOWS_KEPT + 1), last + 1):
        data = store.value(claim_key(window))
        if data is not None:
            settlement.restore(window, data)
