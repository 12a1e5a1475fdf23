"""DecByzPG: policy gradients of several agents, without a server and among attackers; and ByzPG."""

from itertools import count
from typing import Final

import torch
from torch import Tensor

from candor.agent.algorithms.effects import Mix, PolicyGradient, Report, Rounds, State
from candor.agent.algorithms.steps import Hyper

ESTIMATE: Final = "estimate"  # v: an agent's own of the gradient, never the aggregate
POLICY: Final = "policy_before"  # the policy at which that was estimated
FIRST_MOMENT, SECOND_MOMENT = "first_moment", "second_moment"
FORGOTTEN: Final = "adam_forgotten"  # beta^steps of both moments
BETA_1: Final = 0.9
BETA_2: Final = 0.999
EPSILON: Final = 1e-8
"""Of Adam (Kingma & Ba, ICLR 2015, section 2): its defaults, which the paper keeps."""
GRADIENT_PHASE: Final = 0


def decentralized_policy_gradient(x: Tensor, hyper: Hyper, state: State, start: int = 1) -> Rounds:
    """Yield the effects of DecByzPG from round `start` on, without end.

        c_t     = the common coin of round t                                        (line 3)
        v_t     = g(x_t), of N trajectories, where c_t is heads                      (4, 5)
                = v_{t-1} + g(x_t) - g_w(x_{t-1}), of B trajectories, elsewhere
        d_t     = aggregate of v_t of the agent and those it heard, phase 0           (6, 7)
        y_t     = x_t - lambda_t Adam(d_t)                                            (8)
        x_{t+1} = y_t averaged with those heard until they agree, phases 1 to R       (9)

    Algorithm 2 of Jordan, Groetschla, Fan & Wattenhofer (arXiv 2401.03489), line by line as on the
    right: PAGE's estimator with importance weights w, robust aggregation of gradients (`rfa`,
    which the run's aggregator may replace), and averaging agreement on policies
    (`mechanisms.agreement.averaging`). g is minus the GPOMDP estimate, so that steps go down. v is
    an agent's own estimate, not the aggregate. What an agent injects, claims and is billed for is
    v_t; whom it heard and how it aggregated shows in phase 1, in which alone it may add anything,
    since moments of Adam are private.

    Deliberate differences: the exchanges of agreement are R, known to all, rather than as many as
    an oracle that sees all policies asks for; each agent stops moving by a rule of its own, and
    the exchanges after that carry nothing new. An agent without v_{t-1}, new or back from where it
    was away, samples a large batch whatever the coin says, with moments that begin anew. So does
    one whose environment failed, with the moments that it has; it reports nothing meanwhile.
    With estimator `published`, to compare with the curves of the authors' program, y_{t-1} takes
    the place of x_{t-1} in line 5, and the weights are those of
    `agent.learning.policy_gradient.episode_weights`.
    With aggregator `mean` gradients and policies are averaged by the graph's weights: the plain
    decentralized policy gradient that the paper compares with.

    ByzPG, the paper's centralised sibling (algorithm 1), is the same text with one exchange of
    policies in which all take that of the first agent by id: its aggregate, stepped by its Adam,
    is handed to all. That agent is the server, and trusted, as there.

    Args:
        x: the policies of round `start`, (agents, dim).
        hyper: step sizes, coin, batches, and how many exchanges average policies.
        state: v, the policy before and Adam's moments, (agents, dim) each, and how much those have
            forgotten, (agents, 2).
        start: the first round; above 1 when a checkpoint is continued.
    """
    for t in count(start):
        large = hyper.coin(t) or ESTIMATE not in state
        batch = hyper.large_batch if large else hyper.small_batch
        before = None if large else state[POLICY]
        sampled: Tensor | None = yield PolicyGradient(x, t, batch, before)
        if sampled is None:  # nothing to add changes to: the next batch is large
            state.pop(ESTIMATE, None)
            estimate = torch.zeros_like(x)
        else:
            estimate = sampled if large else state[ESTIMATE] + sampled
            state[ESTIMATE], state[POLICY] = estimate, x
        report: Tensor = yield Report(estimate, t)
        direction: Tensor = yield Mix(report, t, GRADIENT_PHASE)
        y = _stepped(x, direction, hyper.step_size(t), state)
        if hyper.published:
            state[POLICY] = y
        for phase in range(1, 1 + hyper.policy_exchanges):
            y = yield Mix(y, t, phase)
        x = y


def _stepped(x: Tensor, direction: Tensor, step_size: float, state: State) -> Tensor:
    """Policies (agents, dim) after a step of Adam along directions (agents, dim).

    In binary64, operation by operation: a policy that differs in its last bit may act otherwise
    once, and agents by themselves must learn what they do among many.
    """
    gradient = direction.double()
    nothing = torch.zeros_like(gradient)
    betas = torch.tensor([BETA_1, BETA_2], dtype=torch.float64, device=x.device)
    forgotten = state.get(FORGOTTEN, torch.ones(len(x), 2).to(gradient)) * betas  # (agents, 2)
    first = state.get(FIRST_MOMENT, nothing) * BETA_1 + gradient * (1 - BETA_1)
    second = state.get(SECOND_MOMENT, nothing) * BETA_2 + gradient * gradient * (1 - BETA_2)
    state[FORGOTTEN], state[FIRST_MOMENT], state[SECOND_MOMENT] = forgotten, first, second
    mean = first / (1 - forgotten[:, :1])
    spread = (second / (1 - forgotten[:, 1:])).sqrt()
    return (x.double() - mean / (spread + EPSILON) * step_size).float()
