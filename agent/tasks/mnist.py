"""MNIST and Fashion-MNIST: 60,000 images of 28 x 28 to train on, 10,000 to test on, ten classes.

The files are the four gzipped idx files of either set, with their usual names, in `mnist/` and
`fashion-mnist/` (LeCun, Cortes & Burges, 1998; Xiao, Rasul & Vollgraf, 2017).
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from torch import Tensor

from candor.agent.tasks.classification import (
    Classification,
    LabelledData,
    labelled,
    samples_option,
    some_of,
)
from candor.agent.tasks.files import data_file, read_idx
from candor.agent.tasks.models import SIDE, Build, Models, choose, mnist_cnn
from candor.topologies.specs.specs import ConfigurationError, Spec

CLASSES: Final = 10

PIXELS: Final = {"mnist": (0.1000, 0.2752), "fashion-mnist": (0.2190, 0.3318)}
"""Mean and standard deviation of the pixels of all training images, padded to 32 x 32."""


def mnist_from_spec(spec: Spec, data_root: Path | None) -> Classification:
    """Build from `mnist`, `fashion-mnist:model=mlp,hidden=64`, `mnist:samples=6000`.

    `model=paper` is `cnn` of standardised images, as in the paper that has it. `samples` keeps so
    many training images, drawn once for all runs, and fewer are part of more; the metric is
    accuracy on all test images.

    Raises:
        ConfigurationError: an unknown option or a value out of range.
    """
    networks: dict[str, Build] = {"cnn": mnist_cnn, "paper": partial(mnist_cnn, *PIXELS[spec.name])}
    models = Models(SIDE * SIDE, CLASSES, default="cnn", hidden=64, networks=networks)
    model, options = choose(spec, models, {"samples": "COUNT"})
    folder, samples = data_file(data_root, spec.name), samples_option(spec, options)
    return Classification(model, partial(_read, folder, samples))


@lru_cache(maxsize=1)
def _read(folder: Path, samples: int | None) -> LabelledData:
    inputs, labels = _images(folder, "train")
    kept = some_of(folder, len(labels), samples)
    return LabelledData(inputs[kept], labels[kept], *_images(folder, "t10k"))


def _images(folder: Path, which: str) -> tuple[Tensor, Tensor]:
    path = folder / f"{which}-images-idx3-ubyte.gz"
    images = read_idx(path, dimensions=3)
    if images.shape[1:] != (SIDE, SIDE):
        raise ConfigurationError(f"{path}: its images are not {SIDE} x {SIDE} pixels")
    path = folder / f"{which}-labels-idx1-ubyte.gz"
    return labelled(path, images, read_idx(path, dimensions=1), CLASSES)
