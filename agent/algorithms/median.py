"""Decentralized SGD whose steps are coordinate medians of the neighbours' gradients."""

from itertools import count
from typing import Final

from torch import Tensor

from candor.agent.algorithms.effects import Exchange, Heard, LocalSteps, Mix, Report, Rounds, State
from candor.agent.algorithms.steps import Hyper
from candor.mechanisms.aggregation.aggregators import coordinate_median

GRADIENT_PHASE: Final = 0
MODEL_PHASE: Final = 1


def median_sgd(x: Tensor, hyper: Hyper, state: State, start: int = 1) -> Rounds:  # noqa: ARG001
    """Yield the effects of SGD along medians from round `start` on, without end.

        g_t     = median of m_t over the agent itself and the neighbours it heard, by coordinate
        y_t     = x_t - lambda_t g_t
        x_{t+1} = W_t y_t

    The median as gradient aggregator is that of Yin et al. (ICML 2018), Option I, with each
    neighbourhood in the place of the server's workers, and models mixed as in D-PSGD. What an
    agent injects is its gradient m_t; g_t it attests, as no mixing row expresses it.

    Args:
        x: the models of round `start`, (agents, dim).
        hyper: the step sizes.
        state: none of its own.
        start: the first round; above 1 when a checkpoint is continued.
    """
    for t in count(start):
        gradient: Tensor = yield LocalSteps(x, t)
        report: Tensor = yield Report(gradient, t)
        heard: Heard = yield Exchange(report, t, GRADIENT_PHASE)
        median = coordinate_median(heard.vectors, heard.present, heard.own)
        y = x.sub(median, alpha=hyper.step_size(t))
        x = yield Mix(y, t, MODEL_PHASE, attested=median)
