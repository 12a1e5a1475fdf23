"""Handwritten digits: 1797 images of 8 x 8 pixels bundled with scikit-learn: no download."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agent.partition import Shard
from agent.tasks.base import Batch
from topologies.specs import ConfigurationError, Spec

PIXELS: Final = 64
CLASSES: Final = 10
TEST_SHARE: Final = 0.25
SPLIT_SEED: Final = (
    0  # the split belongs to the data set: every run, whatever its seed, tests alike
)


class Digits:
    """Ten-way classification; the metric is accuracy on a fixed stratified quarter of the images.

    Args:
        model: `mlp` (64-hidden-10 with ReLU) or `logistic` (64-10).
        hidden: width of the `mlp`'s hidden layer.
    """

    def __init__(self, model: Literal["mlp", "logistic"] = "mlp", hidden: int = 32) -> None:
        self._model = model
        self._hidden = hidden

    def build_model(self) -> nn.Module:
        """See `Task.build_model`."""
        if self._model == "logistic":
            return nn.Linear(PIXELS, CLASSES)
        return nn.Sequential(
            nn.Linear(PIXELS, self._hidden), nn.ReLU(), nn.Linear(self._hidden, CLASSES)
        )

    def load_data(self, shard: Shard, seed: int) -> Batch:
        """Images (samples, 64) in 0..1 and classes (samples,)."""
        images, labels, _, _ = _digits()
        chosen = torch.from_numpy(shard.select(labels.numpy(), seed))
        return images[chosen], labels[chosen]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy."""
        images, labels = batch
        return nn.functional.cross_entropy(model(images), labels)

    def evaluate(self, model: nn.Module) -> float:
        """Share of the test images classified correctly."""
        _, _, images, labels = _digits()
        device = next(model.parameters()).device
        predicted = model(images.to(device)).argmax(dim=1)
        return float((predicted == labels.to(device)).double().mean())


def digits_from_spec(spec: Spec) -> Digits:
    """Build from `digits`, `digits:model=logistic`, `digits:hidden=64`.

    Raises:
        ConfigurationError: an unknown option or a value out of range.
    """
    options = dict(spec.options)
    model = options.pop("model", "mlp")
    hidden = options.pop("hidden", 32)
    if options or spec.value is not None:
        raise ConfigurationError(
            "task digits: its options are model=mlp, model=logistic and hidden=WIDTH"
        )
    if model not in ("mlp", "logistic"):
        raise ConfigurationError(f"task digits: model={model} is not mlp or logistic")
    if not isinstance(hidden, int) or not 1 <= hidden <= 65_536:
        raise ConfigurationError(f"task digits: hidden={hidden} is not a width from 1 to 65536")
    return Digits("logistic" if model == "logistic" else "mlp", hidden)


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels; not to be written to."""
    table = _table()
    images = torch.from_numpy((table[:, :PIXELS] / 16.0).astype(np.float32))  # (1797, 64)
    labels = table[:, PIXELS].astype(np.int64)
    targets = torch.from_numpy(labels)
    rng = np.random.default_rng(SPLIT_SEED)
    is_test = np.zeros(len(labels), bool)
    for label in range(CLASSES):
        members = rng.permutation(np.flatnonzero(labels == label))
        is_test[members[: round(TEST_SHARE * len(members))]] = True
    test = torch.from_numpy(is_test)
    return images[~test], targets[~test], images[test], targets[test]


def _table() -> NDArray[np.float64]:
    """One row an image: 64 pixels from 0 to 16, then the class, (1797, 65).

    scikit-learn's file is read where it lies: importing its loader costs 1.3 s of a core, and
    each daemon of a testbed would spend it. Should the file have moved, the loader knows where.
    """
    package = find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    for folder in folders or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.column_stack([pixels, labels])
