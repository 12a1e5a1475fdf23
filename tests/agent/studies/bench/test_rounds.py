"""`candor bench round`: what it says of a round adds up."""

import pytest

from candor.agent.studies.bench.rounds import PHASES, measure_round


@pytest.mark.e2e
def test_the_phases_of_a_round_add_up_to_it() -> None:
    cost = measure_round(agents=2, topology="path", parameters=1000, rounds=3)
    assert tuple(cost.phases) == (*PHASES, "rest")
    assert sum(cost.phases.values()) == pytest.approx(cost.mean_seconds_per_round)
    assert all(cost.phases[phase] >= 0 for phase in PHASES)
    assert cost.mean_seconds_per_round > 0
    assert set(cost.beside) == {"settle", "encrypt_send"}
