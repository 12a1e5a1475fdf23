"""Stochastic gradient push: decentralized SGD on directed graphs, whose weights are uneven."""

from itertools import count

from torch import Tensor

from candor.agent.algorithms.effects import LocalSteps, Mass, Mix, Report, Rounds, State
from candor.agent.algorithms.steps import Hyper


def gradient_push(x: Tensor, hyper: Hyper, state: State, start: int = 1) -> Rounds:  # noqa: ARG001
    """Yield the effects of stochastic gradient push from round `start` on, without end.

        y_t     = z_t - lambda_t w_1 / w_t m_t(z_t)
        z_{t+1} = diag(w_{t+1})^-1 P_t diag(w_t) y_t,    w_{t+1} = P_t w_t

    The columns of P_t sum to one, so that sums are kept, not means: numerators w z and masses w are
    pulled to the same uneven places (Kempe, Dobra and Gehrke, 2003). Masses start at 1, or at what
    agents declare of themselves over its mean: then numerators take steps weighted so, and z tends
    to the minimum of the loss that these weight. The effect `Mass` is w_t / w_1. This is Algorithm
    1 of Assran et al. (ICML 2019), after Nedic and Olshevsky (2016), in its z; whoever performs
    `Mix` has rows that sum to one, see `topologies.schedules.round_weights`. Deliberate
    differences: masses may start uneven, and m_t may be the pseudo-gradient of several local steps
    from z_t, and a report, as in `dsgd`.

    Args:
        x: the models z of round `start`, (agents, dim).
        hyper: the step sizes.
        state: none of its own.
        start: the first round; above 1 when a checkpoint is continued.
    """
    for t in count(start):
        w: Tensor = yield Mass(t)  # (agents, 1)
        gradient: Tensor = yield LocalSteps(x, t)  # (agents, dim)
        report: Tensor = yield Report(gradient, t)
        y = x - hyper.step_size(t) / w * report
        x = yield Mix(y, t)
