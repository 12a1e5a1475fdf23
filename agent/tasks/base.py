"""What a task is: model, data, loss and metric, as one small class that users can write too.

A task knows nothing of agents, rounds or gradients. Its `loss` is run under `torch.func`, one row
per agent, so it must be a plain function of the model and the batch: no in-place change of the
model, no `.item()`, and no random draws (dropout), which daemon and simulation could not share.
"""

from typing import Protocol, TypeAlias

from torch import Tensor, nn

from candor.agent.tasks.partition import Shard

Batch: TypeAlias = tuple[Tensor, ...]


class Task(Protocol):
    """One training problem. A user's class takes no constructor argument, or `data_root` only."""

    def build_model(self) -> nn.Module:
        """A fresh float32 model, its parameters drawn from torch's default generator, which is
        seeded for it, and from nothing else: all agents start from the same point."""
        ...

    def load_data(self, shard: Shard, seed: int) -> Batch:
        """This agent's private training samples: tensors that share their leading dimension.

        `shard.select(labels, seed)` picks them from a data set that all agents could see; a third
        argument says which of the data's own parts each is of, for the partition `natural`."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar training loss of the model on some of those samples."""
        ...

    def evaluate(self, model: nn.Module) -> float:
        """The metric, 0 to 1 and higher is better, on the test set that all agents share.

        Called without gradients; move the data to the device of the model's parameters."""
        ...
