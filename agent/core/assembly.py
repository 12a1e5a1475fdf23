"""Puts an agent together from its parts: cluster file, identity, store and initial model.

Used by every runtime that runs the real core; drivers differ in clock, sockets and disk only.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from candor.agent.core.agent import RESERVED_KEY, AgentCore, CoreSettings
from candor.agent.core.disclosures import Disclosures, shower_key
from candor.agent.core.earlier import Checkpoint, Earlier, Snapshot, earlier
from candor.agent.core.neighbour import Neighbour
from candor.agent.core.settlement.edge import Edge
from candor.agent.core.settlement.evidence_book import WINDOWS_KEPT, EvidenceBook
from candor.agent.core.settlement.referee import bill_key, claim_key
from candor.agent.core.settlement.settlement import Settlement
from candor.agent.core.succession import LEFT_KEY, NEXT_KEY, Succession
from candor.agent.core.terms import bill_terms, channel_terms, codec_of, evidence_terms
from candor.mechanisms.evidence.claims import claim_bytes_max
from candor.mechanisms.evidence.examiner import Examiner
from candor.mechanisms.evidence.sketch import window_of
from candor.mechanisms.ledger.channel import Channel, ChannelState
from candor.mechanisms.payments.bills import BUNDLE_BYTES_MAX, BillTerms
from candor.network.identity import Identity, issue
from candor.network.session import Party, Session
from candor.network.slots import SLOTS_PER_NEIGHBOUR, BufferPool, Inbox
from candor.topologies.cluster.file import Cluster
from candor.topologies.encoding.canonical import MalformedError
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.specs.specs import ConfigurationError

# A neighbour may end its window two deadlines after us,
BILL_DEADLINES: Final = 2
# and wait as long itself for a claim before it gets to bill and settle.
SETTLE_DEADLINES: Final = 6
# A round in a window is shown when there is nothing more urgent.
SHOW_DEADLINES: Final = 6
BUNDLE_SLACK_BYTES: Final = 4096  # the bill itself and its framing


class Stored(Protocol):
    """What an earlier life left, as `agent.daemon.store.Store` answers it."""

    def value(self, key: str) -> bytes | None:
        """A value as last put."""
        ...

    def channel_state(self, channel_id: bytes) -> ChannelState:
        """What a channel is rebuilt from."""
        ...


def assemble(
    cluster: Cluster,
    agent: str,
    identity: Identity,
    store: Stored,
    initial: NDArray[np.float32],
    *,
    nonce: bytes,
    chunk_bytes: int,
    link_reason: Callable[[str], str | None],
    snapshot: bytes | None = None,
    newest: bool = False,
    checkpoint: Checkpoint | None = None,
    dials: Mapping[str, str] = MappingProxyType({}),
) -> AgentCore:
    """The core of `agent`, as the store left it; `nonce` (16 random bytes) is this life's own;
    `dials`: where some neighbours are dialled, if not where the cluster file says.

    `snapshot` is what a `Remember` of an earlier life left, the last one if it is the `newest`;
    then that life is gone on with, by the `checkpoint` of its training if there is one. Raises
    MalformedError when the snapshot or the store is damaged.
    """
    terms = evidence_terms(cluster, initial)
    bills = bill_terms(cluster)
    _check_bundles(bills, agent)
    examiner, codec = Examiner(terms), codec_of(cluster)
    book = EvidenceBook(agent, examiner)
    peers = cluster.neighbours(agent)
    # What fresh sketches are held against may be read for as long as an update is judged.
    spare = 0 if terms.fresh is not None else (SLOTS_PER_NEIGHBOUR + 1) * max(1, len(peers))
    pool = BufferPool(terms.dim, spare_max=spare)
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
                revision=cluster.revision.number if cluster.revision else 0,
            ),
            Inbox(pool, codec.payload_bytes(terms.dim)),
            terms.phases,
            answers=terms.sits_out,
        )
        for peer in peers
    }
    edges = {
        peer: Edge(
            peer,
            Channel(channel, key, store.channel_state(channel.channel_id)),
            terms.publics[peer],
            first=window_of(cluster.memberships.since(agent, peer), terms.window_rounds),
        )
        for peer, channel in channel_terms(cluster, agent).items()
    }
    reserved_round = _reserved(store)
    with _our_own("window.bin"):
        left = Snapshot.decode(snapshot) if snapshot else Snapshot(b"", ())
        under_way = (
            (book.window_of_snapshot(left.seen) + 1) * terms.window_rounds if left.seen else 0
        )
    # A reserve is stored before what it is for is stated: this database is older than the snapshot.
    newest = newest and reserved_round >= under_way
    reserved_round = max(reserved_round, under_way)
    settlement = Settlement(
        key,
        book,
        bills,
        edges,
        patience_s=BILL_DEADLINES * cluster.rounds.deadline_s,
        overdue_s=SETTLE_DEADLINES * cluster.rounds.deadline_s,
        resting=reserved_round // terms.window_rounds,
    )
    strayed = _strayed(store, terms.window_rounds)
    last = window_of(reserved_round, terms.window_rounds)
    _restore_claims(settlement, store, last, strayed)
    before = None
    with _our_own("window.bin"):
        if left.seen and book.window_of_snapshot(left.seen) not in strayed:
            before = _gone_on_with(
                settlement, book, left, checkpoint, key, newest=newest, after=cluster.after
            )
    settings = CoreSettings(
        agent=agent,
        endpoints={p: ", ".join(cluster.agent(p).endpoints) for p in peers} | dict(dials),
        rounds=cluster.rounds.rounds,
        deadline_s=cluster.rounds.deadline_s,
        start_deadline_s=cluster.rounds.start_deadline_s,
        chunk_bytes=chunk_bytes,
        reserved_round=reserved_round,
        window_rounds=terms.window_rounds,
        after=cluster.after,
        newcomers=_newcomers(cluster),
    )
    return AgentCore(
        settings,
        key=key,
        examiner=examiner,
        neighbours=neighbours,
        pool=pool,
        settlement=settlement,
        book=book,
        codec=codec,
        link_reason=link_reason,
        disclosures=Disclosures(
            agent,
            terms,
            {peer: len(cluster.neighbours(peer)) for peer in peers},
            shows=cluster.payments.disclose is not None,
            patience_s=SHOW_DEADLINES * cluster.rounds.deadline_s,
            stored={
                peer: held for peer in peers if (held := store.value(shower_key(peer))) is not None
            },
        ),
        memories=left.memories,
        earlier=before,
        succession=Succession(cluster, store.value(NEXT_KEY) or b""),
    )


def _newcomers(cluster: Cluster) -> frozenset[str]:
    """Who is in and was not in the membership before, of which a run's first file has none."""
    if cluster.continued is None:
        return frozenset()
    return frozenset(cluster.ids) - {one.id for one in cluster.continued.before[-1].members}


