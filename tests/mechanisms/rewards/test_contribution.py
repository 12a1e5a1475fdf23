import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.mechanisms.rewards.contribution import (
    EXACT_MAX,
    cosine,
    exact,
    inner_products,
    permutations_for,
    sampled,
    worths,
)


def by_the_definition(vectors, weights):
    """Equation 2 with equation 1, word by word: over all orders, of the vectors themselves."""
    count = len(vectors)
    whole = sum(r * u for r, u in zip(weights, vectors, strict=True))

    def nu(members):
        summed = sum((weights[i] * vectors[i] for i in members), np.zeros_like(whole))
        lengths = np.linalg.norm(summed) * np.linalg.norm(whole)
        return float(summed @ whole / lengths) if lengths > 0 else 0.0

    found = np.zeros(count)
    for order in permutations(range(count)):
        for place, agent in enumerate(order):
            found[agent] += nu(order[: place + 1]) - nu(order[:place])
    return found / math.factorial(count)


@st.composite
def games(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 5))
    vectors = rng.standard_normal((count, draw(st.integers(1, 7))))
    return vectors + draw(st.sampled_from([0.0, 1.0])), rng.uniform(0.0, 1.0, count)


@given(games())
def test_the_exact_value_is_that_of_the_definition(game):
    vectors, weights = game
    found = exact(inner_products(vectors), weights)
    np.testing.assert_allclose(found, by_the_definition(vectors, weights), atol=1e-9)


@given(games())
def test_values_add_up_to_the_worth_of_all_and_agents_alike_have_the_same(game):
    vectors, weights = game
    inner = inner_products(vectors)
    whole = worths(inner, weights, np.ones((1, len(vectors))))
    np.testing.assert_allclose(exact(inner, weights).sum(), whole[0], atol=1e-9)
    twice, once = np.concatenate([vectors, vectors[:1]]), np.append(weights, weights[0])
    for value in (exact, cosine):
        found = value(inner_products(twice), once)
        assert found[-1] == pytest.approx(found[0], abs=1e-9)


@given(games())
def test_who_gives_nothing_or_weighs_nothing_is_worth_nothing(game):
    vectors, weights = game
    idle = np.concatenate([vectors, np.zeros_like(vectors[:1])])
    found = exact(inner_products(idle), np.append(weights, 0.3))
    assert found[-1] == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(found[:-1], exact(inner_products(vectors), weights), atol=1e-9)
    assert cosine(inner_products(idle), np.append(weights, 0.3))[-1] == 0.0
    unheard = np.concatenate([vectors, vectors[:1]])
    assert exact(inner_products(unheard), np.append(weights, 0.0))[-1] == pytest.approx(0, abs=1e-9)


@given(games(), st.floats(0.01, 100.0))
def test_lengths_of_all_at_once_do_not_count(game, scale):
    vectors, weights = game
    for value in (exact, cosine):
        found = value(inner_products(scale * vectors), weights)
        np.testing.assert_allclose(found, value(inner_products(vectors), weights), atol=1e-9)


def test_shapley_values_are_linear_in_the_game():
    # nu itself is no linear function of the vectors; the value is one of nu.
    rng = np.random.default_rng(5)
    games = [rng.standard_normal((6, 9)) for _ in range(2)]
    weights = np.full(6, 1 / 6)
    both = np.stack([inner_products(vectors) for vectors in games])
    together = exact(both, weights[None].repeat(2, axis=0))
    for vectors, values in zip(games, together, strict=True):
        np.testing.assert_allclose(values, exact(inner_products(vectors), weights), atol=1e-12)


def test_batches_are_what_their_members_are_one_by_one():
    rng = np.random.default_rng(1)
    vectors, weights = rng.standard_normal((3, 4, 5, 8)), rng.uniform(size=(3, 4, 5))
    inner = inner_products(vectors)
    for value in (exact, cosine):
        together = value(inner, weights)
        for a, b in np.ndindex(3, 4):
            np.testing.assert_allclose(together[a, b], value(inner[a, b], weights[a, b]))


def test_a_sample_comes_to_the_exact_value_within_what_it_promises():
    rng = np.random.default_rng(2)
    inner, weights = inner_products(rng.standard_normal((6, 40))), np.full(6, 1 / 6)
    permutations_asked = permutations_for(0.1, 0.1)
    found = sampled(inner, weights, permutations_asked, rng)
    assert np.abs(found - exact(inner, weights)).max() <= 0.1
    assert permutations_asked == math.ceil(8 * math.log(20) / 0.01)


def test_the_approximation_is_as_close_as_the_paper_has_it():
    """Figure 1 of the paper, N = 10 and D = 1,024: an l1 error of about .010, Pearson .98."""
    rng = np.random.default_rng(0)
    errors, alike = [], []
    for _ in range(10):
        inner, weights = inner_products(rng.standard_normal((10, 1024))), np.full(10, 0.1)
        truth, close = exact(inner, weights), cosine(inner, weights)
        alike.append(np.corrcoef(truth, close)[0, 1])
        errors.append(np.abs(truth / truth.sum() - close / close.sum()).sum())
    assert np.mean(errors) < 0.013
    assert np.mean(alike) > 0.975


def test_too_many_agents_for_all_coalitions_are_refused():
    with pytest.raises(ValueError, match="2\\^13 coalitions"):
        exact(np.eye(EXACT_MAX + 1), np.ones(EXACT_MAX + 1))
