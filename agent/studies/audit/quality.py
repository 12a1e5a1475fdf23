"""Does a lie pay in model quality, where what neighbours give an agent is what its updates earn?

The metric that counts of the liar's model at the end of the run, beside the same agent's on the
same seed when it is honest: no payment is in it. Arithmetic alone: nothing is run here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from candor.agent.reports.metric import Metric
from candor.agent.studies.audit.incentives import Answer, Floats, Interval, gain_interval


@dataclass(frozen=True, slots=True)
class Quality:
    """What lies do to the liar's own model, in units of the metric.

    `honest`: what the agent's model reaches when it is honest, mean over the seeds; `epsilon`:
    gains up to it are let pass. `gains`: by strategy (seeds,), by how much better than honest the
    liar's model ends, whichever values are better; -inf where it is ruined.
    """

    rewards: str
    metric: Metric
    honest: float
    epsilon: float
    gains: Mapping[str, Floats]

    def span(self, strategy: str) -> Interval:
        """The interval of what a strategy gains."""
        return gain_interval(self.gains[strategy])

    def answer(self, strategy: str) -> Answer:
        """Whether a strategy pays."""
        return self.span(strategy).answer(self.epsilon)

    def answered(self, answer: Answer) -> list[str]:
        """The strategies of which this is the answer, the best first."""
        named = [strategy for strategy in self.gains if self.answer(strategy) is answer]
        return sorted(named, key=lambda strategy: -self.span(strategy).mean)
