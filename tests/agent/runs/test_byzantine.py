"""Attackers that are drawn: as many as asked for, and never too many around one honest agent."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import networkx as nx
import pytest

from candor.agent.cli import main as cli
from candor.agent.cli.plan import plan_of
from candor.agent.runs.byzantine import drawn, most_around, with_byzantine
from candor.agent.runs.plan import Plan
from candor.topologies.cluster.file import (
    AlgorithmSettings,
    PaymentSettings,
    RoundSettings,
    TaskSettings,
)
from candor.topologies.specs.specs import ConfigurationError


def plan(topology: str, agents: int, limit: int | None = None, **fields: object) -> Plan:
    algorithm = AlgorithmSettings(max_byzantine=limit)
    task = TaskSettings(name="digits", parameters=1, model_digest="0" * 64)
    made = Plan(
        topology,
        agents,
        None,
        3,
        task,
        algorithm,
        RoundSettings(rounds=2),
        PaymentSettings(),
        {},
        1,
        None,
    )
    return replace(made, **fields)


@pytest.mark.parametrize("seed", range(30))
def test_a_set_is_found_exactly_where_there_is_one(seed: int) -> None:
    graph = nx.gnp_random_graph(9, 0.35, seed=seed)
    around = {f"a{i}": frozenset(f"a{k}" for k in graph[i]) for i in range(9)}
    free = sorted(around)[1:]
    for count in (1, 2, 4):
        for limit in (0, 1, 2):
            allowed = [c for c in combinations(free, count) if most_around(around, c) <= limit]
            found = drawn(around, free, count, limit, seed)
            assert (found is None) == (not allowed)
            assert found is None or tuple(found) in allowed


def test_all_seeds_draw_sets_of_their_own_and_the_same_ones_again() -> None:
    made = {
        seed: with_byzantine(plan("random-regular:degree=6", 15, seed=seed), "3:ipm:0.5")
        for seed in range(12)
    }
    assert len({one.byzantine for one in made.values()}) > 6
    for seed, one in made.items():
        assert one.strategies == dict.fromkeys(one.byzantine, "ipm:0.5")
        assert len(one.byzantine) == 3
        assert "a0" not in one.byzantine
        again = with_byzantine(plan("random-regular:degree=6", 15, seed=seed), "3:ipm:0.5")
        assert again == one


def test_the_declared_number_is_the_most_there_are_or_a_limit() -> None:
    assert with_byzantine(plan("complete", 13), "3:avg-zero").algorithm.max_byzantine == 3
    made = with_byzantine(plan("random-regular:degree=4", 20, 1), "3:avg-zero")
    assert made.algorithm.max_byzantine == 1
    ring = with_byzantine(plan("ring", 9, 2), "2:infinity")
    assert ring.algorithm.max_byzantine == 2


@pytest.mark.parametrize(
    ("asked", "limit", "words"),
    [
        ("three:ipm", None, "write COUNT:ATTACK"),
        ("3", None, "write COUNT:ATTACK"),
        ("0:ipm", None, "write COUNT:ATTACK"),
        ("8:ipm", None, "7 of 8 agents can be drawn"),
        ("3:ipm", 2, "found no 3 agents of complete"),
    ],
)
def test_what_cannot_be_is_one_line(asked: str, limit: int | None, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        with_byzantine(plan("complete", 8, limit), asked)


def test_a_second_kind_of_attackers_is_refused_and_not_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["simulate", "--agents", "5", "--topology", "complete", "--task", "digits"]
    asked += ["--rounds", "1", "--byzantine", "1:ipm", "--byzantine", "1:infinity"]
    assert cli.run([*asked, "--run-dir", str(tmp_path / "run")]) == 2
    assert "'--byzantine': give it once" in capsys.readouterr().err


def test_agents_with_a_strategy_are_not_drawn_and_attackers_among_them_do_not_count() -> None:
    asked = {
        "topology": "complete",
        "agents": 6,
        "seed": 1,
        "data_root": None,
        "initial": None,
        "mixing_name": None,
        "strategies": ("a1=scale:3", "a2=flip-vector"),
        "byzantine": "2:ipm",
        "task": "digits:model=logistic",
        "rounds": 1,
        **AlgorithmSettings().model_dump(exclude={"name"}),
        "algorithm": "decentralized-sgd",
    }
    settings = {**RoundSettings(rounds=1).model_dump(), **PaymentSettings().model_dump()}
    made = plan_of({**settings, "partition": "iid", "batch_size": 32, **asked}, 1, simulated=True)
    assert set(made.byzantine) > {"a2"}
    assert len(made.byzantine) == 3
    assert not {"a0", "a1"} & set(made.byzantine)
    assert made.strategies["a1"] == "scale:3"
