"""What holds of aggregators whatever is sent: bounds against a minority, and equivariance."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from candor.mechanisms.aggregation import aggregators, coordinates
from candor.mechanisms.aggregation.inner import inner_of
from candor.mechanisms.aggregation.points import folded, inner_products, lengths_alone, product
from candor.mechanisms.aggregation.rules import logarithm
from candor.mechanisms.aggregation.smallest import smallest_subset
from candor.mechanisms.aggregation.specs import parse_aggregator
from candor.topologies.specs.specs import ConfigurationError

TIED = "arc + nnm + rfa"  # clipped points are all as near to the own vector: the first are taken
BOUNDED = [
    *("median", "trimmed-mean", "meamed", "bridge", "krum", "multi-krum", "mda", "monna", "rfa"),
    *("centred-clipping", "clipped-gossip", "smea", "caf", "ubar", "arc + mean", "clipping + mean"),
    *("nnm + krum", "nnm + trimmed-mean", "bucketing:2 + rfa", "bucketing:2 + krum"),
    TIED,
]
ATTEMPTS, HONEST, LIARS, DIM = 150, 8, 2, 6


def combined(spec: str, vectors: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    made = parse_aggregator(spec, LIARS)
    assert made is not None
    present = torch.ones(vectors.shape[:2], dtype=torch.bool)
    return made.load(lambda each: each.square().sum(dim=-1))(vectors, present, own)


def attacks(rng: np.random.Generator, honest: np.ndarray) -> np.ndarray:
    """(attempts, liars, dim): far and near, alike and apart, along the mean and against it."""
    middle, spread = honest.mean(axis=1, keepdims=True), honest.std(axis=1, keepdims=True)
    scale = 10.0 ** rng.uniform(-1, 12, (ATTEMPTS, 1, 1)) * rng.choice([-1, 1], (ATTEMPTS, 1, 1))
    together = rng.standard_normal((ATTEMPTS, 1, DIM))
    each = rng.standard_normal((ATTEMPTS, LIARS, DIM))
    kinds = [middle + scale * spread + 0 * each, scale * middle + 0 * each]
    kinds += [middle + scale * each, middle + scale * together + 0 * each]
    return np.choose(rng.integers(0, len(kinds), (ATTEMPTS, 1, 1)), kinds)


@pytest.mark.parametrize("spec", BOUNDED)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_minority_moves_the_result_by_no_more_than_the_honest_are_apart(
    spec: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    honest = rng.standard_normal((ATTEMPTS, HONEST, DIM)) + rng.standard_normal((ATTEMPTS, 1, DIM))
    sent = np.concatenate([honest[:, 1:], attacks(rng, honest)], axis=1)
    sent = np.take_along_axis(
        sent, rng.permuted(np.tile(np.arange(9), (ATTEMPTS, 1)), axis=1)[:, :, None], 1
    )
    for kind in (torch.float64, torch.float32):
        own, vectors = (torch.from_numpy(x).to(kind) for x in (honest[:, 0], sent))
        found = combined(spec, vectors, own).double().numpy()
        off = np.linalg.norm(found - honest.mean(axis=1), axis=1)
        apart = np.linalg.norm(honest[:, :, None] - honest[:, None], axis=3).max(axis=(1, 2))
        assert (off <= 1.5 * apart).all(), (off / apart).max()


@pytest.mark.parametrize("spec", [*BOUNDED, "sybilwall", "cge", "arc:zero + rfa"])
def test_the_order_of_neighbours_does_not_matter_and_only_some_know_where_zero_is(
    spec: str,
) -> None:
    rng = np.random.default_rng(3)
    vectors = torch.from_numpy(rng.standard_normal((4, 9, DIM)))
    own = torch.from_numpy(rng.standard_normal((4, DIM)))
    found = combined(spec, vectors, own)
    if "bucketing" in spec or spec == TIED:
        return
    if spec != "mda":  # of subsets as narrow the first
        order = torch.from_numpy(rng.permutation(9))
        torch.testing.assert_close(combined(spec, vectors[:, order], own), found)
    if spec not in ("cge", "arc:zero + rfa", "ubar"):
        moved = combined(spec, vectors + 1000.0, own + 1000.0) - 1000.0
        torch.testing.assert_close(moved, found, rtol=0, atol=1e-8)


def test_vectors_that_are_not_finite_are_not_heard() -> None:
    rng = np.random.default_rng(4)
    vectors = torch.from_numpy(rng.standard_normal((3, 9, DIM)))
    own = torch.from_numpy(rng.standard_normal((3, DIM)))
    there = torch.ones(3, 9, dtype=torch.bool)
    there[0, 2] = there[1, 5] = False
    hostile = vectors.clone()
    hostile[0, 2], hostile[1, 5] = torch.inf, torch.nan
    for spec in [*BOUNDED, "sybilwall", "cge"]:
        made = parse_aggregator(spec, LIARS)
        assert made is not None
        aggregate = made.load(lambda each: each.square().sum(dim=-1))
        heard = aggregate(hostile, torch.ones_like(there), own)
        torch.testing.assert_close(heard, aggregate(vectors, there, own))


@given(st.integers(1, 9), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_the_smallest_subset_is_the_first_of_those_that_a_search_of_all_finds(
    count: int, left_out: int, seed: int
) -> None:
    size = max(1, count - left_out)
    drawn = np.random.default_rng(seed).integers(0, 5, (count, count)).astype(float)
    apart = np.triu(drawn, 1) + np.triu(drawn, 1).T
    subsets = itertools.combinations(range(count), size)
    due = min(subsets, key=lambda s: max((apart[i, j] for i in s for j in s), default=0.0))
    assert smallest_subset(apart, size) == list(due)


@given(st.floats(1e-300, 1e300))
def test_the_logarithm_is_right_to_its_last_bits(value: float) -> None:
    assert abs(logarithm(value) - math.log(value)) <= 4e-16 * max(1.0, abs(math.log(value)))


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_fold_adds_up_everything_once(count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-1000, 1000, (count, 3)).astype(float)
    assert folded(values.copy()).tolist() == values.sum(axis=0).tolist()


@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.5, -1e-17, 3e16, -7.25, 1e150]), min_size=1),
    st.integers(1, 3),
)
def test_a_product_adds_up_in_order(values: list[float], columns: int) -> None:
    left = np.array([values, values[::-1]])
    right = np.repeat(np.array(values[::-1])[:, None], columns, axis=1)
    found = product(left, right)
    for row, sums in zip(left.tolist(), found.tolist(), strict=True):
        total = 0.0
        for one, other in zip(row, values[::-1], strict=True):
            total += one * other
        assert np.array(sums).tobytes() == np.array([total] * columns).tobytes()


@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_less_is_measured_to_the_same_bits(count: int, size: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((count, size))
    whole = inner_products(vectors)
    for origin in (False, True):
        few = lengths_alone(vectors, origin=origin)
        assert few.diagonal().tolist() == whole.diagonal().tolist()
        assert (few[-1] == whole[-1]).all() or not origin
        assert (few[:, -1] == whole[:, -1]).all() or not origin


@pytest.mark.parametrize("count", range(1, 11))
def test_a_network_sorts_every_row_of_zeros_and_ones(count: int) -> None:
    """And so, by the 0-1 principle (Knuth, 5.3.4), every row."""
    rows = torch.tensor(list(itertools.product([0.0, 1.0], repeat=count))).T
    for wanted in (range(count), range(count // 3, count - count // 3)):
        found = coordinates.in_order(list(rows), wanted)
        due = rows.sort(dim=0).values
        assert all(torch.equal(found[place], due[place]) for place in wanted)


@pytest.mark.parametrize("hostile", [0.0, 1e3, 1e30, 3e38])
def test_distances_survive_large_offsets_and_large_values(hostile: float) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((2, 5, 3000)).astype(np.float32)
    vectors[:, 0] += np.float32(hostile)
    vectors[:, 1] = vectors[:, 2]
    own = rng.standard_normal((2, 3000)).astype(np.float32) + np.float32(1e4)
    inner = inner_of(torch.from_numpy(vectors), torch.from_numpy(own), origin=True).numpy()
    everything = np.concatenate([own[:, None], vectors, 0 * own[:, None]], axis=1).astype(float)
    moved = everything - everything[:, :1]
    due = np.square(moved[:, :, None] - moved[:, None]).sum(axis=3)
    lengths = inner.diagonal(axis1=1, axis2=2)
    found = lengths[:, :, None] + lengths[:, None] - 2 * inner
    scale = np.maximum(due, 1e-6 * np.maximum(lengths[:, :, None], lengths[:, None]))
    assert (np.abs(found - due) <= 1e-5 * scale).all()


@pytest.mark.parametrize(
    ("spec", "f", "told"),
    [
        ("krumm", 1, "unknown"),
        ("mean + krum", 1, "preaggregator 'mean' is unknown"),
        ("nnm + bridge", 1, "no preaggregator"),
        ("krum:3", 1, "takes no value"),
        ("rfa:radius=3", 1, "radius is unknown; known: steps, floor, start"),
        ("rfa:steps=0", 1, "steps is a whole number from 1"),
        ("rfa:steps=1.5", 1, "steps is a whole number from 1 to 1000"),
        ("rfa:steps=1001", 1, "steps is a whole number from 1 to 1000"),
        ("centred-clipping:steps=1000000000000", 1, "steps is a whole number from 1 to 1000"),
        (f"rfa:{'9' * 400}", 1, "steps is a whole number from 1 to 1000"),
        (f"clipping:{'9' * 400} + krum", 1, "radius is a number from 0"),
        ("rfa:floor=0", 1, "floor is a number from 1e-30"),
        ("clipping:-1 + krum", 1, "radius is a number from 0"),
        ("clipping:inf + krum", 1, "radius is a number from 0"),
        ("arc:middle + krum", 1, "about is own or zero"),
        ("nnm + mean", 1, "one far vector"),
        ("mda", 13, "above 12"),
        ("clipping:0.123456789 + bucketing + krum", 1, "at most 32"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(spec: str, f: int, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        parse_aggregator(spec, f)


@pytest.mark.parametrize(
    ("spec", "f", "neighbours"),
    [
        *[(spec, 2, 4) for spec in ("krum", "median", "rfa", "nnm + mda")],
        *[("bridge", 2, 5), ("ubar", 2, 3), ("bucketing:3 + krum", 1, 6)],
    ],
)
def test_an_agent_below_the_breakdown_point_is_refused(spec: str, f: int, neighbours: int) -> None:
    made = parse_aggregator(spec, f)
    assert made is not None
    made.check("a1", neighbours)
    with pytest.raises(ConfigurationError, match=f"a1 has {neighbours - 1}"):
        made.check("a1", neighbours - 1)


@pytest.mark.parametrize("start", ["near", "own", "zero"])
def test_the_least_floor_keeps_weights_of_equal_vectors_finite(start: str) -> None:
    made = parse_aggregator(f"rfa:floor=1e-30,start={start}", 1)
    assert made is not None
    assert made.row is not None
    for value in (0.0, 1.0, 5e-324):
        sketches = {agent: np.full(8, value) for agent in ("a0", "a1", "a2")}
        row = made.row("a0", 1, dict.fromkeys(sketches, 1 / 3), sketches)
        assert sum(row.values()) == pytest.approx(1.0) or start == "zero"
        assert np.isfinite(list(row.values())).all()


def test_smea_tries_no_more_subsets_than_it_can() -> None:
    made = parse_aggregator("smea", 4)
    assert made is not None
    made.check("a1", 15)
    with pytest.raises(ConfigurationError, match="would try 4845 subsets, at most 3000"):
        made.check("a1", 19)


def test_equal_specs_have_one_name() -> None:
    texts = ["rfa:steps=3,floor=0.1", "rfa:floor=0.10,steps=3", "rfa:floor=0.1,steps=3"]
    assert {parse_aggregator(text, 1).name for text in texts} == {"rfa:3,0.1"}  # type: ignore[union-attr]
    assert parse_aggregator("mean", 3) is None


def test_examples_in_the_docstrings_hold() -> None:
    import doctest

    from candor.mechanisms.aggregation import preaggregators, rules

    for module in (rules, preaggregators, coordinates, aggregators):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0
