"""Every aggregator against its definition in loops, one agent at a time, and what its weights as a
row of vectors that are their own sketches come to."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from candor.mechanisms.aggregation.inner import inner_of
from candor.mechanisms.aggregation.points import Points
from candor.mechanisms.aggregation.specs import (
    PREAGGREGATORS,
    RULES,
    Aggregator,
    parse_aggregator,
)
from tests.mechanisms.aggregation import reference as ref

Rule = Callable[..., Any]

REFERENCES: dict[str, tuple[list[Rule], Rule]] = {
    "median": ([], ref.median),
    "trimmed-mean": ([], ref.trimmed_mean),
    "meamed": ([], ref.meamed),
    "bridge": ([], ref.bridge),
    "krum": ([], ref.krum),
    "multi-krum": ([], ref.multi_krum),
    "mda": ([], ref.mda),
    "monna": ([], ref.monna),
    "cge": ([], ref.cge),
    "rfa": ([], ref.rfa),
    "rfa:steps=3,floor=0.1,start=own": ([], partial(ref.rfa, steps=3, floor=0.1, start="own")),
    "centred-clipping": ([], ref.centred_clipping),
    "centred-clipping:radius=3,steps=2": ([], partial(ref.centred_clipping, radius=3.0, steps=2)),
    "clipped-gossip": ([], ref.clipped_gossip),
    "clipped-gossip:2.5": ([], partial(ref.clipped_gossip, radius=2.5)),
    "sybilwall": ([], ref.sybilwall),
    "smea": ([], ref.smea),
    "caf": ([], ref.caf),
    "nnm + krum": ([ref.nnm], ref.krum),
    "nnm + trimmed-mean": ([ref.nnm], ref.trimmed_mean),
    "clipping:3 + median": ([partial(ref.clipping, radius=3.0)], ref.median),
    "clipping:radius=3,about=zero + mean": (
        [partial(ref.clipping, radius=3.0, about="zero")],
        ref.all_alike,
    ),
    "arc + mean": ([ref.arc], ref.all_alike),
    "arc:zero + meamed": ([partial(ref.arc, about="zero")], ref.meamed),
    "nnm + arc + centred-clipping": ([ref.nnm, ref.arc], ref.centred_clipping),
    "clipping:3 + caf": ([partial(ref.clipping, radius=3.0)], ref.caf),
    "arc:zero + multi-krum": ([partial(ref.arc, about="zero")], ref.multi_krum),
    "nnm + rfa": ([ref.nnm], ref.rfa),
    "nnm + smea": ([ref.nnm], ref.smea),
    # Nothing takes distances from the own vector behind what clips to one distance: all are equal.
    "nnm + monna": ([ref.nnm], ref.monna),
}
AGENTS, NEIGHBOURS, DIM = 5, 7, 6


def neighbourhoods(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some far off, some missing: of the last agent all but one, which is too few for most."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((AGENTS, NEIGHBOURS, DIM))
    vectors[:, :2] *= 8.0
    present = rng.random((AGENTS, NEIGHBOURS)) < 0.85
    present[-1] = np.arange(NEIGHBOURS) == 3
    return vectors, present, rng.standard_normal((AGENTS, DIM))


def aggregator(spec: str, f: int) -> Aggregator:
    made = parse_aggregator(spec, f)
    assert made is not None
    return made


def expected(spec: str, f: int, heard: list[np.ndarray]) -> np.ndarray:
    if len(heard) < aggregator(spec, f).least:
        return heard[0]
    before, rule = REFERENCES[spec]
    points = heard
    for step in before:
        points = step(points, f, heard[0])
    return rule(points, f, heard[0])


@pytest.mark.parametrize("spec", REFERENCES)
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_an_aggregator_is_what_it_is_defined_as(spec: str, kind: torch.dtype) -> None:
    for f, seed in [(1, 1), (1, 2), (2, 3), (2, 4), (0, 5)]:
        if f == 0 and spec.endswith("caf"):
            continue  # it stops at once: all of the weight is left
        vectors, present, own = neighbourhoods(seed)
        made = aggregator(spec, f)
        given = (torch.from_numpy(each) for each in (vectors, present, own))
        found = made.load()(
            *(each if each.dtype == torch.bool else each.to(kind) for each in given)
        )
        for agent in range(AGENTS):
            heard = [own[agent], *vectors[agent, present[agent]]]
            due = expected(spec, f, heard)
            np.testing.assert_allclose(found[agent], due, rtol=0, atol=1e-6 * np.abs(heard).max())
            if made.row is not None:
                sketches = {f"n{i}": v for i, v in enumerate(heard)}
                row = made.row("n0", 3, dict.fromkeys(sketches, 1 / len(heard)), sketches)
                mixed = sum(row[k] * sketches[k] for k in row)
                np.testing.assert_allclose(mixed, due, rtol=0, atol=1e-9 * np.abs(heard).max())


def test_every_aggregator_has_its_definition() -> None:
    parts = {part.split(":")[0] for spec in REFERENCES for part in spec.split(" + ")}
    assert parts | {"bucketing", "ubar"} == {*RULES, *PREAGGREGATORS}


@pytest.mark.parametrize("rule", ["krum", "trimmed-mean", "clipped-gossip"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_buckets_are_means_of_a_drawn_order(rule: str, size: int) -> None:
    rng = np.random.default_rng(size)
    vectors = rng.standard_normal((10, DIM))
    own, others = torch.from_numpy(vectors[None, 0]), torch.from_numpy(vectors[None, 1:])
    made = aggregator(f"bucketing:{size} + {rule}", 1)
    inner = inner_of(others, own, origin=False, measures=made.measures)[0].numpy()
    order = Points.of(inner, np.full(10, 0.1), origin=False).drawn_order()
    assert sorted(order) == list(range(10))
    assert order != list(range(10))
    buckets = [ref.mean([vectors[i] for i in order[a : a + size]]) for a in range(0, 10, size)]
    found = made.load()(others, torch.ones(1, 9, dtype=torch.bool), own)[0].numpy()
    if rule == "clipped-gossip":  # a bucket weighs what its vectors do together
        sizes = [len(order[a : a + size]) for a in range(0, 10, size)]
        moved = [bucket - vectors[0] for bucket in buckets]
        squares = [float(m @ m) for m in moved]
        near = sorted(range(len(moved)), key=squares.__getitem__)[:-1]
        share = sorted(sizes[1:])[-1]
        radius = (sum(sizes[i] * squares[i] for i in near) / share) ** 0.5
        clipped = [n / 10 * ref.clipped(m, radius) for n, m in zip(sizes, moved, strict=True)]
        due = vectors[0] + sum(clipped)
    else:
        due = REFERENCES[rule][1](buckets, 1, vectors[0])
    np.testing.assert_allclose(found, due, atol=1e-12)


def test_ubar_keeps_near_models_that_lose_no_more_than_the_own_one() -> None:
    own, target = torch.zeros(3, 1), 1.0
    near = torch.tensor([[[0.5], [0.6], [-0.2], [9.0]]]).repeat(3, 1, 1)
    present = torch.tensor([[True] * 4, [False, False, True, True], [False, False, False, True]])

    def losses_of(vectors: torch.Tensor) -> torch.Tensor:
        return (vectors[:, :, 0] - target).abs()

    ubar = aggregator("ubar", 1).load(losses_of)
    # 9 is the furthest and -0.2 loses more; then only -0.2 is left; then nobody may be trusted.
    torch.testing.assert_close(ubar(near, present, own)[:, 0], torch.tensor([0.275, -0.1, 0.0]))
    assert ubar(near, present, own.double().float()).isfinite().all()
