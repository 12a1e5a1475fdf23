"""Ratings held against the text of docs/protocol.md, "Fair gossip", one operation at a time, and
golden vectors that another implementation can be held against."""

import math
import struct
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.mechanisms.rewards.allocation import FLOOR
from candor.mechanisms.rewards.barter import (
    Barter,
    Groups,
    novelty,
    parse_rewards,
    scores_of,
    tanh,
    ways,
)
from candor.topologies.specs.specs import ConfigurationError
from tests.golden import assert_golden

IDS = ("a0", "a1", "a2", "a3", "a4")
RULES = (Barter(), Barter(beta=6.0, alpha=0.95, tolerance=0.25), Barter(beta=0.0))


# --- the text, in plain Python --------------------------------------------------------------------


def fold(values: list[float]) -> float:
    values = list(values)
    while len(values) > 1:
        half = -(-len(values) // 2)
        for at in range(len(values) - half):
            values[at] += values[at + half]
        values = values[:half]
    return values[0]


def dot(one: list[float], other: list[float]) -> float:
    return fold([a * b for a, b in zip(one, other, strict=True)])


def plain_novelty(trace: list[float], before: list[list[float]]) -> float:
    rests = [list(v) for v in (*before, trace)]
    for at, vector in enumerate(before):
        left = dot(rests[at], rests[at])
        if left <= 1e-12 * dot(vector, vector):
            continue
        axis = [v / math.sqrt(left) for v in rests[at]]
        for later in range(at + 1, len(rests)):
            along = dot(rests[later], axis)
            rests[later] = [v - along * q for v, q in zip(rests[later], axis, strict=True)]
    whole = dot(trace, trace)
    return min(1.0, dot(rests[-1], rests[-1]) / whole) if whole > 0 else 0.0


def plain_ways(
    start: list[float], models: list[list[float]], given: list[int], count: int
) -> list[list[float]]:
    each = len(start) // count
    return [
        [model[at] - start[at] if at < groups * each else 0.0 for at in range(len(start))]
        for model, groups in zip(models, given, strict=True)
    ]


def plain_scores(
    rater: str,
    reputations: dict[str, float],
    traces: dict[str, list[float]],
    novelties: dict[str, float],
) -> dict[str, float]:
    lengths = {k: math.sqrt(dot(v, v)) for k, v in traces.items()}
    common = [0.0] * len(traces[rater])
    for k in sorted(traces):
        part = reputations[k] / lengths[k] if lengths[k] > 0 else reputations[k]
        common = [c + part * v for c, v in zip(common, traces[k], strict=True)]
    whole, least = math.sqrt(dot(common, common)), 0.1 * lengths[rater]
    scores = {}
    for k, trace in traces.items():
        under = lengths[k] * whole
        cosine = dot(trace, common) / under if under > 0 else 0.0
        short = lengths[k] / least if lengths[k] < least else 1.0
        scores[k] = cosine * novelties[k] * short
    return scores


def plain_rated(
    barter: Barter, before: dict[str, float], scores: dict[str, float], count: int
) -> dict[str, list[float]]:
    moved, earned, held = dict(before), 0.0, 0.0
    for k in sorted(scores):
        earned += max(scores[k], 0.0)
        held += before[k]
    for k, score in scores.items():
        share = score / earned * held if earned > 0 else 0.0
        moved[k] = max(barter.alpha * before[k] + (1 - barter.alpha) * share, 0.001)
    whole = 0.0
    for k in sorted(moved):
        whole += moved[k]
    after = {k: value / whole for k, value in moved.items()}
    getcontext().prec = 60
    worth = {}
    for k, value in after.items():
        power = (2 * Decimal(barter.beta * value)).exp()
        worth[k] = float((power - 1) / (power + 1))
    best = max(worth.values())
    return {
        k: [
            after[k],
            scores.get(k, 0.0),
            min(count, math.floor(count * (1 + barter.tolerance) * (worth[k] / best)))
            if best > 0
            else count,
        ]
        for k in sorted(after)
    }


def case(seed: int, size: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Traces of two rounds, of few bits: an honest one, one that copies, one of zeros, one that is
    short, and one against the others."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(size)

    def drawn() -> np.ndarray:
        return np.round((common + rng.standard_normal(size)) * 16) / 16

    before = {k: drawn() for k in IDS}
    now = {k: drawn() for k in IDS}
    now["a1"] = 2.0 * before["a0"] - before["a3"]
    now["a2"] = 0.0 * now["a2"]
    now["a3"] = now["a3"] * 2.0**-8
    now["a4"] = -now["a4"]
    return {k: v.tolist() for k, v in before.items()}, {k: v.tolist() for k, v in now.items()}


@pytest.mark.parametrize("seed", range(5))
def test_ratings_are_those_of_the_page_to_the_last_bit(seed: int) -> None:
    size = (3, 9, 16, 100, 128)[seed]
    before, now = case(seed, size)
    groups = Groups(1024)
    for barter in RULES:
        reputations = {k: r.reputation for k, r in barter.equal(IDS, groups).items()}
        for rater in IDS:
            news = {
                k: novelty(np.array(now[k]), [np.array(before[j]) for j in IDS if j != k])
                for k in IDS
            }
            assert news == {
                k: plain_novelty(now[k], [before[j] for j in IDS if j != k]) for k in IDS
            }
            scores = scores_of(rater, reputations, {k: np.array(v) for k, v in now.items()}, news)
            assert scores == plain_scores(rater, reputations, now, news)
            del scores["a4"]  # was not heard
            made = barter.rated(reputations, scores, groups)
            found = {k: [r.reputation, r.score, r.groups] for k, r in made.items()}
            assert found == plain_rated(barter, reputations, scores, groups.count)
            reputations = {k: r.reputation for k, r in made.items()}


def test_golden_ratings() -> None:
    cases = []
    for seed, (rater, size) in enumerate([("a0", 6), ("a3", 16)]):
        before, now = case(seed, size)
        arrays = {k: np.array(v) for k, v in now.items()}
        models = {k: np.roll(before[k], 1) for k in IDS}
        given = {k: (seed + place) % 4 for place, k in enumerate(IDS)}
        news = {}
        for k in IDS:
            others = [j for j in IDS if j != k]
            start = models[k] + 0.5 * np.array(before[k])
            shown = ways(start, [models[j] for j in others], [given[j] for j in others], 3)
            news[k] = novelty(arrays[k], [*(np.array(before[j]) for j in others), *shown])
            rows = [models[j].tolist() for j in others]
            plain = plain_ways(start.tolist(), rows, [given[j] for j in others], 3)
            assert news[k] == plain_novelty(now[k], [*(before[j] for j in others), *plain])
        reputations = {k: 0.25 if k == "a0" else 0.1875 for k in IDS}
        scores = scores_of(rater, reputations, arrays, news)
        rated = {}
        for barter in RULES:
            made = barter.rated(reputations, scores, Groups(1024)).items()
            name = f"cgsv:beta={barter.beta:g},alpha={barter.alpha:g},"
            rated[f"{name}tolerance={barter.tolerance:g}"] = {
                k: [bits(r.reputation), r.groups] for k, r in made
            }
        cases.append(
            {
                "rater": rater,
                "before": before,
                "models": {k: v.tolist() for k, v in models.items()},
                "given": given,
                "traces": now,
                "reputations": reputations,
                "novelties": {k: bits(v) for k, v in news.items()},
                "scores": {k: bits(v) for k, v in scores.items()},
                "rated": rated,
            }
        )
    about = (
        "Ratings of all by `rater` from traces of a round and of the one before, in which everyone "
        "mixed all, stepped by 0.5, stated `models` and gave each so many groups of 3; earned ones "
        "are for k = 1024. Floats little-endian binary64; `rated`: reputation and groups."
    )
    assert_golden("barter.json", {"about": about, "cases": cases})


def bits(value: float) -> str:
    return struct.pack("<d", value).hex()


# --- laws -----------------------------------------------------------------------------------------

floats32 = st.floats(-1e3, 1e3, width=32)
traces = st.lists(floats32, min_size=8, max_size=8).map(lambda v: np.array(v, np.float64))


@given(st.lists(traces, min_size=1, max_size=5), st.lists(st.integers(-3, 3), min_size=5))
def test_a_sum_of_the_last_updates_is_nothing_new(before, factors):
    mixed = sum(f * vector for f, vector in zip(factors, before, strict=False))
    scale = max(float(np.abs(v).max()) for v in before)
    if np.abs(mixed).max() < 1e-3 * scale:  # zeros, up to rounding
        return
    assert novelty(np.float64(np.float32(mixed)), before) < 1e-6


@given(traces, st.lists(traces, min_size=2, max_size=3), st.lists(st.integers(0, 4), min_size=3))
def test_what_a_copier_makes_of_the_models_that_it_is_given_is_nothing_new(own, models, given):
    """As `stale-copy` in a daemon: its last update, and the way from its model to another's, where
    it was given that one's; or the way from what it started from to it, or a sum of such."""
    start, count = models[0] + 0.5 * own, 4
    before = ways(start, models[1:], given[: len(models) - 1], count)
    seen = np.arange(8) < 2 * given[0]
    copied = np.where(seen, own + (models[0] - models[1]) / 0.5, 0.0)
    for one in (copied, sum(before)):
        scale = max(float(np.abs(v).max()) for v in (own, *models))
        if np.abs(one).max() > 1e-3 * scale:
            assert novelty(one, before) < 1e-6


@given(traces, st.lists(traces, max_size=4))
def test_novelty_is_a_part_and_whole_where_nothing_came_before(trace, before):
    assert 0.0 <= novelty(trace, before) <= 1.0
    if trace.any():
        assert novelty(trace, []) == 1.0
        beside = np.concatenate([trace, np.zeros(8)])
        others = [np.concatenate([np.zeros(8), vector]) for vector in before]
        assert novelty(beside, others) == 1.0


@given(
    st.lists(st.floats(1e-3, 1.0), min_size=2, max_size=8),
    st.lists(st.floats(-1.0, 1.0), min_size=8, max_size=8),
    st.integers(0, 8),
    st.sampled_from(RULES),
)
def test_reputations_sum_to_one_and_the_best_gets_all(values, scores, heard, barter):
    ids = [f"a{i}" for i in range(len(values))]
    before = {k: v / sum(values) for k, v in zip(ids, values, strict=True)}
    groups = Groups(1024)
    made = barter.rated(before, dict(zip(ids[:heard], scores, strict=False)), groups)
    assert sum(r.reputation for r in made.values()) == pytest.approx(1.0)
    assert min(r.reputation for r in made.values()) > FLOOR / 10
    assert max(r.groups for r in made.values()) == groups.count
    ordered = sorted(made.values(), key=lambda r: r.reputation)
    assert [r.groups for r in ordered] == sorted(r.groups for r in made.values())


def test_equal_reputations_earn_all_whatever_the_number_of_groups():
    """As all are equal in the first round, anything else would have honest agents refused."""
    for count in range(1, 33):
        groups = Groups(16 * count)
        for rule in (Barter(tolerance=0.0), Barter(beta=0.5, tolerance=0.0)):
            for agents in range(1, 20):
                equal = rule.equal([f"a{i}" for i in range(agents)], groups)
                reputations = {k: rating.reputation for k, rating in equal.items()}
                earned = {k: rating.groups for k, rating in equal.items()}
                assert rule.earned(reputations, groups) == earned


def test_who_is_not_rated_keeps_its_reputation_up_to_the_sum():
    made = Barter(alpha=0.5).rated({"a": 0.5, "b": 0.25, "c": 0.25}, {"a": 0.5}, Groups(1024))
    assert {k: r.reputation for k, r in made.items()} == {"a": 0.5, "b": 0.25, "c": 0.25}


def test_reputations_move_as_fast_whatever_scores_are_like():
    before, groups = {"a": 0.5, "b": 0.25, "c": 0.25}, Groups(1024)
    scores = {"a": 0.25, "b": 0.75, "c": 0.0}
    made = Barter(alpha=0.5).rated(before, scores, groups)
    again = Barter(alpha=0.5).rated(before, {k: v / 64 for k, v in scores.items()}, groups)
    assert [r.reputation for r in made.values()] == [r.reputation for r in again.values()]
    assert made["b"].reputation == 0.5 * 0.25 + 0.5 * 0.75
    nothing = Barter().rated(before, dict.fromkeys(before, 0.0), groups)
    assert {k: r.reputation for k, r in nothing.items()} == before


def test_free_riders_and_copies_are_worth_nothing_and_a_sign_flip_less():
    before, now = case(3, 128)
    arrays = {k: np.array(v) for k, v in now.items()}
    news = {k: novelty(arrays[k], [np.array(before[j]) for j in IDS if j != k]) for k in IDS}
    scores = scores_of("a0", dict.fromkeys(IDS, 0.2), arrays, news)
    assert scores["a0"] > 0.3
    assert scores["a1"] == pytest.approx(0.0, abs=1e-9)
    assert scores["a2"] == 0.0
    assert 0.0 < scores["a3"] < 0.1 * scores["a0"]  # as short as it is
    assert scores["a4"] < 0.0


@given(st.integers(1, 2048), st.integers(1, 3000))
def test_groups_are_a_partition_whose_parts_grow(size, dim):
    groups = Groups(size)
    assert 1 <= groups.count <= 32
    assert groups.bound(groups.count) == size
    vector = np.arange(dim, dtype=np.float32)
    parts = [groups.taken(vector, g, g + 1) for g in range(groups.count)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(dim))
    last = dim % (groups.count + 1)
    share = groups.taken(vector, 0, last)
    assert share.tolist() == [i for i in range(dim) if i % size < groups.bound(last)]
    assert len(share) == groups.length(dim, 0, last)
    copy = np.full(dim, -1, np.float32)
    groups.put(share, 0, last, copy)
    assert copy.tolist() == [i if i % size < groups.bound(last) else -1 for i in range(dim)]
    if groups.count > 1:
        assert min(groups.bound(g + 1) - groups.bound(g) for g in range(groups.count)) >= 16


def test_a_source_that_is_no_number_makes_nothing_new():
    """A copier could name one to be rated as new."""
    trace = np.ones(4)
    assert novelty(trace, [np.full(4, math.nan)]) == novelty(trace, [trace]) == 0.0
    assert novelty(trace, []) == 1.0


@given(st.floats(0.0, 30.0))
def test_tanh_is_that_of_the_library_but_for_a_bit(value):
    assert tanh(value) == pytest.approx(math.tanh(value), rel=4e-16, abs=0.0)


@pytest.mark.parametrize("text", [None, "none"])
def test_none_is_off(text):
    assert parse_rewards(text) is None


def test_a_spec_gives_the_rule():
    assert parse_rewards("cgsv") == Barter()
    assert parse_rewards("cgsv:2") == Barter(beta=2.0)
    assert parse_rewards("cgsv:beta=0,alpha=0.5,tolerance=1") == Barter(0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rffl", "unknown; known: none, cgsv:beta=1"),
        ("cgsv:gamma=1", "no gamma; there are beta, alpha, tolerance"),
        ("cgsv:beta=-1", "beta is a finite number from 0"),
        ("cgsv:beta=inf", "beta is a finite number from 0"),
        ("cgsv:beta=nan", "beta is a finite number from 0"),
        ("cgsv:alpha=1.5", "alpha is a finite number from 0 to 1"),
        ("cgsv:tolerance=much", "tolerance is a finite number from 0"),
        ("cgsv:tolerance=1e307", "tolerance is a finite number from 0 to 1e[+]06"),
    ],
)
def test_a_bad_spec_is_told_in_one_line(text, told):
    with pytest.raises(ConfigurationError, match=told) as error:
        parse_rewards(text)
    assert "\n" not in str(error.value)
