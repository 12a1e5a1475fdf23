"""Data directories as they lie about: by themselves, in a folder, in a run's `agents/`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from candor.agent.daemon import metrics, status
from candor.agent.daemon.exports import AGENTS_NAME, CLUSTER_NAME, LEDGER_NAME
from candor.topologies.cluster.file import Cluster, load_cluster
from candor.topologies.specs.specs import ConfigurationError

STORE_NAME: Final = "ledger.sqlite"  # of `agent.daemon.store`, which is not loaded for its name
# What an agent leaves, each of which may be all that was copied.
_SIGNS: Final = (status.FILE_NAME, metrics.FILE_NAME, STORE_NAME, LEDGER_NAME)


def is_data_dir(path: Path) -> bool:
    """Whether something of one agent lies here."""
    return any((path / name).exists() for name in _SIGNS)


def gathered(path: Path) -> Iterator[Path]:
    """The data directories in a run's `agents/`, else those in a folder itself, by name."""
    folder = path / AGENTS_NAME if (path / AGENTS_NAME).is_dir() else path
    whole = folder != path  # of a run: also one in which nothing was left
    yield from sorted(
        child for child in folder.glob("*") if child.is_dir() and (whole or is_data_dir(child))
    )


def cluster_beside(data_dir: Path) -> Cluster:
    """The cluster file in a data directory, or in the run directory that it is in.

    Raises:
        ConfigurationError: there is none, or it is not one.
    """
    return load_cluster(cluster_path(data_dir))


def cluster_path(data_dir: Path) -> Path:
    """Where that file lies."""
    above = data_dir.resolve().parents
    places = [data_dir / CLUSTER_NAME, *(folder / CLUSTER_NAME for folder in above[:2])]
    return next((path for path in places if path.exists()), places[0])


def owner(data_dir: Path) -> str:
    """Whose data directory it is: the agent of its status, else that of its name."""
    try:
        return status.read_status(data_dir).agent
    except ConfigurationError:
        return data_dir.resolve().name
