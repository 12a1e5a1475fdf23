"""Handwritten digits: 1797 images of 8 x 8 pixels bundled with scikit-learn: no download."""

from functools import lru_cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from candor.agent.tasks.classification import Classification, LabelledData, stratified
from candor.agent.tasks.files import bundled_file
from candor.agent.tasks.models import Models, choose
from candor.topologies.specs.specs import Spec

PIXELS: Final = 64
CLASSES: Final = 10
TEST_SHARE: Final = 0.25

MODELS: Final = Models(features=PIXELS, classes=CLASSES, default="mlp", hidden=32)


def digits_from_spec(spec: Spec) -> Classification:
    """Build from `digits`, `digits:model=logistic`, `digits:hidden=64`.

    The models are a 64-hidden-10 `mlp` with ReLU, the default, and the 64-10 `logistic`; the test
    set is a fixed stratified quarter of the images.

    Raises:
        ConfigurationError: an unknown option or a value out of range.
    """
    model, _ = choose(spec, MODELS)
    return Classification(model, read_digits)


@lru_cache(maxsize=1)
def read_digits() -> LabelledData:
    """The images as rows of 64 numbers in 0..1."""
    table = _table()
    images = torch.from_numpy((table[:, :PIXELS] / 16.0).astype(np.float32))  # (1797, 64)
    labels = table[:, PIXELS].astype(np.int64)
    targets = torch.from_numpy(labels)
    test = torch.from_numpy(stratified(labels, TEST_SHARE))
    return LabelledData(images[~test], targets[~test], images[test], targets[test])


def _table() -> NDArray[np.float64]:
    """One row an image: 64 pixels from 0 to 16, then the class, (1797, 65)."""
    if (file := bundled_file("digits.csv.gz")) is not None:
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.column_stack([pixels, labels])
