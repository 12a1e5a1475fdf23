"""Runs side by side are the runs that each would be alone."""

import numpy as np
import pytest

from candor.agent.simulation.evidence import Billing
from candor.agent.simulation.side_by_side import fits, side_by_side
from candor.agent.simulation.vectorised import Simulation
from candor.agent.tasks import resolve_task
from candor.mechanisms.payments.bills import parse_rule
from candor.topologies.cluster.file import Cluster
from tests.agent.simulation.test_vectorised import cluster

RULE = "scaled:1e-3 + excess:1e-3 + originality:1e-3 + persistence:1e-3 + norm:1e-4"
LIES = (
    {"a0": "scale:2"},
    {"a1": "noise:0.5"},
    {"a0": "colluding:2", "a1": "colluding:2"},
    {"a0": "colluding:2", "a3": "colluding:2"},
    {"a2": "stale-copy"},
    {"a3": "mix:own=1,near=0.5,slow=2,windows=2"},
)


def small(task: str = "digits:model=logistic", **asked: int) -> Cluster:
    return cluster(
        4, rounds=6, rule=RULE, window=4, local_steps=2, batch_size=8, task=task, **asked
    )


@pytest.mark.parametrize("sketch_size", [1024, 400])
def test_models_evidence_and_balances_are_those_of_each_run_alone(sketch_size: int) -> None:
    run = small(sketch_size=sketch_size)
    together = Simulation(run, LIES, measured=True)
    alone = [Simulation(run, lies, measured=True) for lies in LIES]
    for _ in range(6):
        done = together.step()
        each = [one.step() for one in alone]
        found = np.concatenate([one.parameters.numpy() for one in each])
        np.testing.assert_allclose(done.parameters.numpy(), found, rtol=1e-5, atol=1e-7)
        untrue = np.concatenate([one.untrue for one in alone])
        assert together.untrue.tolist() == untrue.tolist()
    payments, beside = parse_rule(RULE), side_by_side(run, len(LIES))
    balances = Billing(beside, payments)(together.evidence()).reshape(len(LIES), -1)
    place = 0
    for row, one in zip(balances, alone, strict=True):
        expected = Billing(run, payments)(one.evidence())
        part = together.evidence().of(slice(place, place + 4))
        assert (Billing(run, payments)(part) == row).all()
        place += 4
        assert np.abs(row - expected).max() <= 1 + 1e-4 * np.abs(expected).max()
        assert row.sum() == 0


def test_a_run_that_diverges_leaves_the_others_as_they_are() -> None:
    run = small()
    together = Simulation(run, [{"a0": "scale:1e40"}, {"a0": "scale:2"}], measured=True)
    alone = Simulation(run, {"a0": "scale:2"}, measured=True)
    for _ in range(6):
        done, expected = together.step().parameters, alone.step().parameters
    assert not done[:4].isfinite().all()
    np.testing.assert_allclose(done[4:].numpy(), expected.numpy(), rtol=1e-5, atol=1e-7)


def test_what_is_hidden_is_refused_in_its_own_run_alone() -> None:
    run = small(sketch_size=512)
    lies = [{"a0": "unseen:40"}, {"a0": "scale:2"}]
    together = Simulation(run, lies, measured=True)
    alone = [Simulation(run, one, measured=True) for one in lies]
    for _ in range(6):
        done = together.step().parameters.numpy()
        found = np.concatenate([one.step().parameters.numpy() for one in alone])
        np.testing.assert_allclose(done, found, rtol=1e-4, atol=1e-6)


def test_one_run_is_itself_and_copies_do_not_meet() -> None:
    run = small()
    assert side_by_side(run, 1) is run
    beside = side_by_side(run, 3)
    assert beside.fingerprint == run.fingerprint
    assert len(beside.ids) == 12
    matrix = beside.mixing_matrix()
    for place in range(3):
        rows = slice(4 * place, 4 * place + 4)
        assert (matrix[rows, rows] == run.mixing_matrix()).all()
        assert matrix[rows].sum() == pytest.approx(4)


@pytest.mark.parametrize(
    ("strategy", "together"),
    [
        ("scale:2 + averaged:0.4", True),
        ("mix:own=1,near=-1 @ 2-5", True),
        ("label-flip", False),
        ("scale:2 + few:0.1", False),
        ("flip-vector", False),
        ("tests.agent.simulation.test_side_by_side:Mine", False),
    ],
)
def test_what_alters_samples_or_what_is_sent_runs_alone(strategy: str, *, together: bool) -> None:
    run = small()
    assert fits(run, resolve_task(run.task.name), strategy) is together
