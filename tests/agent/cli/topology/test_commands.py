"""`candor topology` draws every family, writes files it can read, and tells a machine the facts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from candor.agent.cli.studies import bench
from candor.agent.cli.topology.commands import command
from candor.topologies.graphs import graphs
from candor.topologies.graphs.families import FAMILIES
from candor.topologies.mixing import rules as mixing
from candor.topologies.specs.specs import ConfigurationError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def facts(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_a_subcommand_whose_file_shows_the_same(
    family: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "t.toml")
    drawn = facts(family, "--agents", "16", "-o", path)
    assert drawn["agents"] == [f"a{i}" for i in range(16)]
    assert facts("show", path) == drawn
    assert facts("show", drawn["topology"], "--agents", "16") == drawn


def test_the_facts_of_a_ring() -> None:
    assert facts("show", "ring", "--agents", "4") == {
        "topology": "ring",
        "agents": ["a0", "a1", "a2", "a3"],
        "edges": [["a0", "a1"], ["a0", "a3"], ["a1", "a2"], ["a2", "a3"]],
        "mixing": "metropolis-hastings",
        "spectral_gap": pytest.approx(2 / 3),
        "degree_min": 2,
        "degree_max": 2,
        "diameter": 2,
        "diameter_exact": True,
        "effective_diameter": 2,
        "consensus_error": 1e-6,
        "consensus_rounds": 13,  # (1 / 3) ** 13
        "articulation_points": [],
        "parameters": 1_000_000,
        "bytes_per_round_mean": 8e6,
        "bytes_per_round_max": 8_000_000,
    }


def test_the_facts_of_a_star_and_of_one_agent() -> None:
    star = facts("show", "star", "--agents", "5")
    assert (star["degree_min"], star["degree_max"], star["diameter"]) == (1, 4, 2)
    alone = facts("show", "ring", "--agents", "1")
    assert (alone["edges"], alone["diameter"], alone["spectral_gap"]) == ([], 0, 1.0)


def test_a_familys_parameters_are_options() -> None:
    drawn = facts("erdos-renyi", "--agents", "10", "--p", "0.5", "--seed", "3")
    assert drawn["topology"] == "erdos-renyi:p=0.5,seed=3"
    expected = graphs.sorted_edges(graphs.build("erdos-renyi:p=0.5,seed=3", 10))
    assert drawn["edges"] == [list(edge) for edge in expected]


def test_show_seeds_a_random_family() -> None:
    shown = facts("show", "erdos-renyi:p=0.5", "--agents", "10", "--seed", "3")
    drawn = facts("erdos-renyi", "--agents", "10", "--p", "0.5", "--seed", "3")
    assert shown["edges"] == drawn["edges"]


def test_the_files_mixing_holds_unless_another_is_asked_for(tmp_path: Path) -> None:
    path = str(tmp_path / "t.toml")
    drawn = facts("star", "--agents", "5", "--mixing", "max-degree", "-o", path)
    assert drawn["mixing"] == facts("show", path)["mixing"] == "max-degree"
    other = facts("show", path, "--mixing", "metropolis-hastings")
    assert other["mixing"] == "metropolis-hastings"
    assert facts("show", "ring", "--agents", "3")["mixing"] == "metropolis-hastings"


def test_a_person_sees_a_table_and_everyones_neighbours() -> None:
    lines = run("show", "ring", "--agents", "11").output.splitlines()
    assert "agents        11" in lines
    assert "neighbours    2" in lines
    assert "diameter      5 (90 % of pairs within 5)" in lines
    assert "weak points   none: no agent holds the graph together" in lines
    assert " a0 -- a1 a10" in lines
    assert "a10 -- a0 a9" in lines


def test_a_person_is_spared_a_thousand_lines() -> None:
    output = run("show", "ring", "--agents", "1000").output
    assert len(output.splitlines()) < 80
    assert "… and 936 more agents (--json lists all)" in output


def test_a_small_graph_is_drawn_for_a_person() -> None:
    output = run("show", "ring", "--agents", "8").output
    drawing = output.split("\n\n")[1]
    assert all(f"a{i} " in drawing or f"a{i}\n" in drawing for i in range(8))
    assert drawing.count("·") > 50
    assert "·" not in run("show", "complete", "--agents", "20").output


@pytest.mark.parametrize(("ending", "magic"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
@pytest.mark.usefixtures("drawn")
def test_a_graph_is_drawn_into_a_file(ending: str, magic: bytes, tmp_path: Path) -> None:
    for arguments in (("show", "star", "--agents", "60"), ("ring", "--agents", "8")):
        path = tmp_path / f"t{ending}"
        assert run(*arguments, "--draw", str(path)).exit_code == 0
        first = path.read_bytes()
        assert first.startswith(magic)
        run(*arguments, "--draw", str(path))
        assert path.read_bytes() == first


def test_topologies_are_compared(tmp_path: Path) -> None:
    path = str(tmp_path / "mine.edges")
    Path(path).write_text("x y\ny z\n")
    rows = {
        row["topology"]: row
        for row in facts("compare", "ring", "torus", "expander", "--agents", "64")
    }
    assert list(rows) == ["ring", "torus", "expander"]
    shown = facts("show", "torus", "--agents", "64")
    assert rows["torus"] == shown | {"agents": 64, "edges": 128}
    rounds = [row["consensus_rounds"] for row in rows.values()]
    assert rounds == sorted(rounds, reverse=True)
    table = run("compare", "ring", path, "--agents", "3").output
    assert max(map(len, table.splitlines())) <= 120
    assert re.search(r"ring +3 +2 +1 +1 +1 +8.0 MB +8.0 MB", table)
    assert facts("compare", path)[0]["articulation_points"] == ["y"]


def test_each_topology_is_measured_with_each_mixing() -> None:
    mixings = ("--mixing", "lazy", "--mixing", "best-constant")
    rows = facts("compare", "ring", "star", "--agents", "9", *mixings, "--measure")
    assert [(row["topology"], row["mixing"]) for row in rows] == [
        ("ring", "lazy"),
        ("ring", "best-constant"),
        ("star", "lazy"),
        ("star", "best-constant"),
    ]
    for row in rows:
        assert row["predicted_rate"] == 1 - row["spectral_gap"]
        assert row["measured_rate"] == pytest.approx(row["predicted_rate"], rel=1e-6)
    table = run("compare", "star", "--agents", "9", *mixings, "--measure").output
    assert [line.split()[-2:] for line in table.splitlines()[1:3]] == [
        [f"{row['predicted_rate']:.6f}", f"{row['measured_rate']:.6f}"] for row in rows[2:]
    ]


def test_schedules_are_measured_next_to_what_the_spectrum_predicts() -> None:
    specs = ("one-peer-exponential", "rotating:parts=3", "directed-ring", "failing:p=0.2")
    rows = facts("compare", *specs, "--agents", "9", "--measure")
    for row in rows[:3]:
        assert row["measured_rate"] == pytest.approx(row["predicted_rate"], rel=0.01)
        assert row["predicted_rate"] == pytest.approx(1 - row["spectral_gap"])
    assert rows[3]["predicted_rate"] is None
    assert 0 < rows[3]["measured_rate"] < 1
    table = run("compare", "failing:p=0.2", "--agents", "9", "--measure").output
    assert re.search(r"–\s+0\.\d{6}", table)


def test_the_base_that_a_schedule_took_is_said() -> None:
    assert facts("show", "failing:p=0.2", "--agents", "8")["base"] == "ring"
    assert "failing:p=0.2 (edges of ring)" in run("show", "failing:p=0.2", "--agents", "8").output
    assert "rotating (edges of complete)" in run("compare", "rotating", "--agents", "8").output
    assert facts("schedule", "random-matching", "--agents", "4")["base"] == "complete"
    shown = run("show", "failing:base=torus,p=0.2", "--agents", "8").output
    assert "edges of" not in shown
    assert "base" not in facts("show", "one-peer-exponential", "--agents", "8")


def test_a_schedule_is_measured() -> None:
    shown = facts("schedule", "one-peer-exponential", "--agents", "16", "--rounds", "4")
    assert shown["period"] == 4
    left = [line["disagreement"] for line in shown["rounds"]]
    assert left == sorted(left, reverse=True)
    assert left[2] > 0.1
    assert left[3] < 1e-12
    assert shown["rounds"][1]["edges"][0] == ["a0", "a2"]
    lines = run("schedule", "failing:p=0.5", "--agents", "8", "--rounds", "3").output.splitlines()
    assert lines[0] == "failing:p=0.5 (edges of ring): 8 agents, by chance"
    assert len(lines) == 6


def test_schedules_and_directed_graphs_are_shown_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "arcs.csv"
    path.write_text("Source,Target,Type\nx,y,Directed\ny,z,Directed\nz,x,Directed\n")
    shown = facts("show", str(path))
    assert (shown["mixing"], shown["edges"]) == ("push-sum", [["x", "y"], ["y", "z"], ["z", "x"]])
    lines = run("show", str(path)).output.splitlines()
    assert "x -> y" in lines
    shown = facts("show", "one-peer-exponential", "--agents", "16")
    assert (shown["period"], shown["consensus_rounds"]) == (4, 4)
    output = run("show", "failing:p=0.2", "--agents", "8").output
    assert "rounds        by chance, measured" in output
    specs = ("ring", "one-peer-exponential", "directed-ring", "random-matching")
    rows = facts("compare", *specs, "--agents", "8")
    assert [row["topology"] for row in rows] == list(specs)
    assert [row["mixing"] for row in rows] == [
        *["metropolis-hastings"] * 2,
        "push-sum",
        rows[0]["mixing"],
    ]
    assert facts("show", "ring", "--agents", "8", "--mixing", "push-sum")["mixing"] == "push-sum"


def test_no_number_is_cut_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    table = run("compare", "path", "--agents", "64").output
    assert "…" not in table
    assert "138 GB" in table


def test_many_neighbours_are_counted() -> None:
    output = run("show", "complete", "--agents", "300").output
    assert "… and 287 more" in output
    assert max(map(len, output.splitlines())) < 100


def test_a_matrix_of_ones_own_is_analysed(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("0.5,0.5\n0.5,0.5\n")
    assert facts("show", "ring", "--agents", "2", "--mixing", str(path))["consensus_rounds"] == 1


def test_every_rule_of_mixing_can_be_looked_at() -> None:
    for name in set(mixing.RULES) - {"fastest"}:
        assert facts("show", "grid", "--agents", "6", "--mixing", name)["mixing"] == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "ring", "--agents", "4", "--mixing", "best"], "unknown mixing 'best'"),
        (["show", "ring", "--agents", "4", "--mixing", "w.csv"], "cannot read the mixing matrix"),
        (["ring", "--agents", "4", "--mixing", "mean", "-o", "t.toml"], "unknown mixing 'mean'"),
        (["ring", "--agents", "4", "--draw", "t.pdf"], "a drawing ends in .svg or .png"),
        (["ring", "--agents", "1001", "--draw", "t.svg"], "at most 1000 agents and 20000 edges"),
        (["compare", "ring", "torus"], "--agents N"),
        (["compare", "ring", "torus", "--agents", "7"], "do not fill a grid"),
        (["schedule", "failing:p=2", "--agents", "4"], "p must be a number from 0 to below 1"),
        (["show", "ring"], "--agents N"),
        (["ring", "--agents", "4", "--mixing", "w.csv", "-o", "t.toml"], "holds no matrix"),
        (["show", "directed-ring", "--agents", "4", "--mixing", "lazy"], "use push-sum"),
        (["show", "none.toml"], "No such file"),
        (["torus", "--agents", "7"], "do not fill a grid"),
        (["erdos-renyi", "--agents", "5", "--p", "2"], "p must be a number from 0 to 1"),
        (["ring", "--agents", "4", "-o", "no/such/place/t.toml"], "cannot write it: No such file"),
    ],
)
def test_a_mistake_is_a_configuration_error(arguments: list[str], message: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, ConfigurationError)
    assert message in str(error)


def test_the_arcs_of_a_file_are_edges_where_told(tmp_path: Path) -> None:
    """As yEd saves every drawing: directed, here with nobody that x hears."""
    path = tmp_path / "drawn.csv"
    path.write_text("Source,Target,Type\nx,y,Directed\ny,z,Directed\n")
    refused = run("show", str(path)).exception
    assert isinstance(refused, ConfigurationError)
    assert "give --undirected" in str(refused)
    assert facts("show", str(path), "--undirected")["edges"] == [["x", "y"], ["y", "z"]]
    compared = facts("compare", str(path), "ring", "--undirected", "--agents", "3")
    assert [row["edges"] for row in compared] == [2, 3]
    failing = f"failing:base={path},p=0.5"
    refused = run("schedule", failing).exception
    assert "undirected: before its name" in str(refused)
    assert run("schedule", failing.replace("=", "=undirected:", 1)).exit_code == 0


@pytest.mark.parametrize("name", ["show", "compare", "schedule", *FAMILIES])
def test_every_subcommand_helps_with_an_example(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"candor topology {name}" in result.output


def test_large_topologies_are_timed() -> None:
    few = ["topologies", "--agents", "16", "--analysed", "16", "--calls", "1", "--json"]
    costs = json.loads(CliRunner().invoke(bench.command, few).stdout)
    assert {"ring", "complete"} < {cost["topology"] for cost in costs}
    assert {"best-constant", "analysis"} < {cost["what"] for cost in costs}
    assert all(cost["seconds"] > 0 and cost["agents"] == 16 for cost in costs)


def test_declared_sizes_slow_a_ring_down_and_their_shares_are_told() -> None:
    words = ("show", "ring", "--agents", "4", "--weights", "a0=1,a1=2,a2=3,a3=10")
    found = facts(*words)
    assert found["shares"] == pytest.approx([1 / 16, 1 / 8, 3 / 16, 5 / 8])
    assert found["spectral_gap"] == pytest.approx(0.28462, abs=1e-5)
    assert "a0 counts 0.0625 of the mean that all tend to, a3 0.625" in run(*words).output
    even = facts("show", "ring", "--agents", "4", "--weights", "a0=2,a1=2,a2=2,a3=2")
    plain = facts("show", "ring", "--agents", "4")
    assert even["spectral_gap"] == plain["spectral_gap"]
    assert facts("show", "ring", "--agents", "4", "--weights", "equal") == plain


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("ring", "--weights", "samples"), "a topology has no samples"),
        (("ring", "--weights", "a0=1"), "none is given of agent 'a1' and 2 more"),
        (("directed-ring", "--weights", "a0=1,a1=1,a2=1,a3=2"), "is only told without"),
        (("random-matching", "--weights", "a0=1,a1=1,a2=1,a3=2"), "is only told without"),
    ],
)
def test_sizes_that_a_topology_cannot_have_are_refused(
    words: tuple[str, ...], complaint: str
) -> None:
    result = run("show", *words, "--agents", "4")
    assert isinstance(result.exception, ConfigurationError)
    assert complaint in str(result.exception)
    assert "\n" not in str(result.exception)
