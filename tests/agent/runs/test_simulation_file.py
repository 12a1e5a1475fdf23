"""Columns of a simulated run: what was measured reads back, whenever a task begins to name it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.runs import simulation_file
from candor.agent.runs.simulation_file import About, Columns, metrics_of
from candor.agent.tasks.measured import Measured

AGENTS = 2
_numbers = st.floats(allow_nan=False, allow_infinity=False)
_names = st.sampled_from(["rmse", "r2", "top/5", "state/x", "é", ""])
_measured = st.builds(
    Measured,
    value=_numbers,
    metrics=st.dictionaries(_names, _numbers, max_size=3),
    local=st.none() | _numbers,
)
_evaluations = st.lists(
    st.lists(_measured, min_size=AGENTS, max_size=AGENTS), min_size=1, max_size=4
)


def columns_of(evaluations: list[list[Measured]]) -> Columns:
    """Every second round is evaluated."""
    columns = Columns()
    for t in range(1, 2 * len(evaluations) + 1):
        columns.add(
            seconds=torch.tensor(float(t), dtype=torch.float64),
            train_loss=torch.zeros(AGENTS),
            injected_norm=torch.zeros(AGENTS),
        )
        if t % 2 == 0:
            columns.add_evaluation(t, evaluations[t // 2 - 1], 0.5)
    return columns


def known(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


@given(evaluations=_evaluations)
def test_what_was_measured_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, evaluations: list[list[Measured]]
) -> None:
    path = tmp_path_factory.mktemp("simulation") / "simulation.safetensors"
    about = About("ab" * 32, {}, 2)
    state = {"state/round": torch.tensor(1), "model/metric/weight": torch.zeros(1)}
    simulation_file.write(path, about, columns_of(evaluations).tensors() | state)
    _, tensors = simulation_file.read(path)
    for row in range(AGENTS):
        lines = metrics_of(tensors, row)
        for t, line in enumerate(lines, start=1):
            if t % 2:
                assert (line.test_accuracy, line.local_metric, line.metrics) == (None, None, {})
                continue
            given = evaluations[t // 2 - 1][row]
            assert line.test_accuracy == given.value
            assert known(dict(line.metrics)) == given.metrics
            if given.local is None:
                assert line.local_metric is None or math.isnan(line.local_metric)
            else:
                assert line.local_metric == given.local
    columns = Columns.of(tensors)
    assert not [name for name in columns.rows if name.startswith(("state/", "model/"))]
    last = columns.measured(AGENTS)
    assert [one.value for one in last] == [one.value for one in evaluations[-1]]
    assert [known(dict(one.metrics)) for one in last] == [one.metrics for one in evaluations[-1]]


def test_a_file_without_named_metrics_has_no_more_columns_than_before() -> None:
    columns = columns_of([[Measured(0.5), Measured(0.25)]])
    assert set(columns.tensors()) == {
        *("seconds", "train_loss", "injected_norm"),
        *("evaluated", "test_accuracy", "consensus_distance"),
    }
    (first, _) = columns.measured(AGENTS)
    assert first == Measured(0.5)
