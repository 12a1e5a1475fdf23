"""Lies that remember, rotate and hide."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from candor.agent.learning.reporting import Reporting
from candor.mechanisms.evidence.sketch import SignSketch, TraceFold, signs_seed
from candor.mechanisms.strategies.lies import StrategyContext
from candor.mechanisms.strategies.mixes import MIXES, NAMES
from candor.mechanisms.strategies.sending import KnownRun
from candor.mechanisms.strategies.specs import canonical_strategy, marked, parse_strategy
from candor.topologies.specs.specs import ConfigurationError

WINDOW, DIM = 4, 600
RUN = KnownRun(bytes(range(32)), window=WINDOW, sketch_size=256)
GRADIENTS = torch.randn(16, 2, DIM, generator=torch.Generator().manual_seed(0))


def told(spec: str, gradients: Tensor = GRADIENTS, **more: object) -> Tensor:
    """What a strategy reports, round after round: (rounds, rows, dim)."""
    strategy = parse_strategy(spec)
    context = StrategyContext(1, 7, (0, 5), simulated=True, run=RUN, **more)
    reports = [
        strategy.report(gradient, replace(context, round=t))
        for t, gradient in enumerate(gradients, 1)
    ]
    return torch.stack(reports)


@pytest.mark.parametrize(("name", "stays"), [("fast", 0.5), ("middle", 0.9), ("slow", 0.98)])
def test_a_running_mean_begins_as_the_mean_and_goes_on_with_its_memory(name, stays):
    reports = told(f"mix:own=0,{name}=1")
    mean, numbers = torch.zeros(2, DIM), list(enumerate(GRADIENTS, 1))
    for t, gradient in numbers:
        newest = max(1.0 / t, 1.0 - stays)
        mean = (1.0 - newest) * mean + newest * gradient
        torch.testing.assert_close(reports[t - 1], mean, rtol=1e-4, atol=1e-5)


def test_a_frozen_mean_is_that_of_the_window_before():
    reports = told("frozen:3")
    torch.testing.assert_close(reports[:WINDOW], GRADIENTS[:WINDOW])
    for first in range(WINDOW, len(GRADIENTS), WINDOW):
        mean = GRADIENTS[first - WINDOW : first].mean(dim=0)
        these = slice(first, first + WINDOW)
        torch.testing.assert_close(reports[these], GRADIENTS[these] + 2.0 * mean)


def test_a_rotation_keeps_the_length_and_turns_towards_the_own_mean():
    steady = GRADIENTS + torch.randn(1, 2, DIM, generator=torch.Generator().manual_seed(1))
    reports = told("rotate:1.5", steady)
    torch.testing.assert_close(reports.norm(dim=2), 1.5 * steady.norm(dim=2))
    mean = steady.mean(dim=0)
    turned = torch.cosine_similarity(reports[-1], mean)
    assert (turned > torch.cosine_similarity(steady[-1], mean) + 0.1).all()


@pytest.mark.parametrize("spec", ["unseen:4", "untraced:4"])
def test_what_is_added_shows_in_no_sketch(spec):
    added = (told(spec) - GRADIENTS).numpy()
    assert np.linalg.norm(added, axis=2).min() > 10.0
    for t, rows in enumerate(added, 1):
        window = (t - 1) // WINDOW
        sketch = SignSketch(signs_seed(RUN.fingerprint, window), DIM, 256)
        shown = sketch(rows)
        if spec.startswith("untraced"):
            assert np.linalg.norm(shown, axis=1).min() > 1.0
            shown = TraceFold(RUN.fingerprint, window, 256).exact(shown)
        assert np.abs(shown).max() < 1e-4
    # A vector that is its own sketch has nothing to hide, but from its trace.
    short = GRADIENTS[..., :200]
    hides = not torch.equal(told(spec, short), short)
    assert hides == spec.startswith("untraced")


def test_neighbours_are_mixed_in_and_only_who_asks_for_it_listens():
    heard = (torch.ones(3, DIM), torch.empty(0, DIM))
    reports = told("mix:own=0.5,near=2", overheard=heard)
    torch.testing.assert_close(reports[:, 0], 0.5 * GRADIENTS[:, 0] + 2.0)
    torch.testing.assert_close(reports[:, 1], 0.5 * GRADIENTS[:, 1])
    assert torch.equal(told("mix:own=1,near=2"), GRADIENTS)  # nothing was heard yet
    assert marked(parse_strategy("mix:near=1", simulated=False), "overhears")
    assert not marked(parse_strategy("mix:slow=1"), "overhears")


def test_noise_is_measured_by_the_gradients_length():
    added = told("mix:noise=0.5", 100.0 * GRADIENTS) - 100.0 * GRADIENTS
    shares = added.norm(dim=2) / (100.0 * GRADIENTS).norm(dim=2)
    assert float(shares.mean()) == pytest.approx(0.5, rel=0.03)


def test_it_lies_in_the_last_of_so_many_windows():
    lied = (told("mix:own=2,windows=3") != GRADIENTS).any(dim=2).any(dim=1)
    assert lied.tolist() == [False] * 8 + [True] * 4 + [False] * 4


@pytest.mark.parametrize(("gate", "sign"), [("short=0.25", -1.0), ("long=0.25", 1.0)])
def test_it_lies_where_the_own_gradient_is_short_or_long(gate, sign):
    lengths = torch.tensor([3.0, 5.0, 4.0, 2.0, 9.0, 1.0, 4.0, 4.5])
    gradients = lengths[:, None, None] * torch.ones(8, 2, DIM)
    lied = (told(f"mix:own=2,{gate}", gradients) != gradients).any(dim=2)[:, 0]
    expected = [False]
    for t in range(1, 8):
        before = lengths[max(0, t - WINDOW) : t]
        shorter = float((before < lengths[t]).double().mean())
        expected.append(shorter <= 0.25 if sign < 0 else shorter >= 0.75)
    assert lied.tolist() == expected
    assert True in expected[1:]
    assert False in expected[1:]


def test_it_remembers_rounds_in_which_it_is_not_active():
    late = told("mix:own=0,slow=1 @ 13-")
    assert torch.equal(late[:12], GRADIENTS[:12])
    torch.testing.assert_close(late[12:], told("mix:own=0,slow=1")[12:])


def test_parts_of_a_sum_remember_apart_and_a_run_goes_on_with_what_they_kept():
    spec = "mix:own=0,fast=1 + frozen:2 + mix:slow=1,short=0.5"
    straight, halves = (Reporting(7, [0, 5], {0: spec, 1: spec}, [[1], [0]], RUN) for _ in "ab")
    before: Tensor | None = None
    for t, gradient in enumerate(GRADIENTS, 1):
        expected = straight.report(gradient, t, before)
        found = halves.report(gradient, t, before)
        assert torch.equal(found, expected)
        assert not torch.equal(expected, gradient) or t == 1
        before = expected
        resumed = Reporting(7, [0, 5], {0: spec, 1: spec}, [[1], [0]], RUN)
        resumed.remember({name: one.clone() for name, one in halves.memory.items()})
        halves = resumed
    one, other = (told(each) for each in ("mix:own=0,fast=1", "mix:own=0,fast=1 + honest"))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mix", "it takes own, fast"),
        ("mix:2", "it takes own, fast"),
        ("mix:own=1,quick=2", "it takes own, fast"),
        ("mix:own=much", "own is a number"),
        ("mix:own=inf", "own is a number"),
        ("mix:norm=-1", "norm is from 0"),
        ("mix:noise=-1", "noise is from 0"),
        ("mix:short=1.5", "short is from 0 to 1"),
        ("mix:windows=0", "windows is a whole number"),
        ("mix:windows=1.5", "windows is a whole number"),
        ("rotate", "give one number, such as rotate:2"),
        ("rotate:a=2", "give one number, such as rotate:2"),
        ("frozen:nan", "A is a number"),
        ("unseen:0", "not above 0"),
        ("untraced:-1", "not above 0"),
    ],
)
def test_a_bad_mix_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        parse_strategy(text)
    assert "\n" not in str(refusal.value)


def test_every_coefficient_can_be_given_and_is_compared_in_one_way():
    every = ",".join(f"{name}=1.0" for name in NAMES)
    parse_strategy(f"mix:{every}", simulated=False)
    assert canonical_strategy("mix:slow=2.0,norm=1") == "mix:norm=1,slow=2"
    assert set(MIXES) == {"mix", "rotate", "frozen", "unseen", "untraced"}
