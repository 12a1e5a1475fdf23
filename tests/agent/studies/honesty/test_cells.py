"""The cells of the table: which audits they are."""

import pytest

from candor.agent.studies.audit.question import FINE_TUNE, TERMS
from candor.agent.studies.honesty.cells import (
    GRAPHS,
    LOCAL_STEPS,
    PARTITION,
    TASKS,
    Cell,
    question_of,
)
from candor.agent.tasks.partition import check_partition


def test_a_cell_is_the_audit_of_its_task_graph_shards_and_seeds() -> None:
    question = question_of(Cell("digits", "caterpillar", "iid", seed=3), 2, None)
    assert [one.seed for one in question.clusters] == [3, 4]
    for one in question.clusters:
        assert one.task.name == TASKS["digits"].task
        assert one.task.partition == "iid"
        assert one.rounds.rounds == TASKS["digits"].rounds
        assert one.algorithm.step_size == TASKS["digits"].step_size
        assert one.algorithm.local_steps == LOCAL_STEPS
        assert one.payments.rule == TERMS
        assert len(one.ids) == 10
    assert question.fine_tune == FINE_TUNE


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_agents_of_fewest_and_most_neighbours_lie(graph: str) -> None:
    question = question_of(Cell("breast-cancer", graph, "iid"), 1, None, rounds=4)
    (cluster,) = question.clusters
    assert cluster.rounds.rounds == 4
    degrees = [len(cluster.neighbours(agent)) for agent in cluster.ids]
    lying = [len(cluster.neighbours(agent)) for agent in question.agents]
    assert lying == sorted({min(degrees), max(degrees)})


def test_the_default_partition_is_one() -> None:
    check_partition(PARTITION)
