"""The measurement of the bare library's speed, on tiny sizes."""

import pytest

from candor.agent.studies.bench.raw_sockets import measure_floor
from candor.network.errors import TransportError


@pytest.mark.parametrize("curve", [False, True])
def test_every_round_is_measured(curve: bool) -> None:
    seconds = measure_floor([(0, 1), (1, 2)], 3, 10_001, 5, curve, 4096)
    assert len(seconds) == 5
    assert all(0 < value < 10 for value in seconds)


def test_a_process_that_cannot_run_ends_the_measurement_with_one_line() -> None:
    with pytest.raises(TransportError, match="floor measurement failed: IndexError"):
        measure_floor([(0, 7)], 2, 1000, 1, False, 100)  # neighbour 7 does not exist
