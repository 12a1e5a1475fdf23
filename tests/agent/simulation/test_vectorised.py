from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from candor.agent.learning.initial import initial_parameters
from candor.agent.runs.baselines import (
    BATCH_MAX,
    alone_accuracy,
    centralised_accuracy,
    centralised_batch,
)
from candor.agent.simulation.vectorised import RoundResult, Simulation, run_vectorised
from candor.agent.tasks import resolve_task
from candor.topologies.cluster.file import (
    AgentEntry,
    AlgorithmSettings,
    Cluster,
    PaymentSettings,
    RoundSettings,
    TaskSettings,
    assemble_cluster,
    model_digest,
)
from candor.topologies.encoding import z85
from candor.topologies.schedules import schedules
from candor.topologies.specs.specs import ConfigurationError

SEED = 0


def cluster(
    agents: int = 4,
    *,
    rounds: int = 6,
    rule: str = "norm:2e-5",
    window: int = 4,
    sketch_size: int = 1024,
    task: str = "digits",
    partition: str = "dirichlet:0.5",
    local_steps: int = 8,
    batch_size: int = 32,
) -> Cluster:
    """A ring; its keys and endpoints are well-formed and unused."""
    ids = [f"a{i}" for i in range(agents)]
    ring = nx.relabel_nodes(nx.cycle_graph(agents), dict(enumerate(ids)))
    ring.remove_edges_from(list(nx.selfloop_edges(ring)))
    x = initial_parameters(resolve_task(task), SEED).numpy()
    return assemble_cluster(
        run_id="test",
        seed=SEED,
        graph=schedules.fixed(ring, "ring"),
        agents=[
            AgentEntry(
                id=agent,
                endpoint=f"tcp://127.0.0.1:{5000 + i}",
                identity=f"{i + 1:064x}",
                curve=z85.encode(i.to_bytes(32, "big")),
            )
            for i, agent in enumerate(ids)
        ],
        task=TaskSettings(
            name=task,
            partition=partition,
            batch_size=batch_size,
            parameters=len(x),
            model_digest=model_digest(x),
        ),
        rounds=RoundSettings(rounds=rounds),
        algorithm=AlgorithmSettings(step_size=0.3, step_decay=0.0, local_steps=local_steps),
        payments=PaymentSettings(rule=rule, window=window, sketch_size=sketch_size),
    )


def test_two_agents_learn_digits_together() -> None:
    result = run_vectorised(cluster(2, rounds=40), {})
    assert min(result.accuracy.values()) > 0.92
    assert (result.losses[-5:] < result.losses[:5]).all()


def test_payments_leave_the_models_untouched_to_the_last_bit() -> None:
    lies = {"a1": "scale:3"}
    paid = run_vectorised(cluster(rule="norm:2e-5"), lies)
    free = run_vectorised(cluster(rule="none"), lies)
    assert torch.equal(paid.parameters, free.parameters)
    assert set(free.balances.values()) == {0}
    assert paid.balances["a1"] < 0
    assert sum(paid.balances.values()) == 0


def test_the_run_is_reproducible() -> None:
    once, again = (run_vectorised(cluster(), {"a2": "noise:1"}) for _ in range(2))
    assert torch.equal(once.parameters, again.parameters)
    assert once.balances == again.balances


def test_the_agent_that_scales_is_seen_and_billed() -> None:
    result = run_vectorised(cluster(8, rounds=16, window=16), {"a3": "scale:3"})
    norms = result.injected_norms.mean(axis=0)
    # Some 2.05 times as much; a sketch shows it within 3 %, with other signs for each file.
    assert norms[3] > 1.9 * np.delete(norms, 3).max()
    others = min(balance for agent, balance in result.balances.items() if agent != "a3")
    assert result.balances["a3"] < 5 * others < 0 or others >= 0 > result.balances["a3"]


def test_what_is_hidden_from_traces_is_billed_nearly_as_what_is_not() -> None:
    """12 of 13 parts of its energy: it was charged nothing while noise was read from traces."""
    run = cluster(8, rounds=16, window=16, rule="variance:1e-4")
    plain, hidden = (run_vectorised(run, {"a3": f"{lie}:4"}) for lie in ("scale", "untraced"))
    assert hidden.balances["a3"] < 0.6 * plain.balances["a3"] < 0


