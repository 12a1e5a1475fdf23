"""What lies cost is measured: who lies or idles pays, far more than honest ones do where shards are
alike."""

import json

import pytest
from click.testing import CliRunner

from candor.agent.cli.main import command
from candor.agent.studies.bench.payments import IDLING, RULES, Cell, measure_payments

CAUGHT = ("scale:4", "scale:0.5", "scale:0", "stale-copy")


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return measure_payments(8, 48, 1, strategies=CAUGHT)


def test_lies_pay_and_where_shards_are_alike_three_times_the_most_of_an_honest_agent(
    cells: list[Cell],
) -> None:
    assert {(cell.topology, cell.partition) for cell in cells} == {
        (graph, partition)
        for graph in ("erdos-renyi", "ring")
        for partition in ("iid", "dirichlet:0.5")
    }
    for cell in cells:
        if cell.partition == "iid":
            assert cell.pays[IDLING] >= 3 * max(0.0, cell.honest_pays[IDLING]), cell
        assert cell.pays[IDLING] > 0, cell
        assert cell.pays_more[IDLING] > 0, cell


def test_a_lie_up_gains_and_idling_costs_quality(cells: list[Cell]) -> None:
    for cell in cells:
        assert (cell.gain > 0) is (cell.strategy == "scale:4"), cell


def test_the_norm_rule_pays_an_agent_for_sending_nothing(cells: list[Cell]) -> None:
    assert all(cell.pays["norm"] < 0 for cell in cells if cell.strategy == "scale:0")


def test_each_cell_has_every_rule(cells: list[Cell]) -> None:
    for cell in cells:
        for amounts in (cell.pays, cell.honest_pays, cell.pays_more):
            assert tuple(amounts) == RULES


def test_the_command_prints_every_cell_as_json() -> None:
    arguments = ["bench", "payments", "--agents", "3", "--rounds", "16", "--seeds", "1"]
    result = CliRunner().invoke(command, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    assert {"topology", "partition", "strategy", "gain", "pays", "honest_pays", "pays_more"} == set(
        measured[0]
    )
    assert len(measured) == 2 * 2 * 12
