"""DiLoCo without a server: long local phases, an outer Nesterov step on what they moved, mixing."""

from itertools import count
from typing import Final

import torch
from torch import Tensor

from candor.agent.algorithms.effects import LocalSteps, Mix, Report, Rounds, State
from candor.agent.algorithms.steps import Hyper

VELOCITY: Final = "outer_velocity"


def diloco(x: Tensor, hyper: Hyper, state: State, start: int = 1) -> Rounds:
    """Yield the effects of decentralized DiLoCo from round `start` on, without end.

        d_t     = lambda_t m_t                          what the local phase moved
        v_t     = mu v_{t-1} + d_t                      v_0 = 0
        y_t     = x_t - eta (d_t + mu v_t)
        x_{t+1} = W_t y_t

    Algorithm 1 of Douillard et al. 2023 (arXiv 2311.08105) with its outer optimiser, Nesterov
    momentum as torch's SGD has it: eta is `hyper.outer_step`, mu is `hyper.outer_momentum`.
    Deliberate differences: there the outer gradients of all workers are averaged and one server
    steps; here every agent steps by its own and models are mixed, which is the same where all
    neighbours are mixed alike, since both steps are linear. Elsewhere each agent has a velocity
    of its own, private and never mixed. The inner optimiser is the learner's, not AdamW. What is
    reported is all that moves x, eta (d_t + mu v_t) / lambda_t: an agent's strategy alters that,
    and not the velocity. Where neighbourhoods are small and data differ, velocities of one's own
    drive the agents apart: a smaller mu than there is better (docs/howto/algorithms.md). An agent
    that comes back starts with no velocity.

    Args:
        x: the models of round `start`, (agents, dim).
        hyper: the step sizes, and the outer step and momentum.
        state: the outer velocities v, (agents, dim), in units of the model.
        start: the first round; above 1 when a checkpoint is continued.
    """
    eta, mu = hyper.outer_step, hyper.outer_momentum
    nothing = torch.zeros_like(x)
    for t in count(start):
        step_size = hyper.step_size(t)
        gradient: Tensor = yield LocalSteps(x, t)  # (agents, dim)
        velocity = state.get(VELOCITY, nothing).mul(mu).add_(gradient, alpha=step_size)
        state[VELOCITY] = velocity
        moves = gradient.add(velocity, alpha=mu / step_size).mul_(eta)
        report: Tensor = yield Report(moves, t)
        y = x.sub(report, alpha=step_size)
        x = yield Mix(y, t)
