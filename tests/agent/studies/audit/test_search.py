"""The search for a better lie, on gains that are known."""

from dataclasses import replace

import numpy as np
import pytest

from candor.agent.studies.audit.search import BOUNDS, FIRST, Frame, point_of, search, spec_of
from candor.mechanisms.strategies.specs import parse_strategy

FRAME = Frame(100)


def coefficients(spec: str) -> dict[str, float]:
    """Those of the mix in a spec."""
    mix = spec.split("mix:")[1].partition(" @ ")[0]
    return {name: float(value) for name, _, value in (one.partition("=") for one in mix.split(","))}


@pytest.mark.parametrize("frame", [Frame(40), Frame(40, hides=False, pairs=False), Frame(1)])
def test_every_point_is_a_strategy_within_the_run(frame: Frame) -> None:
    rng = np.random.default_rng(0)
    low, high = np.array([*BOUNDS.values()]).T
    corners = [low, high, *(low + (high - low) * rng.random((50, len(low))))]
    for point in [*corners, *map(point_of, FIRST)]:
        spec = spec_of(point, frame)
        parse_strategy(spec, simulated=True)
        assert frame.pairs or "colluding" not in spec
        assert frame.hides or "unseen" not in spec
        for piece in spec.split("@")[1:]:
            first, _, last = piece.strip().partition("-")
            assert 1 <= int(first) <= int(last or first) <= frame.rounds


def test_points_are_read_as_they_are_meant() -> None:
    assert spec_of(point_of({}), FRAME) == "mix:own=1"
    assert spec_of(point_of({"factor": 1.0}), FRAME) == "mix:own=2"
    turned = point_of({"factor": 1.0, "kept": 1.0, "middle": 2.0})
    assert spec_of(turned, FRAME) == "mix:own=1,middle=2,norm=2"
    assert spec_of(point_of({"frozen": 3.0, "start": 0.9}), Frame(101)) == (
        "mix:own=1,frozen=3 @ 91-101"
    )
    seldom = point_of({"windows": 4.2, "gate": -0.8, "pair": 1.0})
    assert spec_of(seldom, FRAME) == "colluding:1 + mix:own=1,windows=4,short=0.25"
    hidden = point_of({"unseen": 4.0})
    assert spec_of(hidden, FRAME) == "mix:own=1,unseen=4"
    assert spec_of(hidden, replace(FRAME, hides=False)) == "mix:own=1"


def test_the_search_finds_where_exaggeration_pays_most() -> None:
    """A gain with its top where all is exaggerated three times, without noise."""

    def net_gains(specs):
        assert len(set(specs)) == len(specs)
        tried.extend(specs)
        return [gain(spec) for spec in specs]

    def gain(spec):
        said = coefficients(spec)
        if "noise" in said:
            return -np.inf  # a run that diverges does not stop the search
        return -abs(said["own"] - 3.0) - 0.1 * said.get("frozen", 0.0)

    tried: list[str] = []
    found = search(net_gains, FRAME)
    assert gain(found) == max(gain(spec) for spec in tried)
    assert gain(found) > -0.6
    assert len(tried) <= 48
    again: list[str] = tried.copy()
    tried.clear()
    assert search(net_gains, FRAME) == found  # the same search every time
    assert tried == again


@pytest.mark.parametrize("name", ["frozen", "slow", "unseen", "near"])
def test_the_search_finds_each_ingredient(name: str) -> None:
    """A gain that grows with one coefficient's share of all."""

    def gain(spec):
        said = {n: abs(v) for n, v in coefficients(spec).items()}
        return said.get(name, 0.0) / sum(said.values())

    found = search(lambda specs: [gain(spec) for spec in specs], FRAME)
    assert gain(found) > 0.2
