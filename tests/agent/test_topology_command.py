"""`candor topology` draws every family, writes files it can read, and tells a machine the facts."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.commands.topology import command
from topologies import graphs
from topologies.families import FAMILIES
from topologies.specs import ConfigurationError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def facts(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    shown: dict[str, Any] = json.loads(result.output)
    return shown


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
    assert "diameter      5" in lines
    assert " a0 -- a1 a10" in lines
    assert "a10 -- a0 a9" in lines


def test_a_person_is_spared_a_thousand_lines() -> None:
    output = run("show", "ring", "--agents", "1000").output
    assert len(output.splitlines()) < 80
    assert "… and 936 more agents (--json lists all)" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "ring"], "--agents N"),
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


@pytest.mark.parametrize("name", ["show", *FAMILIES])
def test_every_subcommand_helps_with_an_example(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"candor topology {name}" in result.output
