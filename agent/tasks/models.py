"""The models of the built-in tasks, and how a task's spec chooses one.

Each takes rows (samples, features) and gives logits (samples, classes). None has buffers, dropout
or normalisation over a batch, which gossip and `torch.func` could not carry. The networks that the
papers describe pool after tanh or ReLU; as both are monotone, pooling first gives the same numbers
for a quarter of the work.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

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


class Images(nn.Module):
    """Rows (samples, side * side * channels) as images (samples, channels, side, side).

    What a pixel has of each channel lies together in memory, and what later layers make of it, too:
    so convolution and pooling take half as long on a processor.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self._shape = (side, side, channels)

    def forward(self, rows: Tensor) -> Tensor:
        return rows.reshape(*rows.shape[:-1], *self._shape).movedim(-1, -3)


class Standardised(nn.Module):
    """Images (samples, channels, height, width) less the mean of each channel, in units of its
    standard deviation: constants of a data set, which no agent computes from its samples."""

    def __init__(self, means: Sequence[float], deviations: Sequence[float]) -> None:
        super().__init__()
        self._means, self._deviations = tuple(means), tuple(deviations)

    def forward(self, images: Tensor) -> Tensor:
        means = torch.tensor(self._means, device=images.device)[:, None, None]
        deviations = torch.tensor(self._deviations, device=images.device)[:, None, None]
        return (images - means) / deviations


def mnist_cnn(mean: float = 0.0, deviation: float = 1.0) -> nn.Module:
    """The two convolutions of Xu et al. (NeurIPS 2021): 104,242 parameters.

    The paper says "2-layer CNN"; the sizes are those of its authors' code: 28 x 28 padded with
    background to 32 x 32, 64 kernels of 3 x 3, 16 of 7 x 7, each with tanh and 2 x 2 max pooling,
    then 200 units with tanh. There padded images are standardised, by `mean` and `deviation` of all
    their pixels; unless these are given, pixels are in 0..1. Difference: test images, too, by those
    of the training images.
    """
    standardised = [Standardised([mean], [deviation])] if (mean, deviation) != (0, 1) else []
    return nn.Sequential(
        Images(1, SIDE),
        nn.ZeroPad2d(2),  # (samples, 1, 32, 32)
        *standardised,
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
        Images(1, SIDE),
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


def cifar_cnn(means: Sequence[float], deviations: Sequence[float]) -> nn.Module:
    """The network of Xu et al. (NeurIPS 2021) for CIFAR-10, LeNet's with more kernels: 121,182
    parameters. Images are standardised by channel, as there."""
    return nn.Sequential(
        Images(3, 32),
        Standardised(means, deviations),
        nn.Conv2d(3, 16, 5),
        nn.MaxPool2d(2),  # (samples, 16, 14, 14)
        nn.ReLU(),
        nn.Conv2d(16, 32, 5),
        nn.MaxPool2d(2),  # (samples, 32, 5, 5)
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 5 * 5, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


@dataclass(frozen=True, slots=True)
class Models:
    """What a family of data can be learned with: networks of its own by name, `mlp`, `logistic`."""

    features: int
    classes: int
    default: str
    hidden: int  # the mlp's, unless told otherwise
    networks: Mapping[str, Build] = field(default_factory=dict)

    def builders(self, hidden: int) -> dict[str, Build]:
        """What builds each model, by what `model=` may say; `hidden` is the mlp's width."""
        return {
            **self.networks,
            "mlp": partial(mlp, self.features, hidden, self.classes),
            "logistic": partial(logistic, self.features, self.classes),
        }


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
