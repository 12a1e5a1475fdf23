"""Stochastic gradient push: decentralized SGD on directed graphs, whose weights are uneven."""

from itertools import count

from torch import Tensor

from agent.algorithms.dsgd import Hyper
from agent.effects import Algorithm, LocalSteps, Mass, Mix, Report


def gradient_push(x: Tensor, hyper: Hyper, start: int = 1) -> Algorithm:
    """Yield the effects of stochastic gradient push from round `start` on, without end.

        z_t     = x_t / w_t
        y_t     = x_t - lambda_t m_t(z_t)
        x_{t+1} = P_t y_t,  w_{t+1} = P_t w_t

    The columns of P_t sum to one, so that sums are kept, not means; x and its mass w, which starts
    at 1, are pulled to the same uneven places, and z is free of them (Kempe, Dobra and Gehrke,
    2003). This is Algorithm 1 of Assran et al. (ICML 2019), after Nedic and Olshevsky (2016).
    Deliberate difference: m_t may be the pseudo-gradient of several local steps from z_t, and a
    report, as in `dsgd`. Masses are mixed by whoever performs `Mix`.

    Args:
        x: the numerators of round `start`, (agents, dim).
        hyper: the step sizes.
        start: the first round; above 1 when a checkpoint is continued.
    """
    for t in count(start):
        w = yield Mass(t)  # (agents, 1)
        gradient = yield LocalSteps(x / w, t)  # (agents, dim)
        report = yield Report(gradient, t)
        y = x.sub(report, alpha=hyper.step_size(t))
        x = yield Mix(y, t)
