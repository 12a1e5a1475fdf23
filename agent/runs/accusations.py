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
from candor.mechanisms.evidence.examiner import RunTerms
from candor.mechanisms.proofs import PROOF_BYTES_MAX, Proof, ProofError, Verdict, verify_proof
from candor.topologies.cluster.file import Cluster
from candor.topologies.encoding.canonical import MalformedError
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
    """

    proven: Mapping[str, Verdict]
    worthless: Mapping[str, str]
    misrated: Mapping[str, Mapping[str, int]]


def accusations(cluster: Cluster, base: Path) -> Accusations:
    """What a data directory says, or those of a run or in a folder; files by their names there."""
    terms, directories = run_terms(cluster), [base] if is_data_dir(base) else gathered(base)
    proven: dict[str, Verdict] = {}
    worthless: dict[str, str] = {}
    statuses: list[Status] = []
    for directory in directories:
        for path in sorted((directory / EVIDENCE_NAME).glob("*.proof")):
            try:
                proven[str(path.relative_to(base))] = proven_by(path, terms)
            except OSError as exc:
                worthless[str(path.relative_to(base))] = f"cannot be read: {exc.strerror}"
            except ProofError as exc:
                worthless[str(path.relative_to(base))] = f"{WORTHLESS}: {exc}"
        try:
            statuses.append(read_status(directory))
        except ConfigurationError:
            continue  # whoever left none says nothing
    said = (one for one in statuses if one.fingerprint == cluster.fingerprint)
    return Accusations(proven, worthless, misrated_of(said))


def proven_by(path: Path, terms: RunTerms) -> Verdict:
    """What a file proves in a run.

    Raises:
        OSError: it cannot be read.
        ProofError: it proves nothing.
    """
    with open_regular(path) as stream:
        data = stream.read(PROOF_BYTES_MAX + 1)
    try:
        return verify_proof(Proof.decode(data), terms)
    except (MalformedError, ValueError) as exc:
        raise ProofError(str(exc)) from exc


def told_of(verdict: Verdict) -> dict[str, str | bool]:
    """A verdict as `--json` tells it."""
    return {
        "agent": verdict.agent,
        "kind": verdict.kind,
        "place": verdict.place,
        "malice": verdict.malice,
        "verdict": str(verdict),
    }
