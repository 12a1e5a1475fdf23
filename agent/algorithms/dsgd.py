"""Decentralized stochastic gradient descent: adapt with the local gradient, then combine."""

from itertools import count

from torch import Tensor

from candor.agent.algorithms.effects import LocalSteps, Mix, Report, Rounds, State
from candor.agent.algorithms.steps import Hyper


def decentralized_sgd(x: Tensor, hyper: Hyper, state: State, start: int = 1) -> Rounds:  # noqa: ARG001
    """Yield the effects of adapt-then-combine SGD from round `start` on, without end.

        y_t     = x_t - lambda_t m_t
        x_{t+1} = W_t y_t

    The setting is D-PSGD (Lian et al., NeurIPS 2017); the order of its two steps is that of
    adapt-then-combine diffusion (Chen & Sayed, IEEE Trans. Signal Processing 2012). Deliberate
    differences from D-PSGD's Algorithm 1: the local step comes before the averaging, so that one
    vector a neighbour and round crosses the wire and every injected update can be measured from
    it; m_t may be the pseudo-gradient of several local steps; and it is a *report*, which an
    agent's strategy may have altered.

    Args:
        x: the model of round `start`, (agents, dim): one row in the daemon, all in a simulation.
        hyper: the step sizes.
        state: none of its own.
        start: the first round; above 1 when a checkpoint is continued.
    """
    for t in count(start):
        gradient: Tensor = yield LocalSteps(x, t)  # (agents, dim)
        report: Tensor = yield Report(gradient, t)
        # A fresh tensor: y may be on its way to neighbours while x is already overwritten.
        y = x.sub(report, alpha=hyper.step_size(t))
        x = yield Mix(y, t)
