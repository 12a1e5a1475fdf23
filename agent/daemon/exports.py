"""Ledger exports as files: written from a daemon's database, read back for the audit of a run.

DATA_DIR/ledger/<lo>-<hi>.jsonl                  one export an edge of the agent
RUN_DIR/cluster.toml, RUN_DIR/agents/<id>/       the data directories of a whole run
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from candor.mechanisms.evidence.examiner import RunTerms
from candor.mechanisms.evidence.sketch import TRACE_SIZE
from candor.mechanisms.ledger.audit import AuditFacts, ExportFile, RunAudit, audit_run
from candor.mechanisms.ledger.export import LINE_BYTES_MAX, export_channel, file_name
from candor.mechanisms.payments.bills import BillTerms, parse_rule
from candor.mechanisms.proofs import KINDS
from candor.topologies.cluster.file import Cluster, load_cluster
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.specs.files import open_regular
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    from candor.agent.daemon.store import Store  # only to write: the audit needs no database

CLUSTER_NAME: Final = "cluster.toml"
AGENTS_NAME: Final = "agents"
LEDGER_NAME: Final = "ledger"
EVIDENCE_NAME: Final = "evidence"
EXPORT_BYTES_MAX: Final = 64 * LINE_BYTES_MAX


def run_terms(cluster: Cluster) -> RunTerms:
    """What every proof of the run is judged by."""
    return RunTerms(
        run=bytes.fromhex(cluster.fingerprint),
        dim=cluster.task.parameters,
        sketch_size=cluster.payments.sketch_size,
        window_rounds=cluster.payments.window,
        publics={agent.id: bytes.fromhex(agent.identity) for agent in cluster.agents},
    )


def bill_terms(cluster: Cluster) -> BillTerms:
    """What every bill of the run is judged against.

    Raises:
        ConfigurationError: the cluster's payment rule is not known here.
    """
    trace_size = min(cluster.task.parameters, cluster.payments.sketch_size, TRACE_SIZE)
    return BillTerms(
        run=bytes.fromhex(cluster.fingerprint),
        window_rounds=cluster.payments.window,
        trace_size=trace_size,
        publics={agent.id: bytes.fromhex(agent.identity) for agent in cluster.agents},
        neighbours={agent: frozenset(cluster.neighbours(agent)) for agent in cluster.ids},
        payments=parse_rule(cluster.payments.rule),
        takes=lambda t, taker, giver: (
            # A claim of somebody else's neighbour may name any round.
            t <= cluster.rounds.rounds and giver in cluster.round_weights.of(t).taken[taker]
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
        edges=frozenset((min(edge), max(edge)) for edge in cluster.graph.edges),
        bills=bill_terms(cluster),
    )


def export_channels(
    store: "Store", cluster: Cluster, agent_id: str, key: SigningKey
) -> dict[str, bytes]:
    """The export of each edge of an agent, by file name; an edge without records is included.

    Raises:
        ConfigurationError: the key or the database is not the agent's.
    """
    if key.public.hex() != cluster.agent(agent_id).identity:
        raise ConfigurationError(
            f"the key is not that of agent {agent_id!r} in run {cluster.run_id!r}"
        )
    facts = audit_facts(cluster)
    known = {terms.channel_id for terms in store.channels()}
    exports: dict[str, bytes] = {}
    for neighbour in cluster.neighbours(agent_id):
        lo, hi = sorted((agent_id, neighbour))
        terms = facts.terms(lo, hi)
        if terms.channel_id not in known:
            raise ConfigurationError(
                f"the database has no channel {lo}-{hi} of run {cluster.run_id!r}: "
                "it belongs to another run or agent"
            )
        records = store.records(terms.channel_id)
        exports[file_name(lo, hi)] = export_channel(terms, agent_id, key, records)
    return exports


def write_exports(
    store: "Store",
    cluster: Cluster,
    agent_id: str,
    key: SigningKey,
    data_dir: Path,
    output: Path | None = None,
) -> list[Path]:
    """Write an agent's exports to `output`, by default DATA_DIR/ledger, and beside them what it can
    prove, in DATA_DIR/evidence; each file is replaced whole.

    Raises:
        ConfigurationError: the key is not the agent's, or the system refused to write.
    """
    directory = output or data_dir / LEDGER_NAME
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in export_channels(store, cluster, agent_id, key).items():
            written.append(_replace(directory / name, data))
        for name, data in _proofs(store, cluster).items():
            evidence = data_dir / EVIDENCE_NAME
            evidence.mkdir(parents=True, exist_ok=True)
            _replace(evidence / name, data)
    except OSError as exc:
        raise ConfigurationError(f"{directory}: cannot write exports: {exc.strerror}") from exc
    return written


def _replace(path: Path, data: bytes) -> Path:
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_bytes(data)
    os.replace(draft, path)
    return path


def _proofs(store: "Store", cluster: Cluster) -> dict[str, bytes]:
    """What the database holds against anyone, by file name."""
    kept = {
        f"{kind}-{agent}.proof": store.value(f"proof/{kind}/{agent}")
        for kind in KINDS
        for agent in cluster.ids
    }
    return {name: data for name, data in kept.items() if data is not None}


def read_export(path: Path) -> bytes:
    """The bytes of an export.

    Raises:
        ConfigurationError: unreadable, or too large to be one.
    """
    try:
        with open_regular(path) as file:
            data = file.read(EXPORT_BYTES_MAX + 1)
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot read it: {exc.strerror}") from exc
    if len(data) > EXPORT_BYTES_MAX:
        raise ConfigurationError(f"{path}: too large for a ledger export")
    return data


def audit_run_directory(run_dir: Path) -> tuple[Cluster, RunAudit]:
    """Judge all exports in a run directory by its cluster file, or those in a folder of data
    directories by the one that they have in common.

    Raises:
        ConfigurationError: no readable cluster file, several, or no export at all where the rule
            settles.
    """
    cluster, agents_dir = _run_in(run_dir)
    facts = audit_facts(cluster)
    paths = sorted(agents_dir.glob(f"*/{LEDGER_NAME}/*.jsonl"))
    if not paths and facts.edges and facts.settles:
        raise ConfigurationError(
            f"{run_dir}: no ledger exports in {agents_dir.relative_to(run_dir) / '*' / LEDGER_NAME}"
            "; daemons write them when they end, `candor ledger export` at any time"
        )
    files = [
        ExportFile(str(path.relative_to(run_dir)), path.parts[-3], read_export(path))
        for path in paths
    ]
    return cluster, audit_run(files, facts)


def _run_in(run_dir: Path) -> tuple[Cluster, Path]:
    """The cluster file to audit by, and where the agents' directories lie."""
    beside = sorted(run_dir.glob(f"*/{CLUSTER_NAME}"))
    if (run_dir / CLUSTER_NAME).exists() or not beside:
        return load_cluster(run_dir / CLUSTER_NAME), run_dir / AGENTS_NAME
    first, *others = map(load_cluster, beside)
    for path, other in zip(beside[1:], others, strict=True):
        if other.fingerprint != first.fingerprint:
            raise ConfigurationError(
                f"{beside[0]} and {path} are different files: audit the data directories of one "
                "run and revision at a time"
            )
    return first, run_dir
