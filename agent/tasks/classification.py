"""A task of classes: labelled samples, any model of logits, cross-entropy, accuracy.

Inputs are float32, or bytes that stand for 0..1 in steps of 1/255: images stay bytes in memory, a
quarter of the room, and become numbers a batch at a time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from candor.agent.tasks.base import Batch
from candor.agent.tasks.partition import Shard
from candor.topologies.specs.specs import ConfigurationError, Scalar, Spec

TEST_BATCH: Final = 128  # the activations of a CNN, for so many images, stay within 50 MB

SPLIT_SEED: Final = 0  # a split belongs to the data set: every run, whatever its seed, tests alike


@dataclass(frozen=True, slots=True)
class LabelledData:
    """What all agents could see; the tensors are shared and not to be written to.

    `inputs` (samples, features) and `labels` int64 (samples,) are for training, `test_inputs` and
    `test_labels` for the metric; `parts` (samples,) says which of the data's own parts, such as
    its writers, each training sample belongs to, if it has any.
    """

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    parts: NDArray[Any] | None = None


class Classification:
    """One such task.

    Args:
        model: builds a fresh model from features to logits.
        data: reads the data when they are first needed: a cluster file is written without them.
    """

    def __init__(self, model: Callable[[], nn.Module], data: Callable[[], LabelledData]) -> None:
        self._model = model
        self.read = data

    def build_model(self) -> nn.Module:
        """See `Task.build_model`."""
        return self._model()

    def load_data(self, shard: Shard, seed: int) -> Batch:
        """Inputs (samples, features), as the data set keeps them, and classes (samples,)."""
        data = self.read()
        chosen = torch.from_numpy(shard.select(data.labels.numpy(), seed, data.parts))
        return data.inputs[chosen], data.labels[chosen]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy.

        To the bit what `cross_entropy` gives, which under `vmap` takes half a second of a core for
        imports: each daemon of a testbed would spend it.
        """
        inputs, labels = batch
        logs = nn.functional.log_softmax(model(as_numbers(inputs)), dim=-1)
        return -logs.gather(-1, labels.unsqueeze(-1)).mean()

    def evaluate(self, model: nn.Module) -> float:
        """Share of the test samples classified correctly."""
        return self.tested(model)[1]

    @torch.no_grad()
    def tested(self, model: nn.Module) -> tuple[float, float]:
        """Mean cross-entropy on the test samples, and the share of them classified correctly."""
        data = self.read()
        device = next(model.parameters()).device
        loss = hits = 0.0
        for start in range(0, len(data.test_labels), TEST_BATCH):
            batch = slice(start, start + TEST_BATCH)
            labels = data.test_labels[batch].to(device)
            logits = model(as_numbers(data.test_inputs[batch].to(device)))
            loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
            hits += float((logits.argmax(dim=1) == labels).sum())
        return loss / len(data.test_labels), hits / len(data.test_labels)


def as_numbers(inputs: Tensor) -> Tensor:
    """Bytes as float32 in 0..1; anything else as it is."""
    return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs


def stratified(labels: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """A fixed choice of `share` of the samples of each class, to test on: (samples,)."""
    rng = np.random.default_rng(SPLIT_SEED)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen[members[: round(share * len(members))]] = True
    return chosen


def samples_option(spec: Spec, options: Mapping[str, Scalar]) -> int | None:
    """How many training samples `samples=` of a task keeps; None where it is not given.

    Raises:
        ConfigurationError: it is no count.
    """
    samples = options.get("samples")
    if samples is not None and (not isinstance(samples, int) or samples < 1):
        raise ConfigurationError(f"task {spec.name}: samples={samples} is not a count of samples")
    return samples


def some_of(folder: Path, count: int, samples: int | None) -> Tensor:
    """Ascending indices of so many of `count` training samples, all for None: drawn once for all
    runs, and fewer are part of more.

    Raises:
        ConfigurationError: there are fewer.
    """
    if samples is None:
        return torch.arange(count)
    if samples > count:
        raise ConfigurationError(
            f"{folder}: there are {count} training samples, not samples={samples}"
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    return torch.from_numpy(np.sort(order[:samples]))


def labelled(
    source: Path, inputs: NDArray[Any], labels: NDArray[Any], classes: int
) -> tuple[Tensor, Tensor]:
    """A file's inputs (samples, ...), flattened to (samples, features), and its labels int64.

    Raises:
        ConfigurationError: there are none, not as many of the one as of the other, or labels other
            than 0 to `classes` - 1, the first of which it names.
    """
    if labels.ndim != 1 or len(inputs) != len(labels) or len(labels) == 0:
        raise ConfigurationError(
            f"{source}: {len(inputs)} samples and labels of shape {labels.shape} do not match"
        )
    if labels.dtype.kind not in "iu":
        raise ConfigurationError(f"{source}: its labels are {labels.dtype}, not whole numbers")
    if len(wrong := np.flatnonzero((labels < 0) | (labels >= classes))):
        raise ConfigurationError(
            f"{source}: label {wrong[0] + 1} is {labels[wrong[0]]}, not from 0 to {classes - 1}"
        )
    return (
        torch.from_numpy(inputs.reshape(len(inputs), -1)),
        torch.from_numpy(labels.astype(np.int64)),
    )
