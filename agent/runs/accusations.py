"""Whom the agents of a run accuse, beside its ledgers: proven by what they keep, or by their word.

A proof in an agent's `evidence/` holds for anyone who has the cluster file, whoever kept it. What a
status says of a neighbour whose ratings were refused is its agent's word: it names a liar only as
far as the agent is believed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from candor.agent.core.terms import run_terms
from candor.agent.daemon.exports import EVIDENCE_NAME
from candor.agent.daemon.status import Status, misrated_of, read_status
from candor.agent.runs.data_dirs import gathered, is_data_dir
from candor.mechanisms.evidence.attestations import Told
from candor.mechanisms.evidence.disclosures import (
    FALSE_REPORT,
    PROOF_SLACK_BYTES,
    ShownRound,
    shown_bytes_max,
)
from candor.mechanisms.evidence.examiner import RunTerms
from candor.mechanisms.ledger.bonds import Bond, bonds
from candor.mechanisms.proofs import Proof, ProofError, Verdict, verify_proof
from candor.topologies.cluster.file import Cluster
from candor.topologies.encoding.canonical import MalformedError, payload_digest
from candor.topologies.specs.files import open_regular
from candor.topologies.specs.specs import ConfigurationError

WORTHLESS: Final = "proves nothing"


@dataclass(frozen=True, slots=True)
class Accusations:
    """What data directories say against agents.

    Attributes:
        proven: by the files that prove it.
        worthless: why a file in the place of a proof proves nothing.
        misrated: the word of neighbours.
        bonds: what those owe who are proven to have reported falsely.
    """

    proven: Mapping[str, Verdict]
    worthless: Mapping[str, str]
    misrated: Mapping[str, Mapping[str, int]]
    bonds: tuple[Bond, ...] = ()


def accusations(cluster: Cluster, base: Path) -> Accusations:
    """What a data directory says, or those of a run or in a folder; files by their names there."""
    terms, directories = run_terms(cluster), [base] if is_data_dir(base) else gathered(base)
    known: dict[bytes, Verdict] = {}
    proven: dict[str, Verdict] = {}
    worthless: dict[str, str] = {}
    statuses: list[Status] = []
    for directory in directories:
        for path in sorted((directory / EVIDENCE_NAME).glob("*.proof")):
            try:
                proven[str(path.relative_to(base))] = _proven(path, cluster, terms, known)
            except OSError as exc:
                worthless[str(path.relative_to(base))] = f"cannot be read: {exc.strerror}"
            except ConfigurationError as exc:
                worthless[str(path.relative_to(base))] = f"cannot be judged here: {exc}"
            except ProofError as exc:
                worthless[str(path.relative_to(base))] = f"{WORTHLESS}: {exc}"
        try:
            statuses.append(read_status(directory))
        except ConfigurationError:
            continue  # whoever left none says nothing
    said = (one for one in statuses if one.fingerprint == cluster.fingerprint)
    guilty = {one.agent for one in proven.values() if one.kind == FALSE_REPORT}
    neighbours = {agent: cluster.neighbours(agent) for agent in cluster.ids}
    owed = bonds(cluster.payments.bond or 0, guilty, neighbours)
    return Accusations(proven, worthless, misrated_of(said), owed)


def _proven(path: Path, cluster: Cluster, terms: RunTerms, known: dict[bytes, Verdict]) -> Verdict:
    """What a file proves; neighbours keep the same round of a liar, which is done again once."""
    digest = payload_digest(path.read_bytes())
    if digest not in known:
        known[digest] = proven_by(path, cluster, terms)
    return known[digest]


@dataclass(frozen=True, slots=True)
class Sources:
    """What doing a round again may need beside the cluster file."""

    data_root: Path | None = None
    initial: Path | None = None


class NotFalse(ProofError):
    """A shown round that is not false: true, or it cannot be told."""

    def __init__(self, told: Told, why: str) -> None:
        super().__init__(f"the round is true, {why}" if told is Told.TRUE else why)
        self.told = told


def proven_by(
    path: Path, cluster: Cluster, terms: RunTerms, sources: Sources | None = None
) -> Verdict:
    """What a file proves in a run; a shown round is done again.

    Raises:
        OSError: it cannot be read.
        ProofError: it proves nothing.
        ConfigurationError: it shows a round, and the task cannot be used here.
    """
    with open_regular(path) as stream:
        data = stream.read(shown_bytes_max(terms.dim, len(cluster.ids)) + PROOF_SLACK_BYTES)
    try:
        shown = ShownRound.decode(data)
        if shown is None:
            return verify_proof(Proof.decode(data), terms)
    except (MalformedError, ValueError) as exc:
        raise ProofError(str(exc)) from exc
    return _false_report(shown, cluster, sources or Sources())


def _false_report(shown: ShownRound, cluster: Cluster, sources: Sources) -> Verdict:
    from candor.agent.runs.disclosed import judged  # imports torch
    from candor.agent.runs.replay import Host

    try:
        found = judged(cluster, shown, Host(sources.data_root, sources.initial))
    except MalformedError as exc:
        raise ProofError(str(exc)) from exc
    if found.told is not Told.FALSE:
        raise NotFalse(found.told, found.why)
    return Verdict(FALSE_REPORT, shown.agent, f"round {found.round}", malice=True)


def told_of(verdict: Verdict) -> dict[str, str | bool]:
    """A verdict as `--json` tells it."""
    return {
        "agent": verdict.agent,
        "kind": verdict.kind,
        "place": verdict.place,
        "malice": verdict.malice,
        "verdict": str(verdict),
    }
