"""Lies that the library does not have, drawn from a family that the search does not know."""

from pathlib import Path

import numpy as np
import pytest

from candor.agent.cli.plan import plan_of
from candor.agent.cli.studies.audit import command
from candor.agent.runs.placeholder_agents import stand_in_entries
from candor.agent.runs.plan import cluster_of
from candor.agent.studies.audit.question import Question
from candor.agent.studies.audit.verdicts import Verdict, audit, chosen_strategies
from tests.strangers import SPECS

RUN = (
    "--agents", "5", "--topology", "star", "--task", "digits:model=logistic", "--rounds", "48",
    "--local-steps", "1", "--step-size", "1", "--step-decay", "0", "--partition", "iid",
)  # fmt: skip


def question_at(factor: float) -> Question:
    """One seed; the hub lies."""
    asked = command.make_context("audit", list(RUN)).params
    plan = plan_of({**asked, "strategies": ()}, 0, simulated=True)
    cluster = cluster_of(plan, Path("audit"), stand_in_entries)
    hub = max(cluster.ids, key=lambda agent: len(cluster.neighbours(agent)))
    return Question([cluster], (hub,), fine_tune=20, factor=factor)


def best(verdict: Verdict) -> float:
    """What the best lie gains, net."""
    return max(float(one.deviation.net(verdict.prices).mean()) for one in verdict.judged)


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_no_stranger_gains_more_than_library_and_search(factor: float, tmp_path: Path) -> None:
    """Free, and at the default rule's prices: of what honesty is worth to the liar."""
    question = question_at(factor)
    own = audit(question, chosen_strategies(question, None), cache=tmp_path, search=True)
    strange = audit(question, SPECS, cache=tmp_path, search=False)
    gains = [one.deviation.net(strange.prices).mean() for one in strange.judged]
    assert len(gains) == len(SPECS)
    assert np.ptp(gains) > 0.05  # they are no twenty names of one lie
    assert best(own) >= best(strange) - question.epsilon, (best(own), best(strange))
    if factor == 0.0:
        assert best(strange) > question.epsilon  # there is something to find
