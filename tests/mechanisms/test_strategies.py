from pathlib import Path

import pytest
import torch

from mechanisms.strategies import StrategyContext
from mechanisms.strategy_specs import UsersStrategy, parse_strategy
from topologies.specs import ConfigurationError

GRADIENT = torch.arange(8.0).reshape(2, 4)
CONTEXT = StrategyContext(round=3, seed=7, agents=(0, 5))

USERS_MODULE = """
import torch

class Flip:
    def report(self, gradient, context):
        return -gradient

class Wide:
    def report(self, gradient, context):
        return torch.cat([gradient, gradient], dim=1)

class Double:
    def report(self, gradient, context):
        return gradient.double()

class Infinite:
    def report(self, gradient, context):
        return gradient / 0.0

class Silent:
    def report(self, gradient, context):
        pass

class Raises:
    def report(self, gradient, context):
        raise KeyError("plan")

class Mute:
    pass

class Picky:
    def __init__(self, amount):
        pass

    def report(self, gradient, context):
        return gradient

def Function():
    return Flip()
"""


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_strategies_for_test.py").write_text(USERS_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_strategies_for_test"


def test_the_honest_report_is_the_gradient_itself() -> None:
    assert parse_strategy("honest").report(GRADIENT, CONTEXT) is GRADIENT


@pytest.mark.parametrize("factor", [3.0, 1.0, 0.5, 0.0, -1.0])
def test_scaling_multiplies_the_gradient_and_leaves_it_as_it_is(factor: float) -> None:
    before = GRADIENT.clone()
    report = parse_strategy(f"scale:{factor}").report(GRADIENT, CONTEXT)
    assert torch.equal(report, factor * before)
    assert torch.equal(GRADIENT, before)


def test_noise_has_the_stated_expected_squared_norm() -> None:
    agents = tuple(range(64))
    gradient = torch.ones(64, 500)
    noise = parse_strategy("noise:2").report(gradient, StrategyContext(1, 0, agents)) - gradient
    squared = noise.square().sum(dim=1)  # expectation 4, deviation 4 sqrt(2 / 500) = 0.25 a row
    assert float(squared.mean()) == pytest.approx(4.0, abs=0.15)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)


def test_noise_of_an_agent_is_the_same_alone_and_among_others() -> None:
    strategy = parse_strategy("noise:1")
    together = strategy.report(GRADIENT, CONTEXT)
    alone = strategy.report(GRADIENT[1:], StrategyContext(3, 7, (5,)))
    assert torch.equal(together[1:], alone)


@pytest.mark.parametrize("context", [(4, 7, 5), (3, 8, 5), (3, 7, 6)])
def test_noise_is_fresh_for_another_round_seed_or_agent(context: tuple[int, int, int]) -> None:
    strategy = parse_strategy("noise:1")
    zero = torch.zeros(1, 4)
    t, seed, agent = context
    assert not torch.equal(
        strategy.report(zero, StrategyContext(3, 7, (5,))),
        strategy.report(zero, StrategyContext(t, seed, (agent,))),
    )


def test_no_noise_is_honest() -> None:
    assert torch.equal(parse_strategy("noise:0").report(GRADIENT, CONTEXT), GRADIENT)


