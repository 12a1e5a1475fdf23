"""CIFAR-10: 50,000 images of 32 x 32 in three colours to train on, 10,000 to test on, ten classes.

The files are Krizhevsky's (2009) in their binary version, `cifar-10-batches-bin/data_batch_1.bin`
to `data_batch_5.bin` and `test_batch.bin`. `file=NAME` names an archive of numpy in their place,
such as a part of the data: `x_train` and `x_test` bytes (samples, 32, 32, 3), `y_train`, `y_test`.
A row of inputs has red, green and blue of one pixel after the other.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.tasks.classification import Classification, LabelledData, labelled
from candor.agent.tasks.files import data_file, name_in_data_root, read_npz, read_records
from candor.agent.tasks.models import Models, choose, cifar_cnn
from candor.topologies.specs.specs import ConfigurationError, Spec

CLASSES: Final = 10
SHAPE: Final = (32, 32, 3)
PIXELS: Final = 32 * 32 * 3
FOLDER: Final = "cifar-10-batches-bin"
BATCHES: Final = 5

MEANS: Final = (0.4914, 0.4822, 0.4465)  # of red, green and blue in the training images
DEVIATIONS: Final = (0.2470, 0.2435, 0.2616)

MODELS: Final = Models(
    PIXELS, CLASSES, "cnn", hidden=64, networks={"cnn": partial(cifar_cnn, MEANS, DEVIATIONS)}
)


def cifar10_from_spec(spec: Spec, data_root: Path | None) -> Classification:
    """Build from `cifar10`, `cifar10:model=logistic`, `cifar10:file=cifar10_subset_20k_4k.npz`.

    Raises:
        ConfigurationError: an unknown option or a value out of range.
    """
    model, options = choose(spec, MODELS, {"file": "NAME"})
    if "file" in options:
        path = name_in_data_root(spec, str(options["file"]), data_root)
        return Classification(model, partial(_read_archive, path))
    return Classification(model, partial(_read_batches, data_file(data_root, FOLDER)))


@lru_cache(maxsize=1)
def _read_batches(folder: Path) -> LabelledData:
    if not folder.is_dir():
        raise ConfigurationError(
            f"{folder}: cannot read the data: no such folder; say where the data sets lie with "
            "--data-root or $CANDOR_DATA_ROOT, or name an archive there: cifar10:file=NAME"
        )
    train = [_batch(folder / f"data_batch_{number}.bin") for number in range(1, BATCHES + 1)]
    inputs, labels = map(torch.cat, zip(*train, strict=True))
    return LabelledData(inputs, labels, *_batch(folder / "test_batch.bin"))


def _batch(path: Path) -> tuple[Tensor, Tensor]:
    """Records of a label and an image, all of its red first, then green, then blue."""
    records = read_records(path, 1 + PIXELS)
    colours = records[:, 1:].reshape(-1, 3, 32, 32)
    return labelled(
        path, np.ascontiguousarray(colours.transpose(0, 2, 3, 1)), records[:, 0], CLASSES
    )


@lru_cache(maxsize=1)
def _read_archive(path: Path) -> LabelledData:
    x, y, test_x, test_y = read_npz(path, ("x_train", "y_train", "x_test", "y_test"))
    return LabelledData(*_images(path, x, y), *_images(path, test_x, test_y))


def _images(path: Path, x: NDArray[Any], y: NDArray[Any]) -> tuple[Tensor, Tensor]:
    if x.dtype != "uint8" or x.shape[1:] != SHAPE:
        raise ConfigurationError(
            f"{path}: images are {x.dtype} of shape {x.shape}, not bytes of 32 x 32 x 3"
        )
    return labelled(path, np.ascontiguousarray(x), y, CLASSES)
