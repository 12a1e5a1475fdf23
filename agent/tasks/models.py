"""The models of the built-in tasks, and how a task's spec chooses one.

Each takes rows (samples, features) and gives logits (samples, classes). None has buffers, dropout
or normalisation over a batch, which gossip and `torch.func` could not carry. The networks that the
papers describe pool after tanh or ReLU; as both are monotone, pooling first gives the same numbers
for a quarter of the work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final, TypeAlias

from torch import nn

from candor.topologies.specs.specs import ConfigurationError, Scalar, Spec

Build: TypeAlias = Callable[[], nn.Module]

SIDE: Final = 28  # pixels of an MNIST or FEMNIST image, each way
HIDDEN_MAX: Final = 65_536


def logistic(features: int, classes: int) -> nn.Module:
    """Multinomial logistic regression."""
    return nn.Linear(features, classes)


def mlp(features: int, hidden: int, classes: int) -> nn.Module:
    """One hidden layer with ReLU."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def mnist_cnn() -> nn.Module:
    """The two convolutions of Xu et al. (NeurIPS 2021): 104,242 parameters.

    The paper says "2-layer CNN"; the sizes are those of its authors' code: 28 x 28 padded with
    background to 32 x 32, 64 kernels of 3 x 3, 16 of 7 x 7, each with tanh and 2 x 2 max pooling,
    then 200 units with tanh. Difference: pixels are in 0..1, not standardised.
    """
    return nn.Sequential(
        nn.Unflatten(1, (1, SIDE, SIDE)),
        nn.ZeroPad2d(2),  # (samples, 1, 32, 32)
        nn.Conv2d(1, 64, 3),
        nn.MaxPool2d(2),  # (samples, 64, 15, 15)
        nn.Tanh(),
        nn.Conv2d(64, 16, 7),
        nn.MaxPool2d(2),  # (samples, 16, 4, 4)
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 200),
        nn.Tanh(),
        nn.Linear(200, 10),
    )


def femnist_cnn() -> nn.Module:
    """The network of Dorner et al. (2023, FeMNIST experiment), LEAF's: 6,603,710 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, SIDE, SIDE)),
        nn.Conv2d(1, 32, 5, padding=2),
        nn.MaxPool2d(2),  # (samples, 32, 14, 14)
        nn.ReLU(),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.MaxPool2d(2),  # (samples, 64, 7, 7)
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 2048),
        nn.ReLU(),
        nn.Linear(2048, 62),
    )


@dataclass(frozen=True, slots=True)
class Models:
    """What a family of data can be learned with: `mlp`, `logistic`, and `cnn` where it has one."""

    features: int
    classes: int
    default: str
    hidden: int  # the mlp's, unless told otherwise
    cnn: Build | None = None

    def builders(self, hidden: int) -> dict[str, Build]:
        """What builds each model, by what `model=` may say; `hidden` is the mlp's width."""
        others: dict[str, Build] = {
            "mlp": partial(mlp, self.features, hidden, self.classes),
            "logistic": partial(logistic, self.features, self.classes),
        }
        return others if self.cnn is None else {"cnn": self.cnn, **others}


def choose(
    spec: Spec, models: Models, others: Mapping[str, str] = MappingProxyType({})
) -> tuple[Build, Mapping[str, Scalar]]:
    """The model that a task's spec chooses, and the options that are not of the model.

    Args:
        spec: such as `mnist:model=mlp,hidden=64,samples=6000`.
        models: to choose from.
        others: the other options that the task has, each with what stands for its value in help.

    Raises:
        ConfigurationError: an unknown option, or a model or width that there is not.
    """
    options = dict(spec.options)
    name, names = str(options.pop("model", models.default)), list(models.builders(1))
    if name not in names:
        either = f"{', '.join(names[:-1])} or {names[-1]}"
        raise ConfigurationError(f"task {spec.name}: model={name} is not {either}")
    hidden = options.pop("hidden", models.hidden) if name == "mlp" else models.hidden
    if spec.value is not None or options.keys() - others.keys():
        keys = (f"{key}={value}" for key, value in others.items())
        known = ", ".join((f"model={'|'.join(names)}", "hidden=WIDTH of the mlp", *keys))
        raise ConfigurationError(f"task {spec.name}: its options are {known}")
    if not isinstance(hidden, int) or not 1 <= hidden <= HIDDEN_MAX:
        raise ConfigurationError(
            f"task {spec.name}: hidden={hidden} is not a width from 1 to {HIDDEN_MAX}"
        )
    return models.builders(hidden)[name], options