def test_what_is_measured_is_what_was_injected() -> None:
    """With sketches as long as the model the evidence is exact: replay it from the models."""
    run = cluster(4, rounds=5, window=2, sketch_size=4096, local_steps=1)
    reports: list[np.ndarray] = []
    seen: list[RoundResult] = []
    result = run_vectorised(run, {"a1": "scale:0"}, on_round=seen.append)
    mixing = run.mixing_matrix()
    x = initial_parameters(resolve_task("digits"), SEED).repeat(4, 1).double().numpy()
    for this in seen:
        # x' = W (x - step u), so u = (x - W^-1 x') / step.
        mixed = this.parameters.double().numpy()
        reports.append((x - np.linalg.solve(mixing, mixed)) / 0.3)
        x = mixed
    expected = np.linalg.norm(np.stack(reports), axis=2)
    assert np.allclose(result.injected_norms, expected, rtol=1e-4, atol=1e-4)
    assert (result.injected_norms[:, 1] < 1e-4).all()
    assert (result.injected_norms[:, [0, 2, 3]] > 0.1).all()


def test_sketches_show_the_injected_norms_nearly() -> None:
    """Across a change of signs, too: round 3 is measured under other signs than round 2."""
    exact = run_vectorised(cluster(window=2, sketch_size=4096), {}).injected_norms
    sketched = run_vectorised(cluster(window=2, sketch_size=512), {}).injected_norms
    ratio = sketched / exact
    assert np.abs(ratio - 1).max() < 0.25  # deviation of a norm: about sqrt(2 / 512) / 2 = 0.03
    assert (ratio != 1).all()


def test_a_last_partial_window_is_settled_too() -> None:
    by_window = run_vectorised(cluster(rounds=6, window=4), {"a0": "scale:4"})
    whole = run_vectorised(cluster(rounds=4, window=4), {"a0": "scale:4"})
    energies = by_window.injected_norms**2
    assert by_window.balances["a0"] < whole.balances["a0"] < 0
    paid = 2e-5 * 1e6 * energies.sum(axis=0) / 2  # micro-credits to each of two neighbours
    expected = paid[1] + paid[3] - 2 * paid[0]
    assert by_window.balances["a0"] == pytest.approx(expected, abs=8)


def test_rounds_and_on_round_follow_the_run() -> None:
    seen: list[RoundResult] = []
    result = run_vectorised(cluster(rounds=9), {}, rounds=3, on_round=seen.append)
    assert [this.round for this in seen] == [1, 2, 3]
    assert torch.equal(seen[-1].parameters, result.parameters)
    assert result.losses.shape == result.injected_norms.shape == (3, 4)
    assert np.array_equal(np.stack([this.losses for this in seen]), result.losses)


def test_one_agent_alone_is_the_centralised_run() -> None:
    single = cluster(1, rounds=5)
    result = run_vectorised(single, {})
    assert result.balances == {"a0": 0}
    assert result.accuracy["a0"] == centralised_accuracy(single)
    assert alone_accuracy(single) == result.accuracy


@pytest.mark.parametrize(
    ("agents", "settings"),
    [
        (24, {"rounds": 24, "local_steps": 1, "partition": "iid"}),
        (8, {"rounds": 40, "local_steps": 1, "partition": "iid"}),
        (5, {"rounds": 10, "local_steps": 4}),
    ],
)
def test_one_model_on_all_data_is_not_below_the_network(
    agents: int, settings: dict[str, Any]
) -> None:
    run = cluster(agents, **settings)
    together = run_vectorised(run, {}).accuracy
    assert centralised_batch(run) == agents * run.task.batch_size
    assert centralised_accuracy(run) >= np.mean(list(together.values()))


def test_the_batch_of_the_one_model_is_bounded() -> None:
    assert centralised_batch(cluster(100, batch_size=64, partition="iid")) == BATCH_MAX
    assert centralised_batch(cluster(2, batch_size=2 * BATCH_MAX, partition="iid")) == 2 * BATCH_MAX


def test_together_is_better_than_alone_and_near_the_centralised_run() -> None:
    run = cluster(4, rounds=40)
    together = run_vectorised(run, {}).accuracy
    alone = alone_accuracy(run)
    assert all(together[agent] > alone[agent] + 0.05 for agent in run.ids)
    assert min(together.values()) > centralised_accuracy(run) - 0.05


