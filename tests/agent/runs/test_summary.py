"""What a summary says was reached, whichever metric counts."""

import math

from candor.agent.runs.summary import agreement_of, reached
from candor.agent.tasks.measured import Measured
from candor.topologies.cluster.file import TaskSettings

ACCURACY = TaskSettings(name="digits", parameters=2, model_digest="00" * 32)
RMSE = ACCURACY.model_copy(update={"metric": "rmse", "better": "lower"})
MEASURED = {
    "a0": Measured(1.0, {"rmse": 1.0, "r2": 0.5}, 3.0),
    "a1": Measured(2.0, {"rmse": 2.0, "r2": -0.5}),
}


def test_the_worst_is_the_highest_where_lower_values_are_better() -> None:
    assert reached(RMSE, MEASURED) == {
        "metric": "rmse",
        "better": "lower",
        "accuracy": {"a0": 1.0, "a1": 2.0},
        "mean_accuracy": 1.5,
        "min_accuracy": 2.0,
        "metrics": {"a0": {"rmse": 1.0, "r2": 0.5}, "a1": {"rmse": 2.0, "r2": -0.5}},
        "local_metric": {"a0": 3.0},
    }


def test_of_one_number_there_is_nothing_more_to_say() -> None:
    found = reached(ACCURACY, {"a0": Measured(0.5), "a1": Measured(0.75)})
    assert found == {
        "metric": "accuracy",
        "better": "higher",
        "accuracy": {"a0": 0.5, "a1": 0.75},
        "mean_accuracy": 0.625,
        "min_accuracy": 0.5,
    }


def test_one_that_is_undefined_makes_mean_and_worst_undefined() -> None:
    for task in (ACCURACY, RMSE):
        found = reached(task, {"a0": Measured(math.nan), "a1": Measured(0.75)})
        assert math.isnan(found["mean_accuracy"])
        assert math.isnan(found["min_accuracy"])
    assert reached(ACCURACY, {})["mean_accuracy"] is None


def test_agreement_is_told_of_the_agent_that_moved_most_in_the_rounds_that_all_have() -> None:
    assert agreement_of([]) == agreement_of([[], []]) == {}
    assert agreement_of([[9, 1, 2, 4], [1, 3, 1]]) == {"agreement_moves": {"mean": 8 / 3, "max": 4}}
