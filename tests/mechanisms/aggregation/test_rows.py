"""Rows of rules, held against the text of docs/protocol.md, one operation at a time, and the golden
vectors that another implementation can be held against."""

import struct

import numpy as np
import pytest

from candor.mechanisms.aggregation.specs import PREAGGREGATORS, RULES, parse_aggregator
from candor.mechanisms.agreement.averaging import AGREEMENT, FIRST, Averaging, first
from tests.golden import assert_golden

SPECS = [
    "arc + mean",
    "krum",
    "multi-krum",
    "mda",
    "monna",
    "cge",
    "rfa",
    "rfa:steps=3,floor=0.1,start=own",
    "rfa:floor=0.1,start=zero",
    "centred-clipping",
    "centred-clipping:2.5",
    "clipped-gossip",
    "clipped-gossip:1.5",
    "sybilwall",
    "nnm + krum",
    "bucketing + rfa",
    "bucketing:3 + clipped-gossip",
    "clipping:1.5 + mda",
    "clipping:radius=3,about=zero + monna",
    "arc + nnm + cge",
    "arc:zero + rfa",
]


def golden_case(
    seed: int, count: int, size: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Values of a few bits, so that the file is short: two near clusters and one far away."""
    rng = np.random.default_rng(seed)
    ids = [f"a{i}" for i in range(count)]
    values = np.round(rng.standard_normal((count, size)) * 16) / 16
    values[1] = values[2]  # two send the same
    values[-1] += 2.0**40
    weights = dict.fromkeys(ids, 0.125)
    weights["a3"] = 1.0 - 0.125 * (count - 1)
    return weights, dict(zip(ids, values.tolist(), strict=True))


def test_golden_rows() -> None:
    cases = []
    for seed, (count, size) in enumerate([(7, 5), (8, 9), (3, 4)]):
        make = golden_case if count > 3 else few
        weights, sketches = make(seed, count, size)
        arrays = {agent: np.array(values) for agent, values in sketches.items()}
        rows = {}
        for spec in SPECS:
            made = parse_aggregator(spec, 1)
            assert made is not None
            assert made.row is not None
            row = made.row("a3", 6, weights, arrays)
            rows[spec] = {"name": made.name, "row": encoded(row)}
        agreed = Averaging(1)("a3", 6, weights, arrays)
        rows[AGREEMENT] = {"name": AGREEMENT, "row": encoded(agreed)}
        rows[FIRST] = {"name": FIRST, "row": encoded(first("a3", 6, weights, arrays))}
        cases.append({"weights": weights, "sketches": sketches, "rows": rows})
    about = "Rows of taker a3 in round 6, max_byzantine 1: each weight little-endian binary64."
    assert_golden("rows.json", {"about": about, "cases": cases})


def encoded(row: dict[str, float]) -> dict[str, str]:
    return {k: struct.pack("<d", w).hex() for k, w in row.items()}


def few(seed: int, count: int, size: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Too few for buckets, and enough for most."""
    _, sketches = golden_case(seed, count + 2, size)
    weights = {"a1": 0.25, "a3": 0.5, "a4": 0.25}
    return weights, {k: sketches[k] for k in weights}


def test_every_verifiable_rule_has_golden_rows() -> None:
    exact = {name for name, entry in RULES.items() if entry.make is not None and entry.exact}
    parts = {part.split(":")[0] for spec in SPECS for part in spec.split(" + ")}
    assert parts == exact | set(PREAGGREGATORS)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("huge", [0.0, 1e30, 1e45])
def test_hostile_values_give_finite_rows(spec: str, huge: float) -> None:
    """Far values, all in one place, and as many equal as there are."""
    made = parse_aggregator(spec, 1)
    assert made is not None
    assert made.row is not None
    same = np.full(40, 3.0)
    for others in ([same] * 6, [same, same, same + huge, same, -same - huge, same * 0]):
        sketches = {"own": same} | {f"n{i}": v for i, v in enumerate(others)}
        row = made.row("own", 1, dict.fromkeys(sketches, 1 / 7), sketches)
        assert row.keys() == sketches.keys()
        assert np.isfinite(list(row.values())).all()
