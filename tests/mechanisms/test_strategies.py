from pathlib import Path

import pytest
import torch

from mechanisms.strategies import StrategyContext, UsersStrategy, parse_strategy
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
        ("noise:nan", "one finite number"),
        ("noise:-1", "below 0"),
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
