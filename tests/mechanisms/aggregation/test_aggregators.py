"""Aggregators against their definitions, one agent at a time."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from candor.mechanisms.aggregation.aggregators import coordinate_median


@given(st.integers(1, 4), st.integers(0, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_median_is_that_of_the_own_vector_and_those_that_are_there(
    agents: int, neighbours: int, dim: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((agents, neighbours, dim)).astype(np.float32)
    present = rng.random((agents, neighbours)) < 0.7
    own = rng.standard_normal((agents, dim)).astype(np.float32)
    found = coordinate_median(*map(torch.from_numpy, (vectors, present, own))).numpy()
    for i in range(agents):
        there = np.vstack([own[i], *vectors[i, present[i]]])
        np.testing.assert_array_equal(found[i], np.median(there, axis=0).astype(np.float32))


@given(st.integers(1, 4), st.floats(-(2.0**100), 2.0**100))
def test_a_minority_cannot_pull_the_median_out_of_what_the_others_sent(
    liars: int, lie: float
) -> None:
    honest = torch.from_numpy(np.random.default_rng(liars).standard_normal((liars, 3)))
    vectors = torch.cat([torch.full((liars, 3), lie, dtype=torch.float64), honest])
    own = torch.zeros(3, dtype=torch.float64)
    there = torch.ones(1, 2 * liars, dtype=torch.bool)
    found = coordinate_median(vectors[None], there, own[None])[0]
    all_honest = torch.cat([honest, own[None]])
    assert (found >= all_honest.amin(dim=0)).all()
    assert (found <= all_honest.amax(dim=0)).all()