def test_a_users_task_and_strategy_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_run_for_test.py").write_text(
        """
import torch
from torch import nn

class Line:
    def build_model(self):
        return nn.Linear(1, 1, bias=False)
    def load_data(self, shard, seed):
        x = torch.linspace(-1, 1, 40).reshape(-1, 1)
        chosen = torch.from_numpy(shard.select(x[:, 0].numpy(), seed))
        return x[chosen], 3 * x[chosen]
    def loss(self, model, batch):
        x, y = batch
        return (model(x) - y).square().mean()
    def evaluate(self, model):
        return 1.0 if abs(float(model.weight) - 3) < 0.1 else 0.0

class Half:
    def report(self, gradient, context):
        assert context.agents == (0, 2)
        return gradient / 2
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = cluster(4, rounds=20, task="my_run_for_test:Line", partition="iid")
    lies = {"a2": "my_run_for_test:Half", "a0": "my_run_for_test:Half"}
    assert set(run_vectorised(run, lies).accuracy.values()) == {1.0}


def test_a_users_rule_sees_energies_and_traces_of_every_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_rule_for_test.py").write_text(
        """
class Steadiness:
    edge_local = True
    def charges(self, neighbourhood):
        total = neighbourhood.traces.sum(axis=-2)  # over the rounds of a window
        assert neighbourhood.energies.shape[0] == 2  # windows; the next axis is of referees
        along = (total**2).sum(axis=-1)
        assert (along <= 8 * neighbourhood.energies).all()  # Cauchy-Schwarz over at most 4 rounds
        assert (along > 0).all()
        return along
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = cluster(4, rounds=6, window=4, rule="my_rule_for_test:Steadiness@1e-5")
    balances = run_vectorised(run, {"a1": "scale:3"}).balances
    assert sum(balances.values()) == 0
    assert balances["a1"] < 0


@pytest.mark.parametrize(
    ("strategies", "rounds", "words"),
    [
        ({"a9": "scale:3"}, None, "no agent 'a9'"),
        ({"a1": "lie"}, None, "strategy 'lie' is unknown"),
        ({}, 0, "rounds: 0 is below 1"),
    ],
)
def test_bad_arguments_are_refused(
    strategies: dict[str, str], rounds: int | None, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        run_vectorised(cluster(), strategies, rounds=rounds)


def test_a_run_that_diverges_beyond_billing_says_so() -> None:
    with pytest.raises(ConfigurationError, match="diverged"):
        run_vectorised(cluster(rounds=1), {"a1": "scale:-1e30"})


def test_values_that_are_not_finite_are_not_billed() -> None:
    result = run_vectorised(cluster(rounds=4, window=1), {"a1": "scale:-1e39"})
    assert not torch.isfinite(result.parameters[1]).any()
    assert sum(result.balances.values()) == 0


def test_a_users_rule_sees_numbers_even_of_an_agent_that_has_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_finite_rule_for_test.py").write_text(
        """
import numpy as np

class Finite:
    edge_local = True
    def charges(self, neighbourhood):
        assert np.isfinite(neighbourhood.energies).all()
        assert np.isfinite(neighbourhood.traces).all()
        return np.abs(neighbourhood.traces).sum(axis=(-2, -1))
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = cluster(rounds=4, window=2, rule="my_finite_rule_for_test:Finite@1e-5")
    balances = run_vectorised(run, {"a1": "scale:-1e39"}).balances
    assert sum(balances.values()) == 0
    assert balances["a1"] > 0  # it is charged nothing, and its neighbours are


def test_a_simulation_has_not_the_seconds_of_hosts() -> None:
    timed = cluster().model_copy(update={"algorithm": AlgorithmSettings(local_seconds=2.0)})
    with pytest.raises(ConfigurationError, match=r"^local_seconds: .* or --local-epochs$"):
        Simulation(timed, {}, measured=False)


def test_nobody_is_slow_in_a_simulation() -> None:
    sits = RoundSettings(rounds=4, pace="async")
    with pytest.raises(ConfigurationError, match=r"^pace: .* `candor testbed`$"):
        Simulation(cluster().model_copy(update={"rounds": sits}), {}, measured=False)
