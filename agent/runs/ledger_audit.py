"""The exports of a whole run read back from its directory, and judged."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from candor.agent.core.succession import number_of
from candor.agent.core.terms import audit_facts
from candor.agent.daemon.exports import AGENTS_NAME, CLUSTER_NAME, LEDGER_NAME, checked_records
from candor.agent.runs.data_dirs import STORE_NAME, cluster_beside, is_data_dir, owner
from candor.mechanisms.evidence.claims import SignedClaim
from candor.mechanisms.ledger.audit import ExportFile, Finding, RunAudit, audit_run
from candor.mechanisms.ledger.export import LINE_BYTES_MAX
from candor.mechanisms.ledger.export_audit import AuditFacts
from candor.mechanisms.ledger.records import Record
from candor.mechanisms.payments.bills import SignedBill
from candor.topologies.cluster.file import Cluster, load_cluster
from candor.topologies.cluster.revisions import continues
from candor.topologies.encoding.canonical import MalformedError
from candor.topologies.specs.files import read_bytes
from candor.topologies.specs.specs import ConfigurationError, SignatureError

EXPORT_BYTES_MAX: Final = 64 * LINE_BYTES_MAX
DATABASE: Final = "database"  # the code of a note on one that is damaged


def read_export(path: Path) -> bytes:
    """The bytes of an export.

    Raises:
        ConfigurationError: unreadable, or too large to be one.
    """
    return read_bytes(path, "ledger export", EXPORT_BYTES_MAX)


def audit_run_directory(run_dir: Path) -> tuple[Cluster, RunAudit]:
    """Judge all exports in a run directory by its cluster file, those in a folder of data
    directories by the one that they have in common, or those of one data directory. Claims in
    databases that lie there open what the exports leave sealed: digests and signatures bind them,
    whatever the database is worth.

    Raises:
        ConfigurationError: no readable cluster file, several, or no export at all where the rule
            settles.
    """
    own = is_data_dir(run_dir)
    cluster, agents_dir = (cluster_beside(run_dir), run_dir) if own else _run_in(run_dir)
    facts = audit_facts(cluster)
    place = f"{LEDGER_NAME}/*.jsonl" if own else f"*/{LEDGER_NAME}/*.jsonl"
    paths = sorted(agents_dir.glob(place))
    if not paths and facts.edges and facts.settles:
        where = agents_dir.relative_to(run_dir) / Path(place).parent
        raise ConfigurationError(
            f"{run_dir}: no ledger exports in {where}"
            "; daemons write them when they end, `candor ledger export` at any time"
        )
    agent = owner(run_dir) if own else None
    files = [
        ExportFile(str(path.relative_to(run_dir)), agent or path.parts[-3], read_export(path))
        for path in paths
    ]
    agents = frozenset({agent}) if agent else None
    claims, notes = _claims_in(run_dir if own else agents_dir, own, facts)
    result = audit_run(files, facts, agents, claims)
    return cluster, replace(result, notes=(*result.notes, *notes))


def cluster_in(directory: Path) -> Cluster:
    """The cluster file of a run directory, a folder of data directories or one of them.

    Raises:
        ConfigurationError: it is not readable, or there are several.
    """
    return cluster_beside(directory) if is_data_dir(directory) else _run_in(directory)[0]


def _claims_in(
    directory: Path, own: bool, facts: AuditFacts
) -> tuple[dict[bytes, SignedClaim], list[Finding]]:
    """The claims in the agents' databases, by digest, and a note on each that is damaged."""
    paths = sorted(directory.glob(STORE_NAME if own else f"*/{STORE_NAME}"))
    if not paths:
        return {}, []
    from candor.agent.daemon.store import Store, StoreError  # an audit of exports needs no SQLite

    claims: dict[bytes, SignedClaim] = {}
    notes: list[Finding] = []
    for path in paths:
        # What cannot be read stays sealed, and the audit says how much that is.
        try:
            with Store.open(path) as store:
                for terms in store.channels():
                    claims |= signed_claims(store.records(terms.channel_id), facts)
                for terms in store.channels():
                    checked_records(store, terms)
        except (ConfigurationError, StoreError, SignatureError) as exc:
            told = str(exc).removeprefix(f"{path}: ")
            notes.append(Finding(str(path.relative_to(directory)), "all", 0, DATABASE, told))
    return claims, notes


def signed_claims(records: Iterable[Record], facts: AuditFacts) -> dict[bytes, SignedClaim]:
    """By digest, the claims in the records that can be read and are signed by their agents: a
    digest binds what a claim says, and not its signature."""
    claims: dict[bytes, SignedClaim] = {}
    for item in (item for record in records for item in record.evidence):
        with suppress(MalformedError):
            for claim in SignedBill.decode(item).claims:
                public = facts.keys.get(claim.claim().agent)
                if public is not None and claim.verify(public):
                    claims[claim.digest] = claim
    return claims


def _run_in(run_dir: Path) -> tuple[Cluster, Path]:
    """The cluster file to audit by, and where the agents' directories lie."""
    beside = sorted(run_dir.glob(f"*/{CLUSTER_NAME}"))
    if (run_dir / CLUSTER_NAME).exists() or not beside:
        return load_cluster(run_dir / CLUSTER_NAME), run_dir / AGENTS_NAME
    held = [*map(load_cluster, beside)]
    last = max(held, key=number_of)  # it tells the whole run, if that was gone on with
    for path, other in zip(beside, held, strict=True):
        if other.fingerprint != last.fingerprint and not continues(other, last):
            raise ConfigurationError(
                f"{beside[held.index(last)]} and {path} are different files: audit the data "
                "directories of one run and revision at a time"
            )
    return last, run_dir
