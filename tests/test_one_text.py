"""One text of each algorithm for all runtimes: real cores in lockstep learn what a simulation does.

Every contract that an algorithm may need is here with one that needs it: state (gradient tracking),
several exchanges a round and the neighbours' own vectors (medians), rows that follow from sketches
(`tests.nearest`), a codec. Real daemons are held against the simulation in
`tests/e2e/test_runtimes_agree.py`.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from candor.agent.core.deviating import reporting_of
from candor.agent.learning.initial import initial_parameters, stated_of
from candor.agent.learning.rows import TrainedRows, learner_of
from candor.agent.simulation.vectorised import Simulation, run_vectorised, settle
from candor.agent.tasks import resolve_task
from candor.agent.tasks.partition import Shard
from candor.mechanisms.payments.rules import parse_rule
from candor.topologies.cluster.file import POLICY_ALGORITHMS, Cluster, TaskSettings
from tests.runs import LocalRun, finish, write_cluster

SIZES = "a0=120,a1=30,a2=7.5,a3=1000,a4=33"
TASK = "digits:model=logistic"
EPISODES = "cartpole:hidden=4,horizon=40"
LIAR, LIE = "a1", "scale:3"


@dataclass
class Finished:
    """What a run of real cores came to, beside its cluster."""

    cluster: Cluster
    run: LocalRun


def run_cores(
    tmp_path,
    topology,
    algorithm,
    codec="float32",
    rounds=8,
    agents=5,
    weights="equal",
    lie=LIE,
    influence=None,
    sketch_size=None,
) -> Finished:
    """Real cores that train on digits, one of which exaggerates or attacks."""
    name, _, aggregator = algorithm.partition(" + ")
    samples = name in POLICY_ALGORITHMS
    learned = EPISODES if samples else TASK
    x = initial_parameters(resolve_task(learned), 3)
    stated = stated_of(resolve_task(learned), 3, None)
    task = TaskSettings(name=learned, partition="dirichlet:0.5", **stated)
    robust = {"aggregator": aggregator, "max_byzantine": 1} if aggregator else {}
    how = {"algorithm": name, "codec": codec, "weights": weights, "influence": influence, **robust}
    if sketch_size is not None:
        how["sketch_size"] = sketch_size
    if samples:
        how, rounds = how | {"step_size": 0.01}, 5
    cluster = write_cluster(tmp_path, topology, agents, rounds=rounds, task=task, **how)
    performers = {agent: trained(cluster, agent, lie) for agent in cluster.ids}
    return Finished(
        cluster, finish(LocalRun(tmp_path, cluster, performers=performers, initial=x.numpy()))
    )


def trained(cluster: Cluster, agent: str, lie: str = LIE) -> TrainedRows:
    """What a daemon's agent trains, reports and sends."""
    index = cluster.index(agent)
    reporting = reporting_of(cluster, {LIAR: lie}, agent)
    shard = Shard(index, len(cluster.ids), cluster.task.partition)

    def mass(t):
        return torch.tensor([[cluster.round_weights.of(t).mass[agent]]])

    return TrainedRows(
        learner_of(cluster, None, [shard], "cpu", reporting.by_agent()), reporting, mass
    )


@pytest.mark.parametrize(
    ("topology", "algorithm", "codec"),
    [
        ("ring", "decentralized-sgd", "float32"),
        ("ring", "gradient-tracking", "float32"),
        ("ring", "diloco", "float32"),
        ("one-peer-exponential", "gradient-tracking", "float32"),
        ("complete", "median-sgd", "float32"),
        ("one-peer-exponential", "median-sgd", "float32"),
        ("complete", "decentralized-sgd + rfa", "float32"),
        ("complete", "decentralized-sgd + median", "float32"),
        ("complete", "gradient-tracking + median", "float32"),
        ("complete", "gradient-tracking + nnm + krum", "float32"),
        ("complete", "decentralized-sgd + bucketing:2 + mda", "float16"),
        ("complete", "decentralized-sgd + ubar", "float32"),
        ("one-peer-exponential", "gradient-tracking + rfa", "float32"),
        ("complete", "median-sgd + rfa", "float32"),
        ("complete", "diloco + median", "float16"),
        ("ring", "tests.nearest:Nearest", "float32"),
        ("complete", "tests.nearest:Nearest", "float32"),
        ("directed-random:degree=2", "gradient-push", "float32"),
        ("ring", "decentralized-sgd", "float16"),
        ("ring", "gradient-tracking", "float16"),
        ("one-peer-exponential", "diloco", "float16"),
        ("complete", "median-sgd", "float16"),
        ("complete", "dec-byz-pg + median", "float32"),
        ("complete", "byz-pg", "float32"),
        ("ring", "dec-byz-pg", "float32"),
        ("complete", "dec-byz-pg + rfa", "float16"),
    ],
)
def test_lockstep_and_simulation_learn_the_same(tmp_path, topology, algorithm, codec) -> None:
    compare(run_cores(tmp_path, topology, algorithm, codec))


