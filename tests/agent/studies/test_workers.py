"""Jobs of a study, in this process and in several."""

from collections.abc import Callable

import pytest

from candor.agent.studies.workers import performed
from candor.topologies.specs.specs import ConfigurationError


def perform(job: int, told: Callable[[int], None]) -> int:
    """A job of so many steps; there is none of -1."""
    if job < 0:
        raise ConfigurationError("no such job")
    for step in range(job):
        told(step + 1)
    return job * job


def test_in_one_process_every_step_is_told() -> None:
    heard: list[tuple[int, int]] = []
    done = performed([2, 0, 3], perform, 1, lambda ended, steps: heard.append((ended, steps)))
    assert list(done) == [4, 0, 9]
    assert heard == [(0, 1), (0, 2), (2, 3), (2, 4), (2, 5)]


def test_several_processes_give_the_same() -> None:
    heard: list[tuple[int, int]] = []

    def told(ended: int, steps: int) -> None:
        heard.append((ended, steps))

    assert sorted(performed([2, 0, 3], perform, 2, told)) == [0, 4, 9]
    assert heard[-1] == (3, 5)
    assert heard == sorted(heard)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_fails_is_passed_on(workers: int) -> None:
    with pytest.raises(ConfigurationError, match="no such job"):
        list(performed([-1, -1], perform, workers, lambda *_: None))


def test_of_nothing_nothing_is_done() -> None:
    assert not list(performed([], perform, 4, lambda *_: None))
