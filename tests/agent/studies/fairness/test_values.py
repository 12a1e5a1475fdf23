"""How near the cosine comes to Shapley values."""

from candor.agent.studies.fairness import values
from candor.agent.studies.fairness.values import rows, verdicts


def test_the_cosine_is_near_and_sampling_takes_many_permutations_to_be(monkeypatch) -> None:
    monkeypatch.setattr(values, "DRAWS", 2)
    exact, cosine, few, many = values.values(seed=3)
    assert exact.l1 == 0.0
    assert cosine.l1 < 0.02 < few.l1
    assert many.l1 < few.l1
    assert cosine.pearson > 0.95
    near, alike, faster = verdicts([exact, cosine, few, many])
    assert near.holds
    assert alike.holds
    assert faster.holds == (many.seconds >= 1000 * cosine.seconds)
    assert rows([exact, cosine, few, many])[1][1:4] == ("0.01", f"{cosine.l1:.4f}", "0.98")
