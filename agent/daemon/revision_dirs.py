"""A data directory from one revision of the cluster file to the next: ledgers are kept, not mixed.

A revision that goes on with its run takes the place of the file before, and that is all: from the
instant on in which it does, the directory is of that revision.
The run begins anew with every other one: its fingerprint stands in everything that is signed, so no
old record fits a new ledger. What an agent has under the old one moves to `revision-N/`, exported,
with the file that it is audited by. The daemon holds the directory's lock meanwhile; killed at any
point it goes on from there when it is started again, and never goes back to an older revision.
Windows that were not settled by then are not settled any more.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from candor.agent.core.terms import all_channel_terms
from candor.agent.daemon import journal, kept_rounds, metrics, status, store
from candor.agent.daemon.checkpoint import CHECKPOINT_NAME, DURABLE_NAME
from candor.agent.daemon.exports import CLUSTER_NAME, EVIDENCE_NAME, LEDGER_NAME, write_exports
from candor.agent.daemon.metrics import read_metrics
from candor.agent.daemon.model_file import BEST_NAME, MODEL_NAME, PRIVATE_NAME
from candor.agent.daemon.snapshot import FILE_NAME as SNAPSHOT_NAME
from candor.agent.daemon.store import Store, StoreError
from candor.topologies.cluster.file import Cluster, dump_cluster, load_cluster
from candor.topologies.cluster.revisions import check_succession, continues
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.specs.files import replace_file, sync, system_errors
from candor.topologies.specs.specs import ConfigurationError, SignatureError, located

# In this order: a directory that still has its cluster file is of that revision, whatever is gone.
_OF_ONE_REVISION: Final = (
    journal.FILE_NAME,
    metrics.FILE_NAME,
    status.FILE_NAME,
    metrics.SKETCHES_NAME,
    MODEL_NAME,
    BEST_NAME,
    PRIVATE_NAME,
    CHECKPOINT_NAME,
    DURABLE_NAME,
    LEDGER_NAME,
    EVIDENCE_NAME,
    SNAPSHOT_NAME,
    kept_rounds.FOLDER,
    f"{store.FILE_NAME}-shm",
    f"{store.FILE_NAME}-wal",
    store.FILE_NAME,
    CLUSTER_NAME,
)
_KEPT: Final = re.compile(r"revision-([1-9][0-9]{0,15})")


def in_use(data_dir: Path, given: Cluster) -> Cluster:
    """The cluster file that an agent goes on with which is started with `given`: that of the data
    directory, where the one goes on with the run of the other. Which of the two is later, the
    directory knows: what has not come into effect yet is taken up when it does.

    Raises:
        ConfigurationError: the file that is there cannot be read.
    """
    present = data_dir / CLUSTER_NAME
    if given.revision is None or not present.exists():
        return given
    found = load_cluster(present)
    return found if continues(found, given) or continues(given, found) else given


def hand_on(data_dir: Path, heir: Cluster) -> None:
    """From now on the directory is of the revision that goes on with its run.

    Raises:
        OSError: the system refused; it is of the one before.
    """
    _keep(data_dir, heir)


def move_on(data_dir: Path, cluster: Cluster, agent: str, key: SigningKey) -> Path | None:
    """Make room for `cluster` where an earlier revision of it was in use; call under the lock.

    Answers with the directory that now holds what was moved, None when nothing was.

    Raises:
        SignatureError: the directory is of a later revision, another run's or another organiser's.
        ConfigurationError: what is there cannot be read, exported or moved.
    """
    kept, present = _kept(data_dir), data_dir / CLUSTER_NAME
    number = cluster.revision.number if cluster.revision else 0
    if kept and number <= max(kept):
        raise SignatureError(
            f"{data_dir}: has gone on from revision {max(kept)}, and this file is "
            f"{f'revision {number}' if number else 'not signed'}; ask the organiser for the "
            "present one"
        )
    if not present.exists():
        if kept:
            last = load_cluster(kept[max(kept)] / CLUSTER_NAME)
            with located(str(data_dir)):
                check_succession(last, cluster)
        return None
    old = load_cluster(present)
    if old.revision is None or old.fingerprint == cluster.fingerprint:
        return None  # the database itself refuses the file of another run
    if continues(old, cluster) or _replaces(data_dir, old, cluster):
        hand_on(data_dir, cluster)  # it is in again after it had left, or waited to be let in
        return None
    with located(str(data_dir)):
        check_succession(old, cluster)
    destination = data_dir / f"revision-{old.revision.number}"
    # Where the move has begun, the database may be in two places and must not be opened.
    if not destination.exists():
        _export(data_dir, old, agent, key)
    return _move(data_dir, destination)


@contextmanager
def open_store(data_dir: Path, cluster: Cluster, agent: str) -> Iterator[Store]:
    """The database of an agent in this run, and beside it the cluster file that it is audited by.

    The file comes before a new database, so that it is known at any instant which revision the
    directory is of, and behind an old one, which may refuse it.

    Raises:
        ConfigurationError: the database is another run's, or cannot be opened.
    """
    path = data_dir / store.FILE_NAME
    if not path.exists():
        _keep(data_dir, cluster)
    terms = list(all_channel_terms(cluster, agent).values())
    grows = cluster.continued is not None
    with Store.open(path, fingerprint=cluster.run, channels=terms, grows=grows) as opened:
        _keep(data_dir, cluster)
        yield opened


def _keep(data_dir: Path, cluster: Cluster) -> None:
    path = data_dir / CLUSTER_NAME
    text = dump_cluster(cluster)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    replace_file(path, text.encode(), durable=True)


def _replaces(data_dir: Path, old: Cluster, new: Cluster) -> bool:
    """Whether `new` stands in for a revision that never came into effect, as it came too late for
    the others: of its number and organiser, for the same run, of which no round was ended by it."""
    if old.continued is None or new.continued is None or old.run != new.run:
        return False
    if old.revision != new.revision:
        return False
    path = data_dir / metrics.FILE_NAME
    return not path.exists() or all(line.round <= old.after for line in read_metrics(path))


def _kept(data_dir: Path) -> dict[int, Path]:
    """The directories of earlier revisions, by number."""
    matches = ((path, _KEPT.fullmatch(path.name)) for path in data_dir.iterdir())
    return {int(match[1]): path for path, match in matches if match}


def _export(data_dir: Path, old: Cluster, agent: str, key: SigningKey) -> None:
    """The ledgers as they stand, also when the daemon was killed before it wrote them."""
    database = data_dir / store.FILE_NAME
    if not database.exists():
        return  # killed before it had one
    try:
        with open_store(data_dir, old, agent) as opened:
            write_exports(opened, old, agent, key, data_dir)
    except StoreError as exc:
        raise ConfigurationError(str(exc)) from exc


def _move(data_dir: Path, destination: Path) -> Path:
    with system_errors(f"{data_dir}: cannot move the ledgers to {destination.name}"):
        destination.mkdir(exist_ok=True)
        for path in data_dir.glob(f"{journal.FILE_NAME}.*"):
            os.rename(path, destination / path.name)
        for name in _OF_ONE_REVISION:
            if name == CLUSTER_NAME:
                sync(destination)
            if (data_dir / name).exists():
                os.rename(data_dir / name, destination / name)
        sync(destination)
        sync(data_dir)
    return destination
