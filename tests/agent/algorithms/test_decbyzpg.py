"""DecByzPG's text against the paper's algorithm written out naively, on a synthetic objective."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from candor.agent.algorithms.catalogue import check_breakdown, phases_of
from candor.agent.algorithms.driver import Driver
from candor.agent.algorithms.effects import State
from candor.mechanisms.agreement.coin import coin_of
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.specs.specs import ConfigurationError
from tests.runs import write_cluster

AGENTS, DIM, STEP = 6, 5, 0.05
COIN = coin_of(b"synthetic", 0.3)
LARGE, SMALL = 40, 3


class Noisy:
    """Agents of one objective |x - target|^2 / 2: a trajectory's estimate of its gradient is off by
    noise times how far the target is, the same for both policies of a pair."""

    target = torch.linspace(-1, 1, DIM)

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, bool]] = []

    def noise(self, t: int, count: int) -> torch.Tensor:
        return torch.randn(AGENTS, count, 1, generator=torch.Generator().manual_seed(t))

    def policy_gradient(self, x, t, count, before) -> torch.Tensor:
        self.asked.append((t, count, before is not None))
        scale = (1 + self.noise(t, count)).mean(dim=1)
        gradient = (x - self.target) * scale
        return gradient if before is None else gradient - (before - self.target) * scale

    def report(self, gradient: torch.Tensor, t: int, state: State) -> torch.Tensor:
        return gradient

    def sent(self, v, t, phase):
        return v, {}

    def local_steps(self, x, t, step_size, state):
        raise AssertionError

    def mass(self, t):
        raise AssertionError


def drive(
    settings: AlgorithmSettings,
    rounds: int,
    mixed: Callable[[torch.Tensor, int, int], torch.Tensor],
    performer: Noisy,
    x: torch.Tensor,
    state: State | None = None,
    start: int = 1,
) -> torch.Tensor:
    """The policies after some rounds whose exchanges come to `mixed(v, round, phase)`."""
    driver = Driver(settings, performer, None, x, state, start, COIN)
    answer = None
    last = phases_of(settings).model
    while True:
        out = driver.advance(answer)
        assert out.mixes
        answer = mixed(out.vectors, out.round, out.phase)
        if (out.round, out.phase) == (rounds, last):
            return answer


def everybody(v: torch.Tensor, _round: int, _phase: int) -> torch.Tensor:
    return v.mean(dim=0).expand_as(v)


def settings_of(**changes) -> AlgorithmSettings:
    fields = {"name": "dec-byz-pg", "step_size": STEP, "step_decay": 0.0}
    batches = {"large_batch": LARGE, "small_batch": SMALL}
    return AlgorithmSettings(**fields | batches | changes)


def test_it_is_page_with_adam_as_the_paper_has_it() -> None:
    """Every agent aggregates by the mean; torch's own Adam takes the steps."""
    performer, rounds = Noisy(), 60
    start = torch.zeros(AGENTS, DIM)
    got = drive(settings_of(), rounds, everybody, performer, start)
    x = torch.nn.Parameter(torch.zeros(DIM, dtype=torch.float64))
    adam = torch.optim.Adam([x], lr=STEP, betas=(0.9, 0.999), eps=1e-8)
    naive, estimates, previous = Noisy(), None, None
    for t in range(1, rounds + 1):
        at = x.detach().float().expand(AGENTS, DIM)
        if COIN(t):
            estimates = naive.policy_gradient(at, t, LARGE, None)
        else:
            noise = (1 + naive.noise(t, SMALL)).mean(dim=1)
            estimates = estimates + (at - naive.target) * noise
            estimates = estimates - (previous - naive.target) * noise
        previous = at
        x.grad = estimates.mean(dim=0).double()
        adam.step()
    assert torch.allclose(got, x.detach().float().expand(AGENTS, DIM), atol=1e-5)
    assert (got - Noisy.target).norm(dim=1).max() < 0.3
    expected = [(t, LARGE if COIN(t) else SMALL, not COIN(t)) for t in range(1, rounds + 1)]
    assert performer.asked == expected


def test_estimates_are_the_agents_own_and_never_the_aggregate() -> None:
    seen = []

    def heard(v, t, phase):
        if phase == 0:
            seen.append(v.clone())
        return everybody(v, t, phase)

    drive(settings_of(), 8, heard, Noisy(), torch.zeros(AGENTS, DIM))
    small = next(t for t in range(2, 8) if not COIN(t))
    assert (seen[small - 1] - seen[small - 1].mean(dim=0)).norm(dim=1).min() > 1e-3


