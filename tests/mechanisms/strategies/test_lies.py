from dataclasses import replace

import pytest
import torch

from candor.mechanisms.strategies.lies import SIMULATED, AltersData, StrategyContext
from candor.mechanisms.strategies.specs import parse_strategy
from candor.topologies.specs.specs import ConfigurationError

GRADIENT = torch.arange(8.0).reshape(2, 4)
CONTEXT = StrategyContext(round=3, seed=7, agents=(0, 5))


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
        ("noise:-1", "not from 0"),
        ("conform", "one finite number"),
        ("conform:1.5", "not from -1 to 1"),
        ("stale-copy:1", "write stale-copy or stale-copy:seen=neighbours"),
        ("averaged:1.5", "not from 0 to 1"),
        ("averaged:0", "nothing is ever learned"),
        ("partial", "one finite number"),
        ("partial:-0.1", "not from 0 to 1"),
        ("zero:1", "takes no value"),
        ("sign-flip:2", "takes no value"),
        ("colluding", "one finite number"),
        ("label-flip:1", "write label-flip, label-flip:classes=10 or"),
        ("label-flip:from=1", "write label-flip, label-flip:classes=10 or"),
        ("label-flip:from=1,to=-7", "write label-flip, label-flip:classes=10 or"),
        ("label-flip:from=1,to=7,classes=10", "write label-flip, label-flip:classes=10 or"),
        ("label-flip:classes=1", "write label-flip, label-flip:classes=10 or"),
    ],
)
def test_a_bad_strategy_is_refused_in_one_line(text: str, words: str) -> None:
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


@pytest.mark.parametrize("text", ["stale-copy", "stale-copy:seen=neighbours", "conform:0.5"])
def test_who_listens_is_itself_in_round_1(text: str) -> None:
    first = StrategyContext(1, 7, (0, 5), None, simulated=True)
    assert torch.equal(parse_strategy(text).report(GRADIENT, first), GRADIENT)


def test_who_has_heard_nobody_copies_nobody() -> None:
    context = replace(CONTEXT, overheard=(torch.empty(0, 4), HEARD[1]))
    report = parse_strategy("stale-copy", simulated=False).report(GRADIENT, context)
    assert torch.equal(report, torch.stack([GRADIENT[0], HEARD[1][0]]))


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
    away = parse_strategy("conform:-0.5").report(GRADIENT, context)
    torch.testing.assert_close(away, 1.5 * GRADIENT - 0.5 * mean)


def test_a_running_average_weighs_its_newest_gradient_as_stated() -> None:
    strategy = parse_strategy("scale:2 + averaged:0.25")
    report, mean = None, torch.zeros_like(GRADIENT)
    for t in range(1, 6):
        gradient = GRADIENT * t**2
        report = strategy.report(gradient, replace(CONTEXT, round=t, own=report))
        mean = gradient if t == 1 else 0.75 * mean + 0.25 * gradient
        torch.testing.assert_close(report, 2 * mean)


PAIR = replace(CONTEXT, simulated=True)


def test_colluders_report_their_exaggerated_mean_alike() -> None:
    report = parse_strategy("colluding:3").report(GRADIENT, PAIR)
    assert torch.equal(report[0], report[1])
    assert torch.allclose(report.mean(dim=0), 3 * GRADIENT.mean(dim=0))


def test_colluders_show_less_noise_than_one_that_exaggerates_alone() -> None:
    gradient = torch.randn(2, 10_000, generator=torch.Generator().manual_seed(0))
    alone, together = (
        parse_strategy(f"{name}:2").report(gradient, PAIR).square().mean()
        for name in ("scale", "colluding")
    )
    assert float(together / alone) == pytest.approx(0.5, abs=0.03)


def test_nobody_colludes_alone() -> None:
    with pytest.raises(ConfigurationError, match="needs a partner"):
        parse_strategy("colluding:3").report(GRADIENT[:1], PAIR)


@pytest.mark.parametrize("name", sorted(SIMULATED))
def test_what_no_daemon_can_perform_is_refused_when_it_is_asked_for(name: str) -> None:
    text = f"{name}:1"
    with pytest.raises(ConfigurationError, match=f"{name} needs .* only simulated") as refusal:
        parse_strategy(f"scale:2 + {text} @ 7-", simulated=False)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigurationError, match="only simulated"):
        parse_strategy(text).report(GRADIENT, CONTEXT)


def test_a_sign_flip_is_the_opposite() -> None:
    assert torch.equal(parse_strategy("sign-flip").report(GRADIENT, CONTEXT), -GRADIENT)


def test_a_free_rider_injects_nothing_even_when_its_model_has_diverged() -> None:
    for gradient in (GRADIENT, GRADIENT / 0.0):
        assert not parse_strategy("zero").report(gradient, CONTEXT).any()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9, 1.0])
def test_partial_idles_in_the_stated_share_of_rounds_of_every_agent(share: float) -> None:
    strategy = parse_strategy(f"partial:{share}")
    agents, rounds = 20, 1000
    reports = torch.stack(
        [
            strategy.report(torch.ones(agents, 2), StrategyContext(t, 7, tuple(range(agents))))
            for t in range(1, rounds + 1)
        ]
    )
    assert set(reports.unique().tolist()) <= {0.0, 1.0}
    idle = 1 - reports[:, :, 0].mean(dim=0)  # (agents,), five deviations wide
    assert (idle - share).abs().max() <= 5 * (share * (1 - share) / rounds) ** 0.5
    together = reports[:, :, 0].double()
    if 0 < share < 1:  # agents do not idle in the same rounds
        correlation = torch.corrcoef(together.T) - torch.eye(agents)
        assert correlation.abs().max() < 0.2


def test_partial_draws_the_same_alone_and_among_others() -> None:
    strategy = parse_strategy("partial:0.5")
    for t in range(1, 20):
        together = strategy.report(GRADIENT, StrategyContext(t, 7, (0, 5)))
        alone = strategy.report(GRADIENT[1:], StrategyContext(t, 7, (5,)))
        assert torch.equal(together[1:], alone)


LABELS = torch.tensor([0, 1, 2, 7, 8])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label-flip", [8, 7, 6, 1, 0]),
        ("label-flip:classes=10", [9, 8, 7, 2, 1]),
        ("label-flip:from=1,to=7", [0, 7, 2, 7, 8]),
    ],
)
def test_labels_are_flipped_once_and_the_originals_stay(text: str, expected: list[int]) -> None:
    strategy = parse_strategy(text)
    assert isinstance(strategy, AltersData)
    inputs, labels = torch.randn(5, 3), LABELS.clone()
    kept, flipped = strategy.data((inputs, labels))
    assert kept is inputs
    assert flipped.tolist() == expected
    assert flipped.dtype == labels.dtype
    assert torch.equal(labels, LABELS)
    assert strategy.report(GRADIENT, CONTEXT) is GRADIENT


@pytest.mark.parametrize(
    ("text", "labels", "words"),
    [
        ("label-flip", torch.randn(5), "do not end in a tensor of classes"),
        ("label-flip:from=1,to=7", torch.zeros(5, 2, dtype=torch.long), "do not end in"),
        ("label-flip:classes=5", LABELS, "has the label 8; classes=5 is too few"),
    ],
)
def test_samples_without_such_labels_are_refused(
    text: str, labels: torch.Tensor, words: str
) -> None:
    strategy = parse_strategy(text)
    assert isinstance(strategy, AltersData)
    with pytest.raises(ConfigurationError, match=words):
        strategy.data((torch.randn(5, 3), labels))
