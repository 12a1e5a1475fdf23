"""What a task is: model, data, training and metric, as one small class that users can write too.

There are three kinds. A `Task` gives a loss, and Candor takes the steps: the same ones in a daemon
and in a simulation of thousands. A `Loop` trains as it likes, with any torch code. A `PolicyTask`
gives an environment, and Candor samples it and follows the policy gradient. None knows of rounds
mixed, reports or evidence: what moved the model is what counts.

They may say more of themselves, each as an attribute or a method that may be left out:

    metric: str               which metric counts, where `evaluate` gives several, or what its
                              number is called; "accuracy" unless said
    higher_is_better: bool    True unless said
    shared: Sequence[str]     patterns (fnmatch) of the names of those trainable parameters that are
                              shared; all of them unless said. The others are trained and stay here
    buffers: str              "local" (FedBN, unless said) or "averaged": float buffers, such as
                              the running statistics of BatchNorm, travel with the parameters
    evaluate_local(model, context)    as `evaluate`, on data of this agent's own
    prepare(context)          called once before a run, of each agent: what a host lacks shows here
    on_round(context)         called in a daemon after each round; see `agent.tasks.round_over`
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard

from torch import Tensor, nn

from candor.agent.tasks.context import TrainingContext
from candor.agent.tasks.partition import Shard

if TYPE_CHECKING:
    import gymnasium

Batch: TypeAlias = tuple[Tensor, ...]
Metrics: TypeAlias = float | Mapping[str, float]
"""A number, or several by name: finite, of any range; nan where it is undefined."""


class Modelled(Protocol):
    """What all kinds have. A user's class takes no constructor argument, or `data_root` only."""

    def build_model(self) -> nn.Module:
        """A fresh model, its parameters drawn from torch's default generator, which is seeded for
        it, and from nothing else: all agents start from the same point. What does not require a
        gradient is frozen: it never travels, and must be the same everywhere."""
        ...


class Evaluated(Modelled, Protocol):
    """What a task of samples and a loop have: a test set."""

    def evaluate(self, model: nn.Module) -> Metrics:
        """The metric, or several by name, on the test set that all agents share.

        Called without gradients, the model in evaluation mode; move the data to the device of the
        model's parameters."""
        ...


class Task(Evaluated, Protocol):
    """Training by a loss. Where `loss` runs under `torch.func.vmap`, agents are trained many at a
    time; else (dropout, LSTM, `.item()`, buffers, parameters of one's own) each by plain autograd.
    """

    def load_data(self, shard: Shard, seed: int) -> Batch:
        """This agent's private training samples: tensors that share their leading dimension.

        `shard.select(labels, seed)` picks them from a data set that all agents could see; a third
        argument says which of the data's own parts each is of, for the partition `natural`."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar training loss of the model on some of those samples."""
        ...


class Loop(Evaluated, Protocol):
    """Training by the user's own code."""

    def train(self, model: nn.Module, context: TrainingContext) -> float | None:
        """Train the model in place for one round; the mean training loss, if it is known.

        The model is this agent's own from round to round, on `context.device` and in training mode;
        what neighbours sent has been put into it. Optimisers, data and the like live between rounds
        in `context.keep`."""
        ...


class PolicyTask(Modelled, Protocol):
    """Training by reinforcement: the model is a policy, and the metric its mean return.

    `horizon` is how many steps an episode has at most, `discount` (gamma, above 0, at most 1) what
    a reward is worth for each step that it comes later. A class may also say what its algorithms
    do unless told: `large_batch` and `small_batch`, trajectories of a round; `switch_probability`
    of a large one; `step_size`. See `agent.tasks.environments.defaults_of`.
    """

    @property
    def horizon(self) -> int: ...

    @property
    def discount(self) -> float: ...

    def build_model(self) -> nn.Module:
        """As that of any task: from observations (batch, *shape) float32 to the logits (batch,
        actions) of discrete actions. It keeps nothing from call to call."""
        ...

    def make_environment(self) -> "gymnasium.Env[Any, Any]":
        """An environment with discrete actions, whose episodes depend on the seed of `reset` and on
        the actions alone. Many are made, and used again."""
        ...


AnyTask: TypeAlias = Task | Loop | PolicyTask


def is_policy_task(task: Modelled) -> TypeGuard[PolicyTask]:
    """Whether a task is an environment in which a policy is learned."""
    return callable(getattr(task, "make_environment", None))


def is_loop(task: Modelled) -> TypeGuard[Loop]:
    """Whether a task trains by code of its own."""
    return callable(getattr(task, "train", None))
