"""Batches depend on seed, round and agent alone, whoever draws them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.learning.batches import draw_samples

SEED_MAX = (1 << 63) - 1


@given(
    seed=st.integers(0, SEED_MAX),
    t=st.integers(1, 1 << 40),
    agents=st.sets(st.integers(0, 50), min_size=1).map(sorted),
    count=st.integers(1, 9),
)
def test_an_agent_draws_the_same_alone_and_among_any_others(
    seed: int, t: int, agents: list[int], count: int
) -> None:
    lengths = np.array([7 + agent for agent in agents])
    together = draw_samples(seed, t, agents, lengths, count)
    assert together.shape == (len(agents), count)
    for row, agent in enumerate(agents):
        alone = draw_samples(seed, t, [agent], lengths[row : row + 1], count)
        assert (together[row] == alone[0]).all()


def test_the_draws_of_a_seed_never_change() -> None:
    """A run continued by a later version, or by another machine, must draw what the first did."""
    drawn = draw_samples(SEED_MAX, 3, [0, 5], np.array([100, 1 << 31]), 5)
    assert drawn.tolist() == [
        [91, 55, 38, 25, 30],
        [1529772354, 1873133671, 770668713, 1821459878, 102391707],
    ]


def test_every_sample_is_drawn_about_equally_often() -> None:
    length, count = 40, 4000
    drawn = draw_samples(1, 1, range(10), np.full(10, length), count)
    assert drawn.min() == 0
    assert drawn.max() == length - 1
    expected = 10 * count / length
    chi_squared = ((np.bincount(drawn.ravel(), minlength=length) - expected) ** 2 / expected).sum()
    assert chi_squared < 80  # 39 degrees of freedom: above 80 once in 10,000 seeds


@pytest.mark.parametrize("other", [{"seed": 2}, {"t": 2}])
def test_rounds_and_seeds_draw_differently(other: dict[str, int]) -> None:
    lengths = np.array([1000])
    one = draw_samples(1, 1, [0], lengths, 32)
    assert (
        one != draw_samples(**({"seed": 1, "t": 1} | other), agents=[0], lengths=lengths, count=32)
    ).any()
