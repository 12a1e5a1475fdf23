"""Kept runs of the study: read as they were written, and refused where they are not whole."""

import json
import math

import pytest

from candor.agent.studies.decbyzpg.runs import Run, Setting, keep, kept
from candor.topologies.specs.specs import ConfigurationError

SETTING = Setting("cartpole", 5, "1:zero", "rfa", 100, 3)
DONE = Run(SETTING, (50, 54, 104), (10.0, 11.5, 12.0), (2, 1), 1e-6, 3.25)


def test_a_run_is_read_as_it_was_written(tmp_path) -> None:
    assert kept(tmp_path, SETTING) is None
    keep(tmp_path, DONE)
    assert kept(tmp_path, SETTING) == DONE


@pytest.mark.parametrize(
    "change",
    [
        {"returns": [10.0]},
        {"returns": ["much", "more", "most"]},
        {"trajectories": [50, 50, 104]},
        {"trajectories": [50, 104, 54]},
        {"moves": "21"},
        {"apart": None},
        {"setting": "mine"},
        {"more": 1, "seconds": {}},
    ],
)
def test_a_damaged_run_is_refused_by_name(tmp_path, change) -> None:
    keep(tmp_path, DONE)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigurationError, match=path.name):
        kept(tmp_path, SETTING)


@pytest.mark.parametrize("text", ["", "[]", "7", "null", '{"version": 1', '{"version": 1}'])
def test_what_is_no_run_is_refused_by_name(tmp_path, text: str) -> None:
    keep(tmp_path, DONE)
    (path,) = tmp_path.iterdir()
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=path.name):
        kept(tmp_path, SETTING)


def test_a_return_is_that_of_the_trajectories_around_a_number_and_not_of_those_before():
    rising = Run(SETTING, tuple(range(10, 1010, 10)), tuple(map(float, range(100))), (), 0.0, 1.0)
    assert rising.around(500, 100) == pytest.approx(49.5, abs=0.51)
    assert rising.around(1000, 100) == pytest.approx(97.0, abs=0.51)  # there is nothing behind it
    assert rising.around(500, 1) == pytest.approx(49.5, abs=0.51)
    assert math.isnan(rising.around(1001, 100))
    large = Run(SETTING, (500, 504, 508), (10.0, 1.0, 2.0), (), 0.0, 1.0)
    assert large.around(506, 8) == pytest.approx(1.5)