def _gone_on_with(
    settlement: Settlement,
    book: EvidenceBook,
    left: Snapshot,
    checkpoint: Checkpoint | None,
    key: SigningKey,
    *,
    newest: bool,
    after: int,
) -> Earlier | None:
    """Take back the window in which an earlier life ended; answers what can be gone on with."""
    window, claimed = settlement.take_back(left.seen)
    if left.exchange is None:
        return None
    if not claimed:
        book.restore_sketches(left.exchange)
    if not newest:
        return None
    signed = book.go_on(left.exchange)
    before = earlier(book, signed, checkpoint, key, claimed=claimed, after=after)
    if before is None or before.round < after:
        return None  # its neighbours are elsewhere by now
    settlement.go_on(window)
    return before


def _reserved(store: Stored) -> int:
    """The last round that an earlier life may have stated, as far as it was stored."""
    reserved = store.value(RESERVED_KEY) or b"0"
    if not reserved.isdigit():
        raise MalformedError("the stored reserve is not a number")
    return int(reserved)


@contextmanager
def _our_own(name: str) -> Iterator[None]:
    """Tells what can be done about a damaged file of an earlier life."""
    try:
        yield
    except MalformedError as exc:
        raise MalformedError(
            f"{name} is damaged ({exc}); without it the agent can start again, and asks its "
            "neighbours for what it has signed"
        ) from exc


def _party(cluster: Cluster, agent: str) -> Party:
    entry = cluster.agent(agent)
    return Party(agent, bytes.fromhex(entry.identity), entry.curve, entry.endpoint)


def _check_bundles(terms: BillTerms, agent: str) -> None:
    """A bill travels with the claims of a whole neighbourhood: larger ones cannot be settled."""
    if not terms.payments.settles:
        return
    for referee in (agent, *sorted(terms.neighbours[agent])):
        members = {referee, *terms.neighbours[referee]}
        size = BUNDLE_SLACK_BYTES + sum(
            claim_bytes_max(terms.window_rounds, terms.neighbours[m], 4 * terms.trace_size)
            for m in members
        )
        if size > BUNDLE_BYTES_MAX:
            raise ConfigurationError(
                f"{referee} has {len(members) - 1} neighbours: the bill of a window of "
                f"{terms.window_rounds} rounds may take {size} bytes, more than "
                f"{BUNDLE_BYTES_MAX}; use a sparser topology or a smaller payments.window"
            )


def _strayed(store: Stored, window_rounds: int) -> range:
    """The windows whose rounds an agent has done after the end of its membership, not knowing of
    it: nobody judges them."""
    first, _, last = (store.value(LEFT_KEY) or b"").partition(b"-")
    if not (first.isdigit() and last.isdigit()):
        return range(0)
    return range(window_of(int(first), window_rounds), window_of(int(last), window_rounds) + 1)


def _restore_claims(settlement: Settlement, store: Stored, last: int, strayed: range) -> None:
    """The claims and bills of an earlier life that a neighbour may not have settled yet."""
    for window in range(max(0, last - WINDOWS_KEPT + 1), last + 1):
        claim = store.value(claim_key(window))
        if claim is not None and window not in strayed:
            settlement.restore(window, claim, store.value(bill_key(window)))
