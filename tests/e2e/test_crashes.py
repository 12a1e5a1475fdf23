"""A few deaths of real daemons, one at each failpoint; `make crash` is the long form."""

import time
from collections import Counter

import pytest

from candor.agent.daemon import failpoints
from tests.campaigns.crashes import KILL, one_run, plan

AGENTS = 4
ROUNDS = 140
UNTIL_S = 120.0
CATCH_UP_MAX_S = 60.0  # a busy machine takes long to start a process; `make crash` asks for 10 s


@pytest.mark.e2e
def test_ledgers_agree_after_a_death_at_each_failpoint_and_two_at_random(tmp_path):
    owed = Counter({KILL: 2, **dict.fromkeys(failpoints.NAMES, 1)})
    shape = plan(AGENTS, "ring", ROUNDS, 1, "norm:2e-5")
    verdict = one_run(shape, tmp_path / "run", owed, time.monotonic() + UNTIL_S, CATCH_UP_MAX_S)
    assert not verdict.failures
    # How many it gets to depends on the machine; the ledgers must agree whatever they were.
    assert verdict.ends.total() >= 4
    assert verdict.windows > 20
    assert verdict.catch_up_s
