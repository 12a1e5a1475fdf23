"""Daemons that lose what they have on disk come back, and pay; `tests.campaigns.losses` is more."""

import pytest

from candor.agent.testbed import testbed
from tests import paced
from tests.campaigns import losses
from tests.campaigns.crashes import plan

pytestmark = pytest.mark.e2e
PATIENCE_S = 60.0


def test_an_older_data_directory_and_a_lost_ledger_come_back(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", paced.environment()["PYTHONPATH"])
    bed = testbed.prepare(plan(3, "complete", 100_000, 1, "norm:2e-5"), tmp_path / "run")
    try:
        bed.start()
        losses.until_round(bed, 8)
        for agent, loss, age_s in (("a0", "copy", 2.0), ("a1", "ledger", 0.0)):
            began_s = losses.lose(bed, agent, loss, age_s, 0.0)
            back_s, why = losses.back(bed, agent, began_s, PATIENCE_S)
            assert back_s is not None, (agent, why)
    finally:
        bed.stop()
    assert losses.faults_of(bed) == []
