"""What each mechanism gives for made-up uploads."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.studies.fairness.mechanisms import (
    METHODS,
    Floats,
    Mechanism,
    Premises,
    Rewards,
    Round,
    method_of,
)
from candor.mechanisms.rewards.contribution import cosine, inner_products
from candor.topologies.specs.specs import ConfigurationError

TENSORS = [6, 4]
DIM = sum(TENSORS)
SAMPLES = np.array([10.0, 20.0, 30.0, 40.0])
COUNT = len(SAMPLES)


def premises(worth: Callable[[Floats], float] = lambda _: 0.0, norm: float = 0.5) -> Premises:
    generator = np.random.default_rng(1)
    return Premises(SAMPLES, TENSORS, norm, np.zeros(DIM), worth, generator)


def uploads(seed: int) -> Floats:
    """Of agents that agree more or less: the later ones are nearer to a common direction."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(DIM) + rng.standard_normal((COUNT, DIM)) / SAMPLES[:, None] * 10


def played(
    mechanism: Mechanism, vectors: Floats, t: int = 1, losses: Floats | None = None
) -> Rewards:
    told = np.ones(COUNT) if losses is None else losses
    return mechanism.rewards(Round(t, vectors, vectors, told, 0.1))


def built(method: str, **asked: Callable[[Floats], float]) -> Mechanism:
    return method_of(method)(premises(**asked))


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(METHODS)))
def test_nobody_is_given_anything_but_parts_of_the_whole(seed: int, method: str) -> None:
    vectors = uploads(seed)
    found = played(built(method), vectors)
    own = vectors if method == "standalone" else np.zeros_like(vectors)
    if method == "rffl":
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        own = vectors * np.minimum(1.0, 0.5 / lengths)
    given_ = found.moves - own
    assert found.moves.shape == vectors.shape
    assert (np.isclose(given_, 0.0) | np.isclose(given_, found.whole)).all()
    if method not in ("standalone", "rr"):
        assert np.isclose(given_, found.whole).all(axis=1).any(), "the best one gets all"
        assert found.shares.max() == 1.0


def test_fedavg_is_the_mean_by_samples_and_so_is_qffl_without_q() -> None:
    vectors = uploads(0)
    mean = np.average(vectors, axis=0, weights=SAMPLES)
    assert np.allclose(played(built("fedavg"), vectors).moves, mean)
    plain = played(built("qffl:q=0"), vectors, losses=np.array([1.0, 2.0, 3.0, 4.0]))
    assert np.allclose(plain.moves, vectors.mean(axis=0))


def test_qffl_follows_whoever_has_the_largest_loss() -> None:
    vectors = np.eye(COUNT, DIM)
    found = played(built("qffl:q=1"), vectors, losses=np.array([1.0, 1.0, 1.0, 9.0])).whole
    assert (found[3] > 5 * found[:3]).all()
    assert (found[:3] > 0).all()


def test_dw_gives_coordinates_by_samples() -> None:
    found = played(built("dw"), uploads(0))
    kept = (found.moves != 0).sum(axis=1)
    # ceil(q n) of each tensor, n - 1 at most but for who gets all
    assert kept.tolist() == [2 + 1, 3 + 2, 5 + 3, 6 + 4]


def test_eu_gives_most_to_the_nearest() -> None:
    vectors = uploads(0)
    found = played(built("eu"), vectors)
    apart = np.linalg.norm(vectors - found.whole, axis=1)
    assert (np.argsort(found.shares) == np.argsort(-apart)).all()
    assert np.allclose(found.shares * apart, apart.min())


def test_rr_gives_one_agent_a_round_all_that_it_has_missed() -> None:
    mechanism, total = built("rr"), np.zeros((COUNT, DIM))
    wholes = []
    for t in range(1, 2 * COUNT + 1):
        found = played(mechanism, uploads(t), t)
        total += found.moves
        wholes.append(found.whole)
        turn = (t - 1) % COUNT
        assert np.flatnonzero(found.moves.any(axis=1)).tolist() == [turn]
        assert np.allclose(total[turn], np.sum(wholes, axis=0)), "as far as the server is"


