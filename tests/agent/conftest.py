"""Runs of real cores in simulated time, see `tests.runs`."""

import pytest

from tests.runs import LocalRun, write_cluster


@pytest.fixture
def started(tmp_path):
    """Start runs that are closed at the end, pass or fail."""
    runs = []

    def start(topology="ring", agents=4, network=None, reports=None, **options):
        cluster = write_cluster(tmp_path, topology, agents, **options)
        run = LocalRun(tmp_path, cluster, network, reports)
        runs.append(run)
        return run

    yield start
    for run in runs:
        run.close()
