"""Breast cancer Wisconsin: 569 tumours, 30 measures of their cells' nuclei, malignant or benign.

Bundled with scikit-learn: no download (Street, Wolberg & Mangasarian, 1993).
"""

from functools import lru_cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from candor.agent.tasks.classification import Classification, LabelledData, stratified
from candor.agent.tasks.files import bundled_file
from candor.agent.tasks.models import Models, choose
from candor.topologies.specs.specs import Spec

FEATURES: Final = 30
TEST_SHARE: Final = 0.25

MODELS: Final = Models(FEATURES, classes=2, default="logistic", hidden=16)


def breast_cancer_from_spec(spec: Spec) -> Classification:
    """Build from `breast-cancer`, `breast-cancer:model=mlp,hidden=16`.

    Each measure is standardised by the tumours to train on; the test set is a fixed stratified
    quarter.

    Raises:
        ConfigurationError: an unknown option or a value out of range.
    """
    model, _ = choose(spec, MODELS)
    return Classification(model, _read)


@lru_cache(maxsize=1)
def _read() -> LabelledData:
    table = _table()
    measures, labels = table[:, :FEATURES], table[:, FEATURES].astype(np.int64)
    chosen = stratified(labels, TEST_SHARE)
    known = measures[~chosen]
    inputs = torch.from_numpy(((measures - known.mean(0)) / known.std(0)).astype(np.float32))
    targets, test = torch.from_numpy(labels), torch.from_numpy(chosen)
    return LabelledData(inputs[~test], targets[~test], inputs[test], targets[test])


def _table() -> NDArray[np.float64]:
    """One row a tumour: 30 measures, then 0 for malignant and 1 for benign, (569, 31)."""
    if (file := bundled_file("breast_cancer.csv")) is not None:
        return np.loadtxt(file, delimiter=",", skiprows=1)
    from sklearn.datasets import load_breast_cancer

    return np.column_stack(load_breast_cancer(return_X_y=True))
