"""What rows of agents keep from round to round is in the state that they are handed."""

import pytest
import torch
from torch import Tensor

from candor.agent.algorithms.catalogue import MEDIAN
from candor.agent.learning.initial import initial_parameters
from candor.agent.learning.learner import Learner
from candor.agent.learning.reporting import REPORTS, Reporting
from candor.agent.learning.rows import VELOCITY, TrainedRows
from candor.agent.tasks import resolve_task
from candor.agent.tasks.partition import Shard
from candor.mechanisms.evidence.phases import MIXED_MODEL
from candor.mechanisms.strategies.lies import LabelFlip, Scale
from candor.mechanisms.strategies.sending import KnownRun
from candor.topologies.cluster.file import AlgorithmSettings

DIGITS = resolve_task("digits:model=logistic")
AGENTS = 3
State = dict[str, Tensor]


def rows(specs: dict[int, str] | None = None, momentum: float = 0.0) -> TrainedRows:
    shards = [Shard(index, AGENTS) for index in range(AGENTS)]
    settings = AlgorithmSettings(local_steps=1, momentum=momentum)
    learner = Learner(DIGITS, shards, settings, batch_size=8, seed=0)
    reporting = Reporting(0, range(AGENTS), specs or {}, [[1, 2], [0, 2], [0, 1]])
    return TrainedRows(learner, reporting, lambda t: torch.full((AGENTS, 1), float(t)))


def start() -> Tensor:
    return initial_parameters(DIGITS, 0).repeat(AGENTS, 1)


def test_momentum_is_in_the_state_and_nowhere_else() -> None:
    one, x = rows(momentum=0.5), start()
    state: State = {}
    first = one.local_steps(x, 1, 0.1, state)
    assert torch.equal(state[VELOCITY], first)
    second = one.local_steps(x, 1, 0.1, state)
    torch.testing.assert_close(second, 1.5 * first)
    assert torch.equal(state[VELOCITY], second)
    # A fresh state is a fresh start, as after a re-entry.
    assert torch.equal(one.local_steps(x, 1, 0.1, {}), first)


def test_honest_agents_without_momentum_keep_nothing() -> None:
    one, x = rows(), start()
    state: State = {}
    gradient = one.local_steps(x, 1, 0.1, state)
    assert one.losses.shape == (AGENTS,)
    assert one.report(gradient, 1, state) is gradient
    assert one.reports is gradient
    assert state == {}
    assert one.mass(4).tolist() == [[4.0]] * AGENTS


def test_reports_are_kept_for_those_that_look_back() -> None:
    one = rows({1: "stale-copy"})
    state: State = {}
    first = one.report(torch.ones(AGENTS, 2), 1, state)
    assert torch.equal(state[REPORTS], first)
    second = one.report(torch.tensor([[4.0] * 2, [5.0] * 2, [6.0] * 2]), 2, state)
    assert second.tolist() == [[4.0] * 2, [1.0] * 2, [6.0] * 2]
    assert torch.equal(state[REPORTS], second)


@pytest.mark.parametrize(("phases", "signed"), [(MIXED_MODEL, -0.5), (MEDIAN, 1.0)])
def test_a_copier_reports_what_shows_of_its_neighbours_report(phases, signed) -> None:
    """From what both sent: models less a step of one half, or reports as they are."""
    known = KnownRun(phases=phases, step_size=lambda t: 1.0 / t)
    one = Reporting(0, [1], {0: "stale-copy"}, known=known)
    assert one.overhears == (0,)
    own, theirs, base = torch.tensor([1.0, 4.0, 2.0]), torch.tensor([3.0, -1.0, 5.0]), 8.0
    sent = torch.stack([base + signed * own, base + signed * theirs])
    sent[1, 2] = 0.0  # not given
    one.overheard(0, {0: sent})
    report = one.report(torch.full((1, 3), 9.0), 3, own[None])
    assert report.tolist() == [[3.0, -1.0, 0.0]]


@pytest.mark.parametrize(("spec", "named"), [("label-flip", [8]), ("honest", [])])
def test_who_alters_its_data_at_most_reports_honestly(spec: str, named: list[int]) -> None:
    reporting = Reporting(0, [7, 8, 9], {1: spec})
    gradient = torch.rand(3, 2)
    assert torch.equal(reporting.report(gradient, 1, None), gradient)
    assert list(reporting.by_agent()) == named


def test_strategies_are_told_by_the_place_of_their_agent() -> None:
    """With the data of one and the reports of the other."""
    reporting = Reporting(0, [7, 8, 9], {0: "label-flip", 2: "scale:3"})
    found = reporting.by_agent()
    assert found.keys() == {7, 9}
    assert isinstance(found[7], LabelFlip)
    assert isinstance(found[9], Scale)
    assert reporting.lies
    reports = reporting.report(torch.ones(3, 2), 1, None)
    assert reports[:, 0].tolist() == [1.0, 1.0, 3.0]
