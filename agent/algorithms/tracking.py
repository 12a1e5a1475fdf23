"""Gradient tracking: every agent steps along an estimate of the gradient of all agents."""

from itertools import count
from typing import Final

import torch
from torch import Tensor

from candor.agent.algorithms.effects import LocalSteps, Mix, Report, Rounds, State
from candor.agent.algorithms.steps import Hyper

TRACKER, GRADIENT = "tracker", "tracked_gradient"
TRACKER_PHASE: Final = 0
MODEL_PHASE: Final = 1


def gradient_tracking(x: Tensor, hyper: Hyper, state: State, start: int = 1) -> Rounds:
    """Yield the effects of distributed stochastic gradient tracking, without end.

        s_t     = h_t + m_t - m_{t-1}      h_{t+1} = W_t s_t      h_1 = m_0 = 0
        y_t     = x_t - lambda_t s_t       x_{t+1} = W_t y_t

    DSGT of Pu & Nedic (Mathematical Programming 2021), equations (4a) and (4b), in the order in
    which it is sent: where the shards of agents differ, the trackers s keep the sum of all
    gradients, so that the bias of plain DSGD towards an agent's own data goes. Deliberate
    differences: s_1 is the first gradient, m_t a pseudo-gradient of one or several local steps
    from x_t, and a report. What an agent injects is m_t - m_{t-1}; its model follows from what
    was stated. An agent that comes back starts its tracker anew from its gradient.

    Args:
        x: the models of round `start`, (agents, dim).
        hyper: the step sizes.
        state: the mixed trackers h and the last reports m, (agents, dim) each.
        start: the first round; above 1 when a checkpoint is continued.
    """
    nothing = torch.zeros_like(x)
    for t in count(start):
        gradient: Tensor = yield LocalSteps(x, t)
        report: Tensor = yield Report(gradient, t)
        s = state.get(TRACKER, nothing) + (report - state.get(GRADIENT, nothing))
        y = x.sub(s, alpha=hyper.step_size(t))
        state[GRADIENT] = report
        state[TRACKER] = yield Mix(s, t, TRACKER_PHASE)
        x = yield Mix(y, t, MODEL_PHASE)