def test_cgsv_is_the_papers_equations_round_by_round() -> None:
    mechanism = built("cgsv:beta=1.5,mask=global")
    weights, r = SAMPLES / SAMPLES.sum(), np.zeros(COUNT)
    for t in range(1, 6):
        vectors = uploads(t)
        u = 0.5 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        whole = weights @ u
        psi = u @ whole / (np.linalg.norm(u, axis=1) * np.linalg.norm(whole))
        r = np.maximum(0.95 * r + 0.05 * psi, 1e-3)
        weights = r = r / r.sum()
        share = np.tanh(1.5 * r) / np.tanh(1.5 * r).max()
        found = played(mechanism, vectors, t)
        assert np.allclose(found.whole, whole)
        assert np.allclose(found.reputations, r)
        assert np.allclose(found.shares, share)
        for row, q in enumerate(np.floor(DIM * found.shares).astype(int)):
            kept = np.sort(np.abs(whole))[::-1][:q]
            assert np.allclose(np.sort(np.abs(found.moves[row]))[::-1][:q], kept)


def test_more_altruism_gives_everyone_more() -> None:
    vectors = uploads(3)
    vectors[0] *= -1  # worth nothing
    shares = [played(built(f"cgsv:beta={beta}"), vectors).shares for beta in (1, 1.5, 2)]
    assert (np.diff(shares, axis=0) >= 0).all()
    assert shares[0][0] < shares[1][0] < shares[2][0]


def test_rffl_drops_who_uploads_noise_after_ten_rounds_and_nobody_else() -> None:
    mechanism, rng = built("rffl"), np.random.default_rng(0)
    for t in range(1, 40):
        vectors = uploads(1)
        vectors[0] = rng.uniform(-1, 1, DIM)
        found = played(mechanism, vectors, t)
        if t <= 10:
            assert (found.reputations > 0).sum() >= COUNT - 1
    assert found.reputations[0] == found.shares[0] == 0.0
    assert (found.reputations[1:] > 0.2).all()
    clipped = vectors[0] * min(1.0, 0.5 / np.linalg.norm(vectors[0]))
    assert np.allclose(found.moves[0], clipped), "it keeps to itself"


def worth(model: Floats) -> float:
    """Of models whose first number is what counts."""
    return float(model[0])


def test_eci_is_the_shapley_value_of_the_validation() -> None:
    """Of a worth that adds up, whatever the order: each agent's own, but for being a mean."""
    vectors = np.zeros((COUNT, DIM))
    vectors[:, 0] = [0.1, 0.1, 0.1, 0.5]
    mechanism = method_of("eci:permutations=400")(premises(worth))
    found = played(mechanism, vectors)
    assert found.reputations.argmax() == 3
    assert found.reputations[3] > 1.5 * found.reputations[0]
    assert found.reputations.sum() == pytest.approx(1.0)


def test_cffl_is_what_leaving_an_agent_out_costs() -> None:
    vectors = np.zeros((COUNT, DIM))
    vectors[:, 0] = [0.3, 0.3, 0.3, 0.9]
    found = played(built("cffl", worth=worth), vectors)
    assert found.shares.tolist() == [found.shares[0]] * 3 + [1.0]
    assert found.shares[0] < 0.1, "without them the mean would be better"


def test_validation_is_of_the_model_as_far_as_it_has_come() -> None:
    seen: list[float] = []

    def noted(model: Floats) -> float:
        seen.append(model[0])
        return model[0]

    mechanism = built("cffl", worth=noted)
    for t in range(1, 4):
        played(mechanism, np.ones((COUNT, DIM)), t)
        assert max(seen) == pytest.approx(t)


def test_values_of_the_mechanism_are_the_cosines() -> None:
    vectors = uploads(5)
    found = played(built("cgsv"), vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    psi = cosine(inner_products(unit), SAMPLES / SAMPLES.sum())
    assert np.allclose(found.reputations, psi / psi.sum())


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("cgvs", "known: standalone"),
        ("cgsv:gamma=1", "its options are beta, mask"),
        ("cgsv:beta=0.5", "beta is a number of at least 1"),
        ("cgsv:beta=many", "beta is a number"),
        ("cgsv:mask=row", "mask is tensor or global"),
        ("cgsv:2", "its options are"),
        ("fedavg:beta=1", "takes no options"),
        ("eci:permutations=0", "at least 1"),
        ("qffl:q=-1", "at least 0"),
    ],
)
def test_what_is_no_method_is_refused(method: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        method_of(method)
