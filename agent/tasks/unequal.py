"""Partitions of so many samples an agent, in which agents are worth more or less: `uni`, `pow`,
`cla` of Xu et al. (NeurIPS 2021, section 4), as its authors' program deals them.

The agents share `count * samples` samples, chosen at random from all there are: `uni` gives each as
many of them, `pow` ever more from the first to the last, `cla` as many of ever more classes.
Difference: the choice follows the run's seed, where theirs is always the same.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from candor.topologies.specs.specs import ConfigurationError, Spec

Rows: TypeAlias = NDArray[np.int64]
DealUnequally: TypeAlias = Callable[[Rows, int, int, np.random.Generator], list[Rows]]
"""From labels (samples,), the number of agents, samples an agent: rows of each, in any order."""

POWER: Final = 1.65911332899  # the exponent in the authors' program
TAIL: Final = 0.01  # the quantiles between which sizes lie evenly are this one and 1 - this one


def power_law_sizes(count: int, samples: int) -> list[int]:
    """How many samples each agent has under `pow`, `samples` on average but for rounding up: evenly
    spaced between quantiles of the power law, whose distribution function is x ** POWER on 0..1."""
    low, high = (quantile ** (1 / POWER) for quantile in (TAIL, 1 - TAIL))
    shares = np.linspace(low, high, count)
    return [math.ceil(size) for size in shares / shares.sum() * (count * samples)]


def class_counts(count: int, classes: int) -> list[int]:
    """How many classes each agent has under `cla`: from 1 to all, evenly, rounded down."""
    return [int(known) for known in np.linspace(1, classes, count)]


def _equal(labels: Rows, count: int, samples: int, rng: np.random.Generator) -> list[Rows]:
    chosen = rng.permutation(len(labels))[: count * samples]
    return np.split(chosen, count)


def _power_law(labels: Rows, count: int, samples: int, rng: np.random.Generator) -> list[Rows]:
    """Sizes are rounded up: where the data are used up, the last agent has so many less."""
    ends = np.cumsum(power_law_sizes(count, samples))
    rows = np.split(rng.permutation(len(labels))[: ends[-1]], ends[:-1])
    if not all(map(len, rows)):
        raise ConfigurationError(
            f"partition pow: {len(labels)} samples, and sizes rounded up for {count} agents take "
            f"{ends[-1]}; use fewer agents or a smaller samples="
        )
    return rows


def _by_classes(labels: Rows, count: int, samples: int, rng: np.random.Generator) -> list[Rows]:
    """The first classes of each agent, in equal parts, what does not divide being of its last one.

    They are drawn with replacement. Difference: so are those that do not divide, which the program
    takes from the class for good.
    """
    pool = rng.permutation(len(labels))[: count * samples]
    classes = int(labels.max()) + 1
    members = [pool[labels[pool] == label] for label in range(classes)]
    if samples < classes or not all(map(len, members)):
        raise ConfigurationError(
            f"partition cla: {samples} samples for each of {count} agents are too few for "
            f"{classes} classes; use a larger samples="
        )
    return [
        np.concatenate([rng.choice(members[label], size) for label, size in enumerate(sizes)])
        for sizes in (_parts(samples, known) for known in class_counts(count, classes))
    ]


def _parts(samples: int, classes: int) -> list[int]:
    each = samples // classes
    return [each] * (classes - 1) + [samples - each * (classes - 1)]


UNEQUAL: Final[Mapping[str, DealUnequally]] = {
    "uni": _equal,
    "pow": _power_law,
    "cla": _by_classes,
}


def samples_option(spec: Spec) -> int | None:
    """How many samples an agent has on average by `pow`, `pow:600`, `pow:samples=600`; None where
    that is as many as there are for each.

    Raises:
        ConfigurationError: another option, or no count.
    """
    options = dict(spec.options)
    samples = options.pop("samples", spec.value)
    if options:
        raise ConfigurationError(
            f"partition {spec.name}: unknown option {next(iter(options))!r}; known: samples"
        )
    if samples is not None and (not isinstance(samples, int) or samples < 1):
        raise ConfigurationError(
            f"partition {spec.name}: {samples} is not a count of samples, such as {spec.name}:600"
        )
    return samples


def deal_unequally(labels: Rows, spec: Spec, count: int, rng: np.random.Generator) -> list[Rows]:
    """The rows of each agent under `uni`, `pow` or `cla`.

    Raises:
        ConfigurationError: a wrong option, or the samples do not suffice.
    """
    samples = samples_option(spec) or len(labels) // count
    if samples == 0 or count * samples > len(labels):
        raise ConfigurationError(
            f"partition {spec.name}: {len(labels)} samples, and {count} agents take "
            f"{count * max(samples, 1)}; use fewer agents or a smaller samples="
        )
    return UNEQUAL[spec.name](labels, count, samples, rng)