def test_who_has_nothing_from_the_round_before_samples_a_large_batch() -> None:
    small = next(t for t in range(2, 50) if not COIN(t))
    performer = Noisy()
    drive(settings_of(), small + 1, everybody, performer, torch.zeros(AGENTS, DIM), None, small)
    assert performer.asked[0] == (small, LARGE, False)
    assert performer.asked[1][2] is not COIN(small + 1)


def test_the_published_program_corrects_by_the_policy_before_agreement() -> None:
    """All of whose policies are then moved far away."""
    befores = {}

    class Seeing(Noisy):
        def policy_gradient(self, x, t, count, before):
            befores[t] = before
            return super().policy_gradient(x, t, count, before)

    small = next(t for t in range(2, 50) if not COIN(t))
    stepped = {}

    def moved(v, t, phase):
        if phase == 1:
            stepped[t] = v.clone()
        return v if phase != 1 else v + 5.0

    drive(settings_of(estimator="published"), small, moved, Seeing(), torch.zeros(AGENTS, DIM))
    assert torch.equal(befores[small], stepped[small - 1])
    drive(settings_of(), small, moved, Seeing(), torch.zeros(AGENTS, DIM))
    assert (befores[small] - stepped[small - 1]).abs().max() > 1e-3


def test_moves_are_the_exchanges_of_the_round_that_moved_a_policy() -> None:
    """The first agent's policy is moved three times, all others' twice; gradients do not count."""
    driver = Driver(settings_of(), Noisy(), None, torch.zeros(AGENTS, DIM), {}, 1, COIN)
    answer = None
    for _ in range(2):
        for phase in range(phases_of(settings_of()).count):
            out = driver.advance(answer)
            assert out.phase == phase
            answer = out.vectors + float(phase < 3)
            answer[0] += float(phase == 3)
            assert driver.combined(answer) is answer
        assert driver.moves.tolist() == [3] + [2] * (AGENTS - 1)


def test_a_state_carries_a_run_on() -> None:
    settings, x = settings_of(), torch.zeros(AGENTS, DIM)
    whole = drive(settings, 20, everybody, Noisy(), x)
    state: State = {}
    half = drive(settings, 9, everybody, Noisy(), x, state)
    kept = {name: tensor.clone() for name, tensor in state.items()}
    assert all(len(tensor) == AGENTS for tensor in kept.values())
    assert torch.equal(drive(settings, 20, everybody, Noisy(), half, kept, 10), whole)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["gradient", "policy", *(f"agreement {k}" for k in range(2, 9))]),
        ({"agreement_rounds": 1}, ["gradient", "policy"]),
        (
            {"agreement_rounds": 15},
            ["gradient", "policy", *(f"agreement {k}" for k in range(2, 16))],
        ),
        ({"aggregator": "mean"}, ["gradient", "policy"]),
        ({"name": "byz-pg"}, ["gradient", "policy"]),
    ],
)
def test_the_exchanges_of_a_round_follow_from_the_settings(changes, names) -> None:
    phases = phases_of(settings_of(**changes))
    assert [phase.name for phase in phases.phases] == names
    assert phases.charged == 0
    assert phases.told == (1, 1, False)
    assert [phase.name for phase in phases.phases if phase.free] == ["policy"]


def test_all_have_the_first_agent_s_policy_in_byzpg(tmp_path) -> None:
    rule = phases_of(settings_of(name="byz-pg")).rows["first"]
    weights = dict.fromkeys(("a0", "a1"), 0.5)
    assert rule("a1", 1, weights, {k: np.zeros(1) for k in weights})["a0"] == 1.0
    cluster = write_cluster(tmp_path, "ring", 5, algorithm="byz-pg", sketch_size=512)
    with pytest.raises(ConfigurationError, match="not everyone's neighbour"):
        check_breakdown(cluster)


def test_a_graph_on_which_policies_may_stay_apart_is_refused(tmp_path) -> None:
    for agents, refused in ((12, True), (13, False)):
        cluster = write_cluster(
            tmp_path, "complete", agents, algorithm="dec-byz-pg", max_byzantine=3, sketch_size=512
        )
        if not refused:
            check_breakdown(cluster)
            continue
        with pytest.raises(ConfigurationError, match="among 13 agents or more, and a0 has 11"):
            check_breakdown(cluster)


def test_settings_of_policy_gradients_are_of_no_other_algorithm() -> None:
    with pytest.raises(ValueError, match="large_batch is of algorithms dec-byz-pg and byz-pg"):
        AlgorithmSettings(large_batch=3)
