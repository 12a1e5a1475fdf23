"""What a task's `on_round` is told in a daemon: one finished round, for trackers of one's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class RoundOver:
    """A round that an agent has finished, mixing with its neighbours at last.

    `round` of `rounds`, from 1; `train_loss` the mean of its local steps; `metrics` by name, empty
    in rounds that are not evaluated; `local_metric` the one that counts on the agent's own data,
    None where the task has none; `balance` in micro-credits, above 0 is money received. `model`
    gives the state_dict of the mixed model, copied: call it where that is needed.
    """

    agent: str
    round: int
    rounds: int
    train_loss: float
    metrics: Mapping[str, float]
    local_metric: float | None
    balance: int
    model: Callable[[], Mapping[str, Tensor]] = field(repr=False)
