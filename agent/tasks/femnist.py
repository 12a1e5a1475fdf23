"""FEMNIST: handwritten digits and letters by writer, 28 x 28 pixels, 62 classes.

The file is LEAF's (Caldas et al., 2018) packed as a numpy archive: `x` bytes (samples, 28, 28) with
255 the white background, `y` (samples,) from 0 to 61, `writer` (samples,), `is_test` (samples,).
`femnist_105writers.npz` holds a sample of the writers; `file=NAME` names another of the same form.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Final

import numpy as np

from candor.agent.tasks.classification import Classification, LabelledData, labelled
from candor.agent.tasks.files import name_in_data_root, read_npz
from candor.agent.tasks.models import SIDE, Models, choose, femnist_cnn
from candor.topologies.specs.specs import ConfigurationError, Spec

CLASSES: Final = 62
FILE: Final = "femnist_105writers.npz"

MODELS: Final = Models(
    SIDE * SIDE, CLASSES, default="cnn", hidden=64, networks={"cnn": femnist_cnn}
)


def femnist_from_spec(spec: Spec, data_root: Path | None) -> Classification:
    """Build from `femnist`, `femnist:model=logistic`, `femnist:file=femnist_full.npz`.

    The partition `natural` deals whole writers; the metric is accuracy on the test images of all.

    Raises:
        ConfigurationError: an unknown option or a value out of range.
    """
    model, options = choose(spec, MODELS, {"file": "NAME"})
    path = name_in_data_root(spec, str(options.get("file", FILE)), data_root)
    return Classification(model, partial(_read, path))


@lru_cache(maxsize=1)
def _read(path: Path) -> LabelledData:
    x, y, writer, is_test = read_npz(path, ("x", "y", "writer", "is_test"))
    if x.dtype != "uint8" or x.ndim != 3 or x.shape[1:] != (SIDE, SIDE):
        raise ConfigurationError(
            f"{path}: x is {x.dtype} of shape {x.shape}, not bytes of {SIDE} x {SIDE} pixels"
        )
    for name, entry in (("y", y), ("writer", writer), ("is_test", is_test)):
        if entry.shape != x.shape[:1]:
            raise ConfigurationError(f"{path}: {name} is of shape {entry.shape}, x of {x.shape}")
    if is_test.dtype != "bool":
        raise ConfigurationError(f"{path}: is_test is {is_test.dtype}, not bool")
    ink = np.subtract(255, x, out=x)  # so that the background is 0, as in MNIST
    train, test = (labelled(path, ink[rows], y[rows], CLASSES) for rows in (~is_test, is_test))
    return LabelledData(*train, *test, parts=writer[~is_test])
