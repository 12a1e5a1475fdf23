"""What is trained is the same to the bit whether lies are paid for, evidence is kept, or none."""

from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from candor.agent.cli import main as cli
from candor.agent.runs.cluster_parts import sections
from candor.agent.runs.placeholder_agents import stand_in_entries
from candor.agent.runs.plan import Plan, cluster_of
from candor.agent.simulation.evidence import Billing
from candor.agent.simulation.vectorised import Simulation
from candor.mechanisms.payments.bills import parse_rule
from candor.topologies.cluster.file import DEFAULT_RULE, Cluster
from candor.topologies.encoding.canonical import sha256

LIARS = {"a1": "scale:3", "a2": "partial:0.5"}
DEAR = "norm:1e-3 + band:1e-3 + peer-prediction:1e-4"


def _cluster(payments: Mapping[str, Any], seed: int = 0) -> Cluster:
    asked = {
        "seed": seed, "task": "digits", "partition": "dirichlet:0.5", "batch_size": 32,
        "data_root": None, "initial": None, "rounds": 20, "rule": DEFAULT_RULE, "momentum": 0.5,
        **payments,
    }  # fmt: skip
    settings = {"strategies": LIARS, "evaluate_every": 20, "data_root": None, **sections(asked)}
    plan = Plan("erdos-renyi:p=0.5", 6, None, seed, **settings)
    return cluster_of(plan, Path("untouched"), stand_in_entries)


def _simulated(cluster: Cluster, *, measured: bool) -> str:
    simulation = Simulation(cluster, LIARS, measured=measured)
    for _ in range(cluster.rounds.rounds):
        simulation.step()
    if measured and cluster.payments.rule != "none":
        rule = parse_rule(cluster.payments.rule)
        assert Billing(cluster, rule)(simulation.evidence()).any()  # something was paid
    return sha256(simulation.parameters.numpy().tobytes()).hex()


def test_simulated_models_are_the_same_under_any_rule_and_without_evidence() -> None:
    settings = [
        {},
        {"rule": "none"},
        {"rule": DEAR, "window": 5},
        {"credit_limit": 10**12, "sketch_size": 64},
        {"replay": True},
    ]
    digests = {_simulated(_cluster(one), measured=True) for one in settings}
    digests.add(_simulated(_cluster({"rule": "none"}), measured=False))
    assert len(digests) == 1
    assert _simulated(_cluster({}, seed=1), measured=True) not in digests


def _trained(run_dir: Path, *options: str) -> list[str]:
    """The digests of what three daemons have trained, a process each."""
    words = ["testbed", "--task", "digits", "--agents", "3", "--topology", "path", "--rounds", "18"]
    lies = ["--strategy", "a2=scale:3"]
    with redirect_stdout(StringIO()):
        assert cli.run([*words, *lies, "--run-dir", str(run_dir), "--json", *options]) == 0
    found = []
    for agent in ("a0", "a1", "a2"):
        tensors = load_file(run_dir / "agents" / agent / "model.safetensors")
        found.append(sha256(b"".join(tensors[name].tobytes() for name in sorted(tensors))).hex())
    return found


@pytest.mark.e2e
def test_daemons_train_the_same_under_any_rule_and_with_rounds_kept(tmp_path: Path) -> None:
    plain = _trained(tmp_path / "none", "--rule", "none")
    assert len(set(plain)) == 3
    variants = {
        "default": (),
        "dear": ("--rule", DEAR, "--window", "5", "--sketch-size", "64"),
        "replay": ("--replay",),
    }
    for name, options in variants.items():
        assert _trained(tmp_path / name, *options) == plain, name
    assert _trained(tmp_path / "other", "--seed", "1") != plain
