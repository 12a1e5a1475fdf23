"""Fair gossip among simulated agents: what neighbours trade, and what slacking off costs."""

import numpy as np
import pytest
import torch

from candor.agent.simulation.bartering import Bartering
from candor.agent.simulation.mixing import Mixing
from candor.agent.simulation.vectorised import Simulation, run_vectorised
from candor.mechanisms.rewards.barter import Barter
from candor.topologies.specs.specs import ConfigurationError
from tests.agent.simulation.test_apart import cluster_of

SLACKING = {"a1": "few:0.1", "a2": "zero", "a4": "stale-copy:seen=neighbours"}


def rated(tmp_path, seed=0, topology="complete", rounds=4, beta=6.0):
    """A run after some rounds of drawn updates, of which some agents have none."""
    cluster = cluster_of(tmp_path, topology=topology)
    mixing = Mixing(cluster, torch.device("cpu"))
    barter = Bartering(cluster, Barter(beta=beta, alpha=0.5), mixing, 650, {})
    rng = np.random.default_rng(seed)
    for t in range(1, rounds + 1):
        injected = 1.0 + rng.standard_normal((6, 650))
        injected[:2] *= [[0.0], [0.01]]
        barter.rate(t, injected, rng.standard_normal((6, 650)), np.full((6, 1), 0.1))
    return cluster, barter


@pytest.mark.parametrize("topology", ["complete", "ring", "star", "random-matching"])
def test_mixing_moves_no_mean_whatever_is_traded(tmp_path, topology):
    cluster, barter = rated(tmp_path, topology=topology)
    y = torch.from_numpy(np.random.default_rng(1).standard_normal((6, 650)).astype(np.float32))
    for t in range(5, 9):
        mixed = barter.mixing(t).models(y)
        torch.testing.assert_close(mixed.mean(dim=0), y.mean(dim=0), rtol=0, atol=1e-6)
    given = {a: {k: r.groups for k, r in of.items()} for a, of in barter.ratings.items()}
    assert min(min(of.values()) for of in given.values()) < barter.groups.count
    assert cluster.ids == tuple(given)


def test_what_either_gives_too_little_of_is_mixed_by_neither(tmp_path):
    _, barter = rated(tmp_path)
    mixing, groups = barter.mixing(5), barter.groups
    y = torch.eye(6).repeat_interleave(109, dim=1)[:, :650]  # nobody's coordinates are another's
    mixed = mixing.models(y)
    given = [[barter.ratings[f"a{i}"][f"a{j}"].groups for j in range(6)] for i in range(6)]
    stated = mixing.sketches(y.double().numpy())
    np.testing.assert_allclose(stated, mixed.numpy(), atol=1e-6)  # a model is its own sketch
    for i in range(6):
        for j in set(range(6)) - {i}:
            both = groups.bound(min(given[i][j], given[j][i]))
            theirs = torch.arange(650)[109 * j : 109 * (j + 1)]
            took = mixed[i, theirs] != 0.0
            assert torch.equal(took, theirs < both)


def test_no_one_is_rated_in_the_first_round_of_a_window(tmp_path):
    _, barter = rated(tmp_path, rounds=4)  # windows of two rounds
    before = {a: dict(of) for a, of in barter.ratings.items()}
    barter.rate(5, np.ones((6, 650)), np.ones((6, 650)), np.ones((6, 1)))
    for agent, of in barter.ratings.items():
        assert {r.score for r in of.values()} == {0.0}
        for k, rating in of.items():
            assert rating.reputation == pytest.approx(before[agent][k].reputation)


def simulated(tmp_path, rewards, rounds=30, topology="complete"):
    cluster = cluster_of(tmp_path, topology=topology)
    task = cluster.task.model_copy(update={"partition": "iid"})
    algorithm = cluster.algorithm.model_copy(update={"rewards": rewards})
    settings = cluster.rounds.model_copy(update={"rounds": rounds})
    payments = cluster.payments.model_copy(update={"window": 8})
    return cluster.model_copy(
        update={"algorithm": algorithm, "rounds": settings, "payments": payments, "task": task}
    )


def test_slacking_off_costs_accuracy_and_honest_agents_lose_none(tmp_path):
    (tmp_path / "plain").mkdir()
    plain = run_vectorised(simulated(tmp_path / "plain", None), SLACKING).accuracy
    fair = run_vectorised(simulated(tmp_path, "cgsv:beta=1"), SLACKING).accuracy
    honest = [fair[k] - plain[k] for k in ("a0", "a3", "a5")]
    assert min(honest) > -0.02
    mean = np.mean([fair[k] for k in ("a0", "a3", "a5")])
    assert fair["a2"] < mean - 0.1
    assert fair["a4"] < mean - 0.05


@pytest.mark.parametrize("topology", ["complete", "ring"])
def test_who_copies_as_far_as_it_is_given_earns_nothing(tmp_path, topology):
    cluster = simulated(tmp_path, "cgsv:beta=1", topology=topology)
    simulation = Simulation(cluster, {"a4": "stale-copy:seen=neighbours"}, measured=False)
    simulation.step()  # in which it has nobody to copy
    for _ in range(10):
        simulation.step()
        by = {a: of["a4"] for a, of in simulation.ratings.items() if "a4" in of and a != "a4"}
        assert max(rating.score for rating in by.values()) < 1e-3
    assert max(rating.groups for rating in by.values()) <= 1
    honest = [
        of[k].groups for a, of in simulation.ratings.items() for k in of if "a4" not in (a, k)
    ]
    assert min(honest) > 16


def test_a_resumed_simulation_goes_on_to_the_same_bits(tmp_path):
    cluster = simulated(tmp_path, "cgsv:beta=1")
    through = Simulation(cluster, SLACKING, measured=True)
    first = Simulation(cluster, SLACKING, measured=True)
    for _ in range(5):
        through.step()
        first.step()
    second = Simulation(cluster, SLACKING, measured=True, state=first.state())
    assert second.ratings == first.ratings
    for _ in range(4):
        through.step()
        second.step()
    assert torch.equal(second.parameters, through.parameters)
    assert second.ratings == through.ratings
    np.testing.assert_array_equal(second.evidence().energies, through.evidence().energies)


def test_who_sends_each_neighbour_another_vector_is_refused(tmp_path):
    cluster = simulated(tmp_path, "cgsv:beta=1")
    with pytest.raises(ConfigurationError, match="rewards: a strategy sends each neighbour"):
        Simulation(cluster, {"a1": "large-noise:0.1"}, measured=False).step()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"name": "gradient-tracking"}, "choose algorithm decentralized-sgd or diloco"),
        ({"aggregator": "rfa"}, "without an --aggregator"),
    ],
)
def test_what_does_not_go_with_rewards_is_told_in_one_line(tmp_path, changed, told):
    cluster = simulated(tmp_path, "cgsv:beta=1")
    algorithm = cluster.algorithm.model_copy(update=changed)
    with pytest.raises(ConfigurationError, match=told):
        Simulation(cluster.model_copy(update={"algorithm": algorithm}), {}, measured=False)
