"""`candor study honesty` audits cells, judges prices of one in others, names what is left out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from candor.agent.cli.studies.honesty import GRAPHS, TASKS, command
from candor.agent.studies.honesty import cells
from candor.topologies.cluster.file import DEFAULT_RULE
from candor.topologies.schedules import schedules

SHARDS = ("--partition", "dirichlet:0.5", "--partition", "iid", "--other-seeds")


def run(run_dir: Path, *options: str) -> Result:
    return CliRunner().invoke(command, ["--quick", "--run-dir", str(run_dir), *options])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run_dir = tmp_path_factory.mktemp("honesty")
    result = run(run_dir, "--json", *SHARDS)
    assert result.exit_code == 0, result.output
    return run_dir, json.loads(result.stdout)


def test_the_choices_are_the_cells_that_there_are() -> None:
    assert (set(TASKS), set(GRAPHS)) == (set(cells.TASKS), set(cells.GRAPHS))


@pytest.mark.parametrize(
    ("name", "agents", "degrees"),
    [
        ("ring", 10, {2}),
        ("random", 10, {1, 2, 3, 4, 5}),
        ("caterpillar", 10, {1, 2, 3}),
        ("karate", 34, {1, 2, 3, 4, 5, 6, 9, 10, 12, 16, 17}),
        ("bipartite", 8, {4}),
    ],
)
def test_the_graphs_are_those_of_the_page(name: str, agents: int, degrees: set[int]) -> None:
    graph = cells.GRAPHS[name]
    built = schedules.build(graph.topology, graph.agents, 0).union
    assert (len(built), {degree for _, degree in built.degree}) == (agents, degrees)


def test_every_cell_is_judged_free_by_the_default_and_at_its_own_prices(
    found: tuple[Path, dict[str, Any]],
) -> None:
    _, told = found
    assert told["setting"]["rule"] == DEFAULT_RULE
    places = [(one["cell"]["partition"], one["cell"]["seed"]) for one in told["cells"]]
    assert places == [("dirichlet:0.5", 0), ("iid", 0), ("dirichlet:0.5", 2)]
    for one in told["cells"]:
        assert one["agents"] == 10
        assert 0 < one["gaining"] <= 1
        for setting in (one["default"], one["suggested"]):
            assert setting["median"] <= setting["p98"] <= setting["worst"]
            assert setting["payer"]["degree"] in (1, 2, 3)
        assert one["free"]["high"] is None  # two seeds tell nothing
        assert one["suggested"]["best"]["gain"] <= one["free"]["gain"]
    assert told["left_out"] == []


def test_prices_of_the_first_shards_are_judged_on_the_others(
    found: tuple[Path, dict[str, Any]],
) -> None:
    _, told = found
    first = told["cells"][0]
    assert [one["judged"] for one in told["moved"]] == [one["cell"] for one in told["cells"][1:]]
    for move, cell in zip(told["moved"], told["cells"][1:], strict=True):
        assert move["fitted"] == first["cell"]
        assert move["setting"]["rule"] == first["suggested"]["rule"]
        assert move["own"] == cell["suggested"]


def test_the_same_command_goes_on_from_what_is_there(
    found: tuple[Path, dict[str, Any]],
) -> None:
    run_dir, told = found
    kept = {path: path.stat().st_mtime_ns for path in (run_dir / "runs").iterdir()}
    result = run(run_dir, *SHARDS, "--task", "breast-cancer", "--graph", "caterpillar")
    assert result.exit_code == 0, result.output
    assert {path: path.stat().st_mtime_ns for path in (run_dir / "runs").iterdir()} == kept
    assert json.loads((run_dir / "results.json").read_text()) == told
    assert "prices on other shards and seeds" in result.stdout
    page = (run_dir / "report.html").read_text()
    assert "iid, seeds from 0: what honest agents pay" in page
    assert "Left out" not in page


def test_cells_without_data_are_left_out_and_named(tmp_path: Path) -> None:
    few = ("--task", "fashion-mnist", "--data-root", str(tmp_path), "--partition", "iid")
    result = run(tmp_path / "none", *few)
    assert result.exit_code != 0
    assert "left out: fashion-mnist · caterpillar · iid · seeds from 0: " in result.stderr
    assert "train-images-idx3-ubyte.gz" in result.stderr
    assert "no cell could be run" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--partition", "by-name"), "partition 'by-name' is unknown"),
        (("--strategies", "boast:2"), "left out: .*boast"),
        (("--partition", "sorted"), "no parts of their own"),
    ],
)
def test_what_cannot_be_run_is_told_in_a_line(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    result = run(tmp_path / "run", *options)
    assert result.exit_code != 0
    told = f"{result.stderr} {result.exception}"
    assert re.search(words, told), told