@pytest.mark.parametrize(
    ("topology", "algorithm"),
    [
        ("ring", "decentralized-sgd"),
        ("failing:base=complete,p=0.3", "decentralized-sgd"),
        ("ring", "gradient-tracking"),
        ("complete", "median-sgd"),
        ("ring", "tests.nearest:Nearest"),
        ("directed-random:degree=2", "gradient-push"),
    ],
)
def test_so_they_do_where_agents_declare_sizes(tmp_path, topology, algorithm) -> None:
    done = run_cores(tmp_path, topology, algorithm, weights=SIZES)
    assert done.cluster.sizes == (120.0, 30.0, 7.5, 1000.0, 33.0)
    compare(done)


@pytest.mark.parametrize(
    ("topology", "algorithm", "attack"),
    [
        ("complete", "decentralized-sgd + median", "avg-zero:seen=neighbours @ 3-"),
        ("complete", "decentralized-sgd + rfa", "ipm:factor=0.2,seen=neighbours"),
        ("complete", "median-sgd", "alie:factor=4,seen=neighbours"),
        ("one-peer-exponential", "gradient-tracking", "mimic:whom=1,seen=neighbours"),
        ("complete", "decentralized-sgd + median", "alie:factor=auto,seen=neighbours"),
        ("ring", "decentralized-sgd", "hidden:0.3 @ every=2"),
        ("complete", "dec-byz-pg + rfa", "avg-zero:seen=neighbours"),
        ("complete", "dec-byz-pg + rfa", "random-action"),
        ("ring", "diloco", "stale-copy:seen=neighbours"),
        ("one-peer-exponential", "gradient-tracking", "stale-copy:seen=neighbours"),
    ],
)
def test_who_attacks_by_what_it_hears_sends_the_same_in_both(
    tmp_path, topology, algorithm, attack
) -> None:
    compare(run_cores(tmp_path, topology, algorithm, lie=attack), attack)


@pytest.mark.parametrize(
    ("topology", "algorithm", "codec"),
    [
        ("ring", "decentralized-sgd", "float32"),
        ("star", "diloco", "float16"),
        ("random-matching", "decentralized-sgd", "float32"),
        ("failing:base=complete,p=0.3", "decentralized-sgd", "float16"),
        ("directed-random:degree=2", "gradient-push", "float32"),
    ],
)
@pytest.mark.parametrize("lie", ["scale:30", "scale:300 @ 6-", "hidden:0.9"])
def test_both_cut_off_what_is_beyond_a_bound(tmp_path, topology, algorithm, codec, lie) -> None:
    done = run_cores(tmp_path, topology, algorithm, codec, rounds=10, lie=lie, influence=1.5)
    shares = done.run.nodes[LIAR].kept
    assert min(shares) < (0.5 if lie != "hidden:0.9" else 1.1)
    compare(done, lie)


@pytest.mark.parametrize("topology", ["ring", "one-peer-exponential"])
@pytest.mark.parametrize("algorithm", ["decentralized-sgd", "gradient-tracking", "median-sgd"])
def test_both_leave_out_what_no_sketch_shows(tmp_path, topology, algorithm) -> None:
    done = run_cores(tmp_path, topology, algorithm, rounds=4, lie="hidden:30", sketch_size=128)
    run, cluster = done.run, done.cluster
    assert cluster.task.parameters > cluster.payments.sketch_size
    refused = {e["code"] for e in run.nodes[LIAR].events("own_update_refused")}
    assert refused == {"distance-hidden"}
    expected = run_vectorised(cluster, {LIAR: "hidden:30"})
    alone = run_vectorised(cluster, {LIAR: "honest"})
    for agent, model in zip(cluster.ids, expected.parameters.numpy(), strict=True):
        difference = np.linalg.norm(run.nodes[agent].x - model)
        assert difference < 1e-5 * np.linalg.norm(model), agent
    honest = [i for i, agent in enumerate(cluster.ids) if agent != LIAR]
    apart = (expected.parameters - alone.parameters)[honest].norm(dim=1)
    assert apart.max() < 6.0  # of a poison of 30 in each round of the window
    run.close()


