"""Which rounds of a data directory are done again: those that the coin picked, a window after the
other; see `mechanisms.evidence.kept`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from candor.agent.core.settlement.evidence_book import SEEN_BYTES_MAX
from candor.agent.core.settlement.referee import bill_key, claim_key
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
from candor.mechanisms.payments.bills import SignedBill
from candor.topologies.cluster.file import Cluster, load_cluster
from candor.topologies.encoding.canonical import MalformedError, unpack
from candor.topologies.specs.specs import ConfigurationError

NOT_KEPT: Final = "it is not kept"


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
        windows = _windows(cluster, agent, store)
    looked: list[tuple[int, Claim | None]] = [(t, c) for c, rounds in windows for t in rounds]
    if only is not None:
        of_window = [claim for claim, _ in windows if claim.window == _window(cluster, only)]
        looked = [(only, of_window[0] if of_window else None)]
    replayer = Replayer(cluster, agent, samples, host)

    def told(t: int, claim: Claim | None) -> Replayed:
        try:
            kept = kept_of(files, t, sketch_bytes)
        except MalformedError as exc:
            return Replayed(t, Told.UNKNOWN, f"what was kept is damaged: {exc}")
        return (
            Replayed(t, Told.UNKNOWN, NOT_KEPT) if kept is None else replayer.replayed(kept, claim)
        )

    return Report(cluster, agent, samples, tuple(told(*one) for one in looked))


def kept_of(files: KeptFiles, t: int, sketch_bytes: int) -> Kept | None:
    """A round of a data directory, None where it is not kept; raises MalformedError."""
    start = files.start(t)
    if start is None or not files.round_path(t).exists():
        return None
    following, said = files.start(t + 1), files.said(t + 1, sketch_bytes)
    return Kept(start, files.round(t, sketch_bytes), following, said)


def _window(cluster: Cluster, t: int) -> int:
    return window_of(t, cluster.payments.window)


def _windows(cluster: Cluster, agent: str, store: Store) -> list[tuple[Claim, tuple[int, ...]]]:
    """The agent's claims, and of each window the rounds to look at: the one that the coin picks, or
    all, where there is no bill of it, or one without any neighbour's claim.

    Raises:
        ConfigurationError: what it signed does not hold.
    """
    last = _window(cluster, cluster.rounds.rounds)
    try:
        return list(_claimed(cluster, agent, store, last))
    except MalformedError as exc:
        raise ConfigurationError(f"its claims or bills do not hold: {exc}") from exc


def _claimed(
    cluster: Cluster, agent: str, store: Store, last: int
) -> Iterator[tuple[Claim, tuple[int, ...]]]:
    publics = {entry.id: bytes.fromhex(entry.identity) for entry in cluster.agents}
    run = bytes.fromhex(cluster.fingerprint)
    for window in range(last + 1):
        stored, bundle = store.value(claim_key(window)), store.value(bill_key(window))
        if stored is None:
            continue
        claim = _own_claim(stored)
        rounds = tuple(entry.round for entry in claim.rounds)
        pick = None
        if bundle is not None:
            bill = SignedBill.decode(bundle)
            signed = bill.verify(publics[agent]) and all(
                one.verify(publics.get(one.claim().agent, b"")) for one in bill.claims
            )
            if not signed:
                raise MalformedError(f"the bill of window {window} is not signed by all")
            pick = pick_of(run, agent, bill)
        yield claim, rounds if pick is None else (pick,)


def _own_claim(stored: bytes) -> Claim:
    match unpack(stored, bytes_max=2 * SEEN_BYTES_MAX):
        case [bytes(claim), bytes()]:
            return SignedClaim.decode(claim).claim()
    raise MalformedError("not a claim with what was seen")
