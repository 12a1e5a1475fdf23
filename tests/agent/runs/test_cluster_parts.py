"""Which metric counts stands in the cluster file; a host that measures another is told."""

from pathlib import Path

import pytest

from candor.agent.learning.initial import verified_initial_parameters
from candor.agent.runs.cluster_parts import task_settings
from candor.agent.tasks import resolve_task
from candor.topologies.cluster.file import TaskSettings
from candor.topologies.specs.specs import ConfigurationError

TASK = """
import torch
from torch import nn

class Task:
    {says}

    def build_model(self):
        return nn.Linear(2, 1)

    def load_data(self, shard, seed):
        return torch.ones(8, 2), torch.ones(8)

    def loss(self, model, batch):
        return (model(batch[0])[:, 0] - batch[1]).square().mean()

    def evaluate(self, model):
        return 1.0
"""


@pytest.fixture
def settings_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Writes a task of this name that says something of itself; its section of a cluster file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def settings(module: str, says: str) -> TaskSettings:
        (tmp_path / f"{module}.py").write_text(TASK.format(says=says))
        return task_settings(f"{module}:Task", 0, None)

    return settings


@pytest.mark.parametrize(
    ("module", "says", "metric", "better"),
    [
        ("says_nothing", "pass", None, None),
        ("says_accuracy", 'metric = "accuracy"; higher_is_better = True', None, None),
        ("says_r2", 'metric = "r2"', "r2", None),
        ("says_rmse", 'metric = "rmse"; higher_is_better = False', "rmse", "lower"),
    ],
)
def test_a_cluster_file_has_the_metric_that_its_task_names(  # type: ignore[no-untyped-def]
    module: str, says: str, metric: str | None, better: str | None, settings_of
) -> None:
    found = settings_of(module, says)
    assert (found.metric, found.better) == (metric, better)
    assert (found.metric_name, found.better_values) == (metric or "accuracy", better or "higher")
    assert len(verified_initial_parameters(resolve_task(found.name), found, seed=0)) == 3


def test_a_host_whose_task_measures_another_way_is_told_in_one_line(settings_of) -> None:  # type: ignore[no-untyped-def]
    here = settings_of("measured_here", 'metric = "rmse"; higher_is_better = False')
    for stated, words in (
        ({"metric": None, "better": None}, "that accuracy counts, higher is better"),
        ({"better": None}, "that rmse counts, higher is better"),
        ({"metric": "r2"}, "that r2 counts, lower is better"),
    ):
        with pytest.raises(ConfigurationError) as told:
            verified_initial_parameters(
                resolve_task(here.name), here.model_copy(update=stated), seed=0
            )
        line = str(told.value)
        assert line.startswith(
            "task 'measured_here:Task' says that rmse counts, lower is better, and the cluster file"
        )
        assert words in line
        assert "\n" not in line
