"""The search for a better lie, on gains that are known."""

import numpy as np

from candor.agent.studies.audit.search import BOUNDS, search, spec_of
from candor.mechanisms.strategies.specs import parse_strategy


def test_every_point_is_a_strategy_within_the_run():
    rng = np.random.default_rng(0)
    low, high = np.array(BOUNDS).T
    corners = [low, high, *(low + (high - low) * rng.random((50, len(low))))]
    for point in corners:
        spec = spec_of(point, 40)
        parse_strategy(spec)
        for piece in spec.split("@")[1:]:
            first, _, last = piece.split("+")[0].strip().partition("-")
            assert 1 <= int(first) <= int(last or first) <= 40


def test_the_search_finds_where_exaggeration_pays_most():
    """A gain with its top at 2^1 = 2, and nothing to be had by the other parameters."""

    def net_gains(specs):
        assert len(set(specs)) == len(specs)
        tried.extend(specs)
        return [gain(spec) for spec in specs]

    def gain(spec):
        parts = dict(part.split("@")[0].strip().split(":") for part in spec.split(" + "))
        if "noise" in parts:
            return -np.inf  # a run that diverges does not stop the search
        return -abs(np.log2(float(parts["scale"])) - 1) - abs(float(parts.get("conform", 0)))

    tried: list[str] = []
    found = search(net_gains, 100)
    assert gain(found) == max(gain(spec) for spec in tried)
    assert gain(found) > -0.6
    assert len(tried) <= 48
    again: list[str] = tried.copy()
    tried.clear()
    assert search(net_gains, 100) == found  # the same search every time
    assert tried == again
