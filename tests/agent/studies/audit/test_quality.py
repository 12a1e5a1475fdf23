"""Whether lies pay in the metric that counts."""

import math

import numpy as np
import pytest

from candor.agent.reports.metric import Metric
from candor.agent.studies.audit.incentives import SEEDS_MIN, Answer
from candor.agent.studies.audit.quality import Quality

NOISE = np.linspace(-0.001, 0.001, SEEDS_MIN)


@pytest.mark.parametrize(
    ("gains", "answer"),
    [
        (0.02 + NOISE, Answer.PAYS),
        (0.01 + NOISE, Answer.UNDECIDED),
        (NOISE, Answer.NONE_PAYS),
        (np.full(SEEDS_MIN, -math.inf), Answer.NONE_PAYS),  # ruined for sure
        (np.full(SEEDS_MIN - 1, -math.inf), Answer.UNDECIDED),
        (np.array([-math.inf, *NOISE]), Answer.UNDECIDED),
        (np.full(SEEDS_MIN, math.nan), Answer.UNDECIDED),  # a metric that is undefined
        (np.full(SEEDS_MIN - 1, 0.5), Answer.UNDECIDED),
    ],
)
def test_the_whole_interval_of_the_gain_answers(gains, answer):
    quality = Quality("cgsv:beta=1", Metric(), 0.9, 0.01, {"lie": gains, "worse": gains - 1})
    assert quality.answer("lie") is answer
    assert quality.answered(answer)[0] == "lie"
