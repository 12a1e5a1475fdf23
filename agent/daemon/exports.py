"""Ledger exports as files: written from a daemon's database, read back for the audit of a run.

DATA_DIR/ledger/<lo>-<hi>.jsonl                  one export an edge of the agent
RUN_DIR/cluster.toml, RUN_DIR/agents/<id>/       the data directories of a whole run
"""

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Final

from candor.agent.core.terms import audit_facts
from candor.mechanisms.ledger.bodies import ChannelTerms, LedgerViolation
from candor.mechanisms.ledger.export import export_channel, file_name
from candor.mechanisms.ledger.export_audit import audit_export
from candor.mechanisms.ledger.records import Record
from candor.mechanisms.ledger.stored_chain import check_chain
from candor.mechanisms.payments.bills import WINDOW_LIMIT
from candor.mechanisms.proofs import KINDS
from candor.topologies.cluster.file import Cluster
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.specs.files import private_files, replace_file, system_errors
from candor.topologies.specs.specs import ConfigurationError, SignatureError

if TYPE_CHECKING:
    from candor.agent.daemon.store import Store  # only to write: the audit needs no database

CLUSTER_NAME: Final = "cluster.toml"
AGENTS_NAME: Final = "agents"
LEDGER_NAME: Final = "ledger"
EVIDENCE_NAME: Final = "evidence"
_DAMAGED: Final = (
    "the database is damaged, {}; `candor ledger repair` restores it from the neighbour's export"
)


def export_channels(
    store: "Store",
    cluster: Cluster,
    agent_id: str,
    key: SigningKey,
    opened: Container[int] = (),
    *,
    audited: bool = False,
) -> dict[str, bytes]:
    """The export of each edge of an agent, by file name; an edge without records is included. It
    shows the claims of the windows that are `opened`. Chains and their signatures are checked;
    `audited` recomputes bills, too, which takes longer.

    Raises:
        ConfigurationError: the key or the database is not the agent's.
        SignatureError: what is stored does not hold; nobody's signature belongs under that.
    """
    if key.public.hex() != cluster.memberships.identities.get(agent_id):
        raise ConfigurationError(
            f"the key is not that of agent {agent_id!r} in run {cluster.run_id!r}"
        )
    facts = audit_facts(cluster)
    known = {terms.channel_id for terms in store.channels()}
    exports: dict[str, bytes] = {}
    for neighbour in cluster.memberships.ever(agent_id):
        lo, hi = sorted((agent_id, neighbour))
        terms = facts.terms(lo, hi)
        # Who never went on with new neighbours has nothing with them.
        if terms.channel_id not in known and cluster.continued is None:
            raise ConfigurationError(
                f"the database has no channel {lo}-{hi} of run {cluster.run_id!r}: the keys are "
                f"those of {agent_id}, and it belongs to another agent or run"
            )
        name = file_name(lo, hi)
        exports[name], whole = _exported(store, terms, agent_id, key, opened, audited=audited)
        if audited and (found := audit_export(name, whole, facts, agent_id).findings):
            raise SignatureError(_DAMAGED.format(f"edge {found[0].edge}: {found[0].told}"))
    return exports


def _exported(
    store: "Store",
    terms: ChannelTerms,
    agent_id: str,
    key: SigningKey,
    opened: Container[int],
    *,
    audited: bool,
) -> tuple[bytes, bytes]:
    """The export of one edge, and where it is `audited` one with all claims. Only here are its
    records in memory, of one edge at a time: long runs have many."""
    records = checked_records(store, terms)
    whole = b""
    if audited:
        whole = export_channel(terms, agent_id, key, records, range(WINDOW_LIMIT))
    return export_channel(terms, agent_id, key, records, opened), whole


def checked_records(store: "Store", terms: ChannelTerms) -> list[Record]:
    """The records of a channel; raises SignatureError where they do not hold."""
    rows = store.chain(terms.channel_id)
    records = [record for _, record in rows]
    try:
        check_chain(terms, records)
        for seq, (sound, _) in enumerate(rows):
            if not sound:
                raise LedgerViolation(f"seq {seq}: row", "its number, hash or channel was changed")
    except LedgerViolation as exc:
        raise SignatureError(_DAMAGED.format(f"edge {terms.lo}-{terms.hi}: {exc}")) from exc
    return records


@private_files()
def write_exports(
    store: "Store",
    cluster: Cluster,
    agent_id: str,
    key: SigningKey,
    data_dir: Path,
    output: Path | None = None,
    opened: Container[int] = (),
    *,
    audited: bool = False,
) -> list[Path]:
    """Write an agent's exports to `output`, by default DATA_DIR/ledger, and beside them what it can
    prove, in DATA_DIR/evidence; each file is replaced whole. `audited` as in `export_channels`.

    Raises:
        ConfigurationError: the key is not the agent's, or the system refused to write.
        SignatureError: what is stored does not hold; nothing was written.
    """
    directory = output or data_dir / LEDGER_NAME
    exports = export_channels(store, cluster, agent_id, key, opened, audited=audited)
    written = []
    with system_errors(f"{directory}: cannot write exports"):
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in exports.items():
            replace_file(directory / name, data)
            written.append(directory / name)
        for name, data in _proofs(store, cluster).items():
            evidence = data_dir / EVIDENCE_NAME
            evidence.mkdir(parents=True, exist_ok=True)
            replace_file(evidence / name, data)
    return written


def _proofs(store: "Store", cluster: Cluster) -> dict[str, bytes]:
    """What the database holds against anyone, by file name."""
    kept = {
        f"{kind}-{agent}.proof": store.value(f"proof/{kind}/{agent}")
        for kind in KINDS
        for agent in cluster.memberships.identities
    }
    return {name: data for name, data in kept.items() if data is not None}