def test_a_users_strategy_is_used(users_module: str) -> None:
    strategy = parse_strategy(f"{users_module}:Flip")
    assert isinstance(strategy, UsersStrategy)
    assert torch.equal(strategy.report(GRADIENT, CONTEXT), -GRADIENT)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Wide", r"the shape \(2, 8\), not \(2, 4\)"),
        ("Double", "torch.float64, not torch.float32"),
        ("Infinite", "not finite"),
        ("Silent", "a NoneType, not a tensor"),
        ("Raises", "KeyError"),
    ],
)
def test_a_users_bad_report_is_named_with_its_round(
    users_module: str, name: str, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        parse_strategy(f"{users_module}:{name}").report(GRADIENT, CONTEXT)
    assert "round 3" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_diverged_gradient_is_not_blamed_on_the_users_strategy(users_module: str) -> None:
    report = parse_strategy(f"{users_module}:Flip").report(GRADIENT / 0.0, CONTEXT)
    assert not torch.isfinite(report).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lie", "known: honest, scale, noise"),
        ("honest:1", "takes no value"),
        ("scale", "one finite number"),
        ("scale:a=2", "one finite number"),
        ("scale:much", "one finite number"),
        ("scale:inf", "one finite number"),
        (f"scale:1{400 * '0'}", "one finite number"),
        ("noise:nan", "one finite number"),
        ("noise:-1", "below 0"),
        ("conform", "one finite number"),
        ("conform:1.5", "not a share"),
        ("stale-copy:1", "takes no value"),
        ("my_strategies_for_test:Mute", r"lacks the method report\(\)"),
        ("my_strategies_for_test:Function", "is not a class"),
        ("my_strategies_for_test:Picky", "constructor failed"),
        ("my_strategies_for_test:Absent", "has no 'Absent'"),
        ("no_such_module:Flip", "cannot import"),
    ],
)
def test_a_bad_strategy_is_refused_in_one_line(users_module: str, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        parse_strategy(text)
    assert "\n" not in str(refusal.value)


def test_a_random_direction_has_the_gradients_norm_and_not_its_direction() -> None:
    gradient = torch.ones(2, 10_000)
    report = parse_strategy("random-direction").report(gradient, CONTEXT)
    assert torch.allclose(report.norm(dim=1), gradient.norm(dim=1))
    assert torch.cosine_similarity(report, gradient).abs().max() < 0.05
    assert torch.cosine_similarity(report[0], report[1], dim=0).abs() < 0.05
    still = parse_strategy("random-direction").report(torch.zeros(2, 4), CONTEXT)
    assert not still.any()


def test_an_alternating_flip_turns_every_second_round() -> None:
    strategy = parse_strategy("alternating-flip")
    assert torch.equal(strategy.report(GRADIENT, StrategyContext(1, 7, (0, 5))), GRADIENT)
    assert torch.equal(strategy.report(GRADIENT, StrategyContext(2, 7, (0, 5))), -GRADIENT)


HEARD = (torch.full((3, 4), 2.0) * torch.arange(1.0, 4.0)[:, None], torch.full((1, 4), 7.0))


@pytest.mark.parametrize("text", ["stale-copy", "conform:0.5"])
def test_who_listens_is_itself_in_round_1_and_refused_where_nobody_can(text: str) -> None:
    strategy = parse_strategy(text)
    first = StrategyContext(1, 7, (0, 5), None, simulated=True)
    assert torch.equal(strategy.report(GRADIENT, first), GRADIENT)
    with pytest.raises(ConfigurationError, match="only simulated agents"):
        strategy.report(GRADIENT, CONTEXT)


def test_a_stale_copy_is_the_first_neighbours_last_report() -> None:
    context = StrategyContext(2, 7, (0, 5), HEARD, simulated=True)
    report = parse_strategy("stale-copy").report(GRADIENT, context)
    assert torch.equal(report, torch.stack([torch.full((4,), 2.0), torch.full((4,), 7.0)]))


def test_conforming_moves_the_stated_share_towards_the_neighbours_mean() -> None:
    context = StrategyContext(2, 7, (0, 5), HEARD, simulated=True)
    mean = torch.stack([torch.full((4,), 4.0), torch.full((4,), 7.0)])
    report = parse_strategy("conform:0.25").report(GRADIENT, context)
    assert torch.allclose(report, 0.75 * GRADIENT + 0.25 * mean)
    assert torch.equal(parse_strategy("conform:0").report(GRADIENT, context), GRADIENT)
    assert torch.equal(parse_strategy("conform:1").report(GRADIENT, context), mean)
