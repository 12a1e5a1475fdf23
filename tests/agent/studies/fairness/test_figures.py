"""The paper's figures, and what is claimed of runs beside them."""

import math
from dataclasses import replace

import pytest

from candor.agent.studies.fairness.figures import (
    COLUMNS,
    METHODS,
    Cell,
    measured,
    paper_of,
    rho,
    verdicts,
)
from candor.agent.studies.fairness.report import agent_rows, facts, render, rows
from candor.agent.studies.fairness.runs import Run

PLAIN = Cell("mnist", 10, "cla")


def made(
    cell: Cell, method: str, accuracies: list[float], rounds: int = 200, seed: int = 0, **asked
) -> Run:
    rows = tuple((tuple(1.0 - one for one in accuracies),) * rounds)
    shares = tuple((tuple(one / max(accuracies) for one in accuracies),) * rounds)
    return Run(
        cell.setting(method, rounds, seed),
        tuple(accuracies),
        (600,) * cell.agents,
        rows,
        tuple((tuple(asked.get("reputations", accuracies)),) * rounds),
        shares,
        rows,
        10.0,
        asked.get("mechanism_s", 1.0),
    )


ALONE = [0.05 * one for one in range(1, 11)]
FAIR = [0.50 + 0.048 * one for one in range(1, 11)]  # mean 76.4, highest 98


def runs(
    cell: Cell = PLAIN, fair: list[float] = FAIR, mean: list[float] | None = None, rounds: int = 200
):
    plain = mean or [0.6] * cell.agents
    return {
        cell: {
            "standalone": [made(cell, "standalone", ALONE[: cell.agents], rounds)],
            "fedavg": [made(cell, "fedavg", plain[: cell.agents], rounds)],
            "cgsv": [made(cell, "cgsv", fair[: cell.agents], rounds)],
        }
    }


def holds(found) -> list[bool | None]:
    return [one.holds for one in verdicts(found)]


def test_the_papers_tables_are_whole() -> None:
    for task, agents, partition in COLUMNS:
        for method in METHODS[:-1]:
            paper = paper_of(Cell(task, agents, partition), method)
            assert 0 < paper.mean <= paper.highest <= 100
            assert method == "standalone" or -100 <= paper.rho <= 100
            assert method == "standalone" or ":" in method or paper.overhead > 0
        assert math.isnan(paper_of(Cell(task, agents, partition), "rffl").mean)
    shown = paper_of(PLAIN, "cgsv")
    assert (shown.mean, shown.highest, shown.rho, shown.overhead) == (74, 95, 94.54, 0.05)
    assert paper_of(Cell("sst", 5, "pow"), "cgsv:beta=2").rho == 95.74
    assert math.isnan(paper_of(replace(PLAIN, free_riders=1), "cgsv").mean)
    assert math.isnan(paper_of(replace(PLAIN, agents=7), "cgsv").rho)
    assert math.isnan(paper_of(replace(PLAIN, task="mnist:model=mlp"), "cgsv").overhead)
    subset = replace(PLAIN, task="cifar10:file=some.npz")
    assert paper_of(subset, "cgsv") == paper_of(replace(PLAIN, task="cifar10"), "cgsv")


def test_fairness_is_a_correlation_and_none_where_all_are_equal() -> None:
    assert rho([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]) == pytest.approx(100.0)
    assert rho([0.1, 0.2, 0.3], [0.7, 0.6, 0.5]) == pytest.approx(-100.0)
    assert math.isnan(rho([0.1, 0.2], [0.5, 0.5]))
    assert math.isnan(rho([0.1, 0.1], [0.4, 0.5]))


def test_what_is_measured_is_over_honest_agents_and_seeds() -> None:
    cell = replace(PLAIN, agents=4, free_riders=1)
    several = {
        "standalone": [made(cell, "standalone", [0.1, 0.2, 0.3, 0.4], seed=s) for s in (0, 1)],
        "cgsv": [
            made(cell, "cgsv", [0.0, 0.5, 0.6, 0.7], seed=0),
            made(cell, "cgsv", [0.0, 0.7, 0.8, 0.9], seed=1, mechanism_s=3.0),
        ],
    }
    found = measured({cell: several}, cell, "cgsv")
    assert found.mean == pytest.approx(70.0)
    assert found.highest == pytest.approx(80.0)
    assert found.overhead == pytest.approx(0.2)
    assert found.rho == pytest.approx(89.95, abs=0.01)


def test_claims_hold_for_runs_as_in_the_paper() -> None:
    assert set(holds(runs())) == {True}
    assert len(holds(runs())) == 5


@pytest.mark.parametrize(
    "fair",
    [
        [one - 0.1 for one in FAIR],  # worse than the paper
        FAIR[::-1],  # unfair
    ],
)
def test_a_claim_that_does_not_hold_is_told_but_of_shortened_runs(fair) -> None:
    assert False in holds(runs(fair=fair))
    assert False not in holds(runs(fair=fair, rounds=20))
    assert None in holds(runs(fair=fair, rounds=20))


def test_a_fair_or_better_mean_and_a_slow_mechanism_are_told() -> None:
    assert holds(runs(mean=ALONE)).count(False) == 1
    images = Cell("cifar10", 10, "cla")
    assert False not in holds(runs(images))
    assert holds(runs(images, mean=[0.8] * 10)).count(False) == 1
    slow = runs()
    slow[PLAIN]["cgsv"] = [made(PLAIN, "cgsv", FAIR, mechanism_s=5.0)]
    assert holds(slow).count(False) == 1


def test_corrupted_labels_cost_reputation_in_their_order() -> None:
    cell = Cell("mnist", 5, "uni", (0.2, 0.4, 0.6, 0.0, 0.0))
    right = [0.7, 0.5, 0.3, 0.85, 0.9]
    assert holds(runs(cell, right)) == [True, True, True]
    assert holds(runs(cell, [0.5, 0.7, 0.3, 0.85, 0.9])) == [False, False, True]
    shown = agent_rows(cell, runs(cell, right)[cell]["cgsv"])
    assert [row[2] for row in shown] == ["20 %", "40 %", "60 %", "0 %", "0 %"]
    assert [row[4] for row in shown] == ["0.194", "0.088", "0.043", "0.331", "0.342"]


def test_free_riders_are_to_earn_less() -> None:
    cell = Cell("mnist", 4, "uni", (), 2)
    assert holds(runs(cell, [0.1, 0.2, 0.8, 0.9])) == [True, True, True]
    assert holds(runs(cell, [0.1, 0.79, 0.78, 0.9])) == [False, False, True]


def test_tables_and_page_are_of_all_that_was_run() -> None:
    found = runs()
    shown = rows(found, PLAIN)
    assert [row[0] for row in shown] == ["standalone", "fedavg", "cgsv"]
    assert shown[2][1:5] == ("74 (95)", "76.4 (98.0)", "94.5", "100.0")
    assert shown[1][4] == "–", "all have one model"
    told = facts(found, 200)
    assert [one["holds"] for one in told["verdicts"]] == holds(found)
    assert told["cells"][0]["methods"][2]["paper_rho"] == 94.54
    page = render(found, 200)
    assert page.count("<picture>") == 1 + 3
    assert "76.4 (98.0)" in page
