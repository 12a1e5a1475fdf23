import pytest
import torch

from candor.agent.algorithms.catalogue import entry_of
from candor.agent.algorithms.diloco import VELOCITY, diloco
from candor.agent.algorithms.driver import Driver
from candor.agent.algorithms.dsgd import decentralized_sgd
from candor.agent.algorithms.effects import LocalSteps, Mix, Report, State
from candor.agent.algorithms.steps import Hyper, step_schedule
from candor.topologies.cluster.file import OUTER_ALGORITHM, AlgorithmSettings
from candor.topologies.specs.specs import ConfigurationError, load_object


def test_a_round_asks_for_training_then_a_report_then_mixing() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    algorithm = decentralized_sgd(x, Hyper(lambda t: 0.5 / t), {})

    asked = next(algorithm)
    assert isinstance(asked, LocalSteps)
    assert asked.t == 1
    assert asked.x is x

    asked = algorithm.send(torch.ones(2, 2))
    assert isinstance(asked, Report)
    assert asked.t == 1
    assert asked.gradient.tolist() == [[1.0, 1.0], [1.0, 1.0]]

    asked = algorithm.send(torch.tensor([[2.0, 2.0], [4.0, 4.0]]))
    assert isinstance(asked, Mix)
    assert asked.t == 1
    assert asked.v.tolist() == [[0.0, 1.0], [1.0, 2.0]]  # x - 0.5 m
    assert x.tolist() == [[1.0, 2.0], [3.0, 4.0]]  # untouched: it may still be read

    mixed = torch.tensor([[8.0, 8.0], [8.0, 8.0]])
    asked = algorithm.send(mixed)
    assert isinstance(asked, LocalSteps)
    assert asked.t == 2
    assert asked.x is mixed


def test_it_continues_a_checkpoint_at_its_round_with_that_rounds_step() -> None:
    algorithm = decentralized_sgd(torch.zeros(1, 1), Hyper(lambda t: 1.0 / t), {}, start=4)
    asked = next(algorithm)
    assert isinstance(asked, LocalSteps)
    assert asked.t == 4
    algorithm.send(torch.ones(1, 1))
    asked = algorithm.send(torch.ones(1, 1))
    assert isinstance(asked, Mix)
    assert asked.v.item() == -0.25


def test_on_a_quadratic_the_agents_agree_on_the_minimiser_of_the_mean() -> None:
    targets = torch.tensor([[0.0], [3.0], [6.0], [-1.0]])  # agent i wants x = target i
    mixing = torch.full((4, 4), 0.25)
    algorithm = decentralized_sgd(torch.zeros(4, 1), Hyper(step_schedule(0.5, 0.0)), {})
    effect = next(algorithm)
    while True:
        match effect:
            case LocalSteps(x, t):
                effect = algorithm.send(x - targets)
            case Report(gradient):
                effect = algorithm.send(gradient)
            case Mix(y, t):
                if t == 40:
                    break
                effect = algorithm.send(mixing @ y)
    assert torch.allclose(mixing @ y, torch.full((4, 1), 2.0), atol=1e-5)


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 0.3), (0.5, 0.15), (1.0, 0.075)])
def test_the_step_decays_as_a_power_of_the_round(decay: float, expected: float) -> None:
    step = step_schedule(0.3, decay)
    assert step(1) == 0.3
    assert step(4) == pytest.approx(expected)


def test_algorithms_are_found_by_name() -> None:
    assert load_object(entry_of(OUTER_ALGORITHM).path, "algorithm") is diloco
    assert load_object(entry_of("decentralized-sgd").path, "algorithm") is decentralized_sgd
    with pytest.raises(ConfigurationError, match=r"'adam' is unknown; known: decentralized-sgd"):
        entry_of("adam")


class Quadratic:
    """Agents whose loss is the squared distance to a target each; they take one step a round."""

    def __init__(self, targets: torch.Tensor) -> None:
        self.targets = targets

    def local_steps(self, x: torch.Tensor, t: int, step_size: float, state: State) -> torch.Tensor:
        return x - self.targets

    def report(self, gradient: torch.Tensor, t: int, state: State) -> torch.Tensor:
        return gradient

    def mass(self, t: int) -> torch.Tensor:
        raise AssertionError

    def losses_of(self, vectors: torch.Tensor, t: int) -> torch.Tensor:
        return torch.zeros(vectors.shape[:2])

    def sent(self, v: torch.Tensor, t: int, phase: int) -> tuple[torch.Tensor, dict]:
        return v, {}


def test_diloco_among_agents_that_hear_everybody_is_one_server_with_nesterov_momentum() -> None:
    """Algorithm 1 of Douillard et al., its outer optimiser torch's own; step sizes that decay."""
    targets = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    settings = AlgorithmSettings(
        name="diloco", step_size=0.3, step_decay=0.4, outer_step=0.6, outer_momentum=0.8
    )
    driver = Driver(settings, Quadratic(targets), None, torch.zeros(5, 3))
    server = torch.zeros(3, requires_grad=True)
    outer = torch.optim.SGD([server], lr=0.6, momentum=0.8, nesterov=True)
    out = driver.advance()
    for t in range(1, 9):
        trained = server.detach() - 0.3 * t**-0.4 * (server.detach() - targets)
        server.grad = (server.detach() - trained).mean(dim=0)
        outer.step()
        mixed = out.vectors.mean(dim=0).repeat(5, 1)
        assert torch.allclose(mixed[0], server.detach(), atol=1e-6), t
        out = driver.advance(mixed)
    assert driver.state[VELOCITY].shape == (5, 3)


def test_diloco_reports_all_that_moves_the_model_and_keeps_its_velocity_from_lies() -> None:
    hyper, state = Hyper(lambda t: 0.5, outer_step=1.0, outer_momentum=0.5), {}
    algorithm = diloco(torch.zeros(1, 1), hyper, state)
    next(algorithm)
    asked = algorithm.send(torch.ones(1, 1))
    assert isinstance(asked, Report)
    assert asked.gradient.item() == 1.5  # (d + mu v) / lambda, with d = v = 0.5
    asked = algorithm.send(torch.zeros(1, 1))  # the strategy says nothing
    assert isinstance(asked, Mix)
    assert asked.v.item() == 0.0
    assert state[VELOCITY].item() == 0.5


def test_without_outer_momentum_and_step_diloco_is_plain_decentralized_sgd() -> None:
    targets = torch.tensor([[1.0], [4.0]])
    plain = Driver(AlgorithmSettings(), Quadratic(targets), None, torch.zeros(2, 1))
    settings = AlgorithmSettings(name="diloco", outer_step=1.0, outer_momentum=0.0)
    outer = Driver(settings, Quadratic(targets), None, torch.zeros(2, 1))
    answers: list[torch.Tensor | None] = [None, None]
    for _ in range(4):
        vectors = [d.advance(a).vectors for d, a in zip((plain, outer), answers, strict=True)]
        assert torch.allclose(*vectors)
        answers = [v.flip(0) for v in vectors]
