"""Which rounds of a data directory are done again: those that the coin picked, a window after the
other; see `mechanisms.evidence.kept`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from candor.agent.core.settlement.evidence_book import SEEN_BYTES_MAX
from candor.agent.core.settlement.referee import bill_key, claim_key
from candor.agent.core.terms import channel_terms
from candor.agent.daemon.exports import CLUSTER_NAME
from candor.agent.daemon.kept_rounds import FOLDER, KeptFiles, pick_of
from candor.agent.daemon.status import read_status
from candor.agent.daemon.store import FILE_NAME, Store
from candor.agent.learning.committed import committed_samples
from candor.agent.runs.replay import Host, Kept, Replayed, Replayer
from candor.mechanisms.evidence.attestations import Told
from candor.mechanisms.evidence.claims import Claim, SignedClaim
from candor.mechanisms.evidence.sample_tree import Samples
from candor.mechanisms.evidence.sketch import window_of
from candor.mechanisms.ledger.bodies import Body, LedgerViolation
from candor.mechanisms.ledger.records import check_evidence, check_signatures
from candor.mechanisms.payments.bills import SignedBill
from candor.topologies.cluster.file import Cluster, load_cluster
from candor.topologies.encoding.canonical import MalformedError, unpack
from candor.topologies.specs.specs import ConfigurationError

NOT_KEPT: Final = "it is not kept"
UNCLAIMED: Final = "nothing of its window is claimed"
UNVOUCHED: Final = "no neighbour has signed the bill of its window"
UNECHOED: Final = "no neighbour's next statement names the one that it shows"


@dataclass(frozen=True, slots=True)
class Report:
    """What the rounds of an agent tell, in order, and which samples it has committed to."""

    cluster: Cluster
    agent: str
    samples: Samples
    rounds: tuple[Replayed, ...]


def replay_dir(data_dir: Path, cluster_path: Path | None, only: int | None, host: Host) -> Report:
    """Do the picked rounds of a data directory again, or `only` one that is kept; by the cluster
    file of the directory unless another is given.

    Raises:
        ConfigurationError: it keeps no rounds, is of another run, or the task cannot be used here.
    """
    if not (data_dir / FOLDER).is_dir():
        raise ConfigurationError(
            f"{data_dir}: keeps no rounds; agents do where the cluster file has replay = true"
        )
    cluster = load_cluster(cluster_path or data_dir / CLUSTER_NAME)
    status, files = read_status(data_dir), KeptFiles(data_dir)
    if status.fingerprint != cluster.fingerprint:
        raise ConfigurationError(f"{data_dir}: is of another run than {cluster.run_id!r}")
    agent, sketch_bytes = (
        status.agent,
        8 * min(cluster.task.parameters, cluster.payments.sketch_size),
    )
    samples = committed_samples(cluster, agent, host.data_root, files.secret())
    with Store.open(data_dir / FILE_NAME) as store:
        windows = {one.claim.window: one for one in _windows(cluster, agent, store)}
    length = cluster.payments.window
    over = _over(status.round, cluster, windows)
    if only is None:
        looked = [
            (t, windows.get(number))
            for number in range(over)
            for t in (windows[number].rounds if number in windows else (number * length + 1,))
        ]
    else:
        looked = [(only, windows.get(window_of(only, length)))]
    replayer = Replayer(cluster, agent, samples, host)

    def told(t: int, window: _Window | None) -> Replayed:
        if window is None:
            return Replayed(t, Told.UNKNOWN, UNCLAIMED)
        try:
            kept = kept_of(files, t, sketch_bytes)
        except MalformedError as exc:
            return Replayed(t, Told.UNKNOWN, f"what was kept is damaged: {exc}")
        except OSError as exc:
            return Replayed(t, Told.UNKNOWN, f"what was kept cannot be read: {exc.strerror}")
        if kept is None:
            return Replayed(t, Told.UNKNOWN, NOT_KEPT)
        done = replayer.replayed(kept, window.claim)
        if done.told is Told.TRUE and not window.vouched:
            return replace(done, told=Told.UNKNOWN, why=f"{done.why}, by its own word: {UNVOUCHED}")
        if done.told is Told.TRUE and not done.echoed and t < cluster.rounds.rounds:
            return replace(done, told=Told.UNKNOWN, why=f"{done.why}, by its own word: {UNECHOED}")
        return done

    rounds = tuple(told(*one) for one in looked)
    return Report(cluster, agent, samples, rounds)


def kept_of(files: KeptFiles, t: int, sketch_bytes: int) -> Kept | None:
    """A round of a data directory, None where it is not kept; raises MalformedError."""
    start = files.start(t)
    if start is None or not files.round_path(t).exists():
        return None
    held = files.round(t, sketch_bytes)
    own = [part for each in held.exchanges for part in each.parts if part.agent == start.agent]
    if {start.round, *(part.statement.statement.round for part in own)} != {t}:
        raise MalformedError("it is of another round")
    following = files.start(t + 1), files.said(t + 1, sketch_bytes)
    return Kept(start, held, *following, files.echoes(t, sketch_bytes))


def _over(reached: int, cluster: Cluster, windows: Mapping[int, "_Window"]) -> int:
    """How many windows are over: all up to the last that is claimed, and those that the agent says
    it has left behind; where it claims nothing of one of them, it may hide that."""
    ended = reached == cluster.rounds.rounds
    behind = window_of(reached, cluster.payments.window) + ended
    return max(behind, max(windows, default=-1) + 1)


@dataclass(frozen=True, slots=True)
class _Window:
    """A window that the agent has claimed, and the rounds to look at: the one that the coin picks,
    or all, where there is no bill of it, or one without any neighbour's claim. It is `vouched` for
    where a neighbour has signed a record with that bill: the agent cannot have made it since."""

    claim: Claim
    rounds: tuple[int, ...]
    vouched: bool


def _windows(cluster: Cluster, agent: str, store: Store) -> list[_Window]:
    """The windows of an agent, in order.

    Raises:
        ConfigurationError: what it signed, or its neighbours, does not hold.
    """
    try:
        vouched = _vouched(cluster, agent, store)
        last = window_of(cluster.rounds.rounds, cluster.payments.window)
        found = (_claimed(cluster, agent, store, window, vouched) for window in range(last + 1))
        return [window for window in found if window is not None]
    except (MalformedError, LedgerViolation) as exc:
        raise ConfigurationError(f"its claims, bills or ledgers do not hold: {exc}") from exc


def _claimed(
    cluster: Cluster, agent: str, store: Store, window: int, vouched: set[bytes]
) -> _Window | None:
    stored, bundle = store.value(claim_key(window)), store.value(bill_key(window))
    if stored is None:
        return None
    if bundle is None:
        claim = _own_claim(stored)
        return _Window(claim, tuple(entry.round for entry in claim.rounds), vouched=False)
    publics = {entry.id: bytes.fromhex(entry.identity) for entry in cluster.agents}
    bill = SignedBill.decode(bundle)
    signers = [(one, one.claim()) for one in bill.claims]
    own = [claim for _, claim in signers if claim.agent == agent]
    signed = all(one.verify(publics.get(claim.agent, b"")) for one, claim in signers)
    if not (signed and own and bill.verify(publics[agent])):
        raise MalformedError(f"the bill of window {window} is not signed by all")
    pick = pick_of(bytes.fromhex(cluster.fingerprint), agent, bill)
    rounds = tuple(entry.round for entry in own[0].rounds) if pick is None else (pick,)
    return _Window(own[0], rounds, bill.digest in vouched)


def _vouched(cluster: Cluster, agent: str, store: Store) -> set[bytes]:
    """The digests of bills that neighbours have signed records of."""
    found: set[bytes] = set()
    for terms in channel_terms(cluster, agent).values():
        for seq, record in enumerate(store.records(terms.channel_id)):
            check_signatures(terms, seq, record)
            found |= {
                one.digest
                for one in check_evidence(terms, Body.decode(record.body), record.evidence) or ()
            }
    return found


def _own_claim(stored: bytes) -> Claim:
    match unpack(stored, bytes_max=2 * SEEN_BYTES_MAX):
        case [bytes(claim), bytes()]:
            return SignedClaim.decode(claim).claim()
    raise MalformedError("not a claim with what was seen")
