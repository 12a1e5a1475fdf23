"""a9a: who earns above 50,000 dollars, by 123 binary features of the Adult census data.

The files are those of the LIBSVM site: `a9a/a9a.gz` to train on (32,561 people) and `a9a/a9a.t.gz`
to test on (16,281); UCI Adult (Becker & Kohavi, 1996) as binarised by Platt (1998).
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
from candor.agent.tasks.files import data_file, read_libsvm
from candor.agent.tasks.models import Models, choose
from candor.topologies.specs.specs import Spec

FEATURES: Final = 123  # the last does not occur in the test file
RELATIONSHIP: Final = slice(60, 66)
"""One of them is 1: wife, own child, husband, not in a family, other relative, unmarried."""

# Two logits and cross-entropy: the same functions as one logit's, and the form of all other tasks.
MODELS: Final = Models(FEATURES, classes=2, default="logistic", hidden=32)


def a9a_from_spec(spec: Spec, data_root: Path | None) -> Classification:
    """Build from `a9a`, `a9a:model=mlp,hidden=32`, `a9a:samples=2000`.

    `samples` keeps so many of the people to train on, drawn once for all runs, and fewer are part
    of more; the metric is accuracy on the test file. The data's own parts are people by their
    relationship to the head of the household.

    Raises:
        ConfigurationError: an unknown option or a value out of range.
    """
    model, options = choose(spec, MODELS, {"samples": "COUNT"})
    folder, samples = data_file(data_root, "a9a"), samples_option(spec, options)
    return Classification(model, partial(_read, folder, samples))


@lru_cache(maxsize=1)
def _read(folder: Path, samples: int | None) -> LabelledData:
    people, labels = _people(folder / "a9a.gz")
    kept = some_of(folder, len(labels), samples)
    people, labels = people[kept], labels[kept]
    related = people[:, RELATIONSHIP].argmax(dim=1).numpy()
    return LabelledData(people, labels, *_people(folder / "a9a.t.gz"), related)


def _people(path: Path) -> tuple[Tensor, Tensor]:
    values, signs = read_libsvm(path, FEATURES, (-1, 1))
    return labelled(path, values, (signs + 1) // 2, classes=2)