def test_both_bill_what_no_sketch_shows(tmp_path) -> None:
    """Daemons by fresh sketches, of two windows; a simulation by what these estimate."""
    lie = "unseen:4"
    how = {"rounds": 8, "agents": 4, "lie": lie, "sketch_size": 64}
    done = run_cores(tmp_path, "ring", "decentralized-sgd", **how)
    balances = {agent: node.core.settlement.balance for agent, node in done.run.nodes.items()}
    evidence = run_vectorised(done.cluster, {LIAR: lie}).evidence
    payments = parse_rule(done.cluster.payments.rule)
    blind = settle(done.cluster, payments, replace(evidence, whole=None))
    assert balances[LIAR] < 0 < blind[LIAR]
    seen = settle(done.cluster, payments, evidence)
    assert balances[LIAR] == pytest.approx(seen[LIAR], rel=5 * (2 / (64 * 8)) ** 0.5)
    for agent, node in done.run.nodes.items():
        assert not node.events("own_update_refused"), agent
    done.run.close()


def compare(done: Finished, lie: str = LIE) -> None:
    """Hold models and payments against those of a simulation; a liar pays most."""
    run, cluster, codec = done.run, done.cluster, done.cluster.rounds.codec
    expected = run_vectorised(cluster, {LIAR: lie})
    # A sum added in another order may be rounded to the next float16.
    tolerance = 1e-5 if codec == "float32" else 2.0**-9
    for agent, model in zip(cluster.ids, expected.parameters.numpy(), strict=True):
        difference = np.linalg.norm(run.nodes[agent].x - model)
        assert difference < tolerance * np.linalg.norm(model), agent
        assert not run.nodes[agent].events("own_update_refused")
    windows = -(-cluster.rounds.rounds // cluster.payments.window)
    balances = {agent: node.core.settlement.balance for agent, node in run.nodes.items()}
    assert sum(balances.values()) == 0
    for agent, balance in expected.balances.items():
        near = windows * len(cluster.neighbours(agent)) + 2e-2 * abs(balance) * (codec != "float32")
        assert abs(balance - balances[agent]) <= near
    if lie == LIE and cluster.algorithm.name not in POLICY_ALGORITHMS:  # those are noise so early
        assert min(balances, key=balances.__getitem__) == LIAR
    run.close()


@pytest.mark.parametrize(
    "algorithm", ["gradient-tracking", "median-sgd", "diloco", "dec-byz-pg", "byz-pg"]
)
def test_an_agent_that_comes_back_is_let_in_and_accused_of_nothing(tmp_path, algorithm) -> None:
    cluster = write_cluster(tmp_path, "ring", 4, rounds=24, window=4, algorithm=algorithm)
    run = LocalRun(tmp_path, cluster)
    run.start()
    run.advance_until(lambda: run.nodes["a2"].core.round >= 6)
    run.kill("a2")
    run.advance_until(lambda: run.nodes["a1"].core.round >= 11)
    run.start("a2")
    run.run(until_s=400.0)
    assert all(node.ended.failure is None for node in run.nodes.values())
    assert run.nodes["a2"].events("re_entered")
    accusations = ("claim_refused", "bill_refused", "update_refused", "misbehaviour_proven")
    told = [node.events(event) for node in run.nodes.values() for event in accusations]
    assert not any(told), told
    run.close()


@pytest.mark.parametrize(
    ("algorithm", "kept"),
    [
        ("gradient-tracking", {"tracker", "tracked_gradient", "reports"}),
        ("diloco", {"outer_velocity", "reports"}),
        ("tests.nearest:Nearest", {"reports"}),
    ],
)
@pytest.mark.parametrize("split", [3, 4])  # within a window, and where one ends
def test_a_simulation_carries_an_algorithms_state_on(tmp_path, algorithm, kept, split) -> None:
    done = run_cores(tmp_path, "ring", algorithm, rounds=6)
    done.run.close()
    whole = Simulation(done.cluster, {LIAR: LIE}, measured=True)
    for _ in range(6):
        whole.step()
    first = Simulation(done.cluster, {LIAR: LIE}, measured=True)
    for _ in range(split):
        first.step()
    state = first.state()
    assert kept <= state.keys()
    second = Simulation(done.cluster, {LIAR: LIE}, measured=True, state=state)
    for _ in range(6 - split):
        second.step()
    assert torch.equal(second.parameters, whole.parameters)
    assert np.array_equal(second.evidence().energies, whole.evidence().energies)
