"""Who trains on which samples: a seeded split of a labelled data set among the agents.

Every agent computes the whole split from the same labels and seed and takes its own part, without
anyone handing them out. Parts are disjoint and cover the data, but for those of
`agent.tasks.unequal`. This stands in for data that is private in earnest; a task whose agents hold
their own files ignores the partition.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from candor.agent.tasks.unequal import UNEQUAL, deal_unequally, samples_option
from candor.topologies.specs.specs import ConfigurationError, Spec, parse_spec

PARTITION_DOMAIN: Final = 0x70617274  # keeps this stream apart from others drawn from the same seed
DRAWS_MAX: Final = 1000  # a Dirichlet split that leaves an agent short is drawn again, this often
SAMPLES_MIN: Final = 10


@dataclass(frozen=True, slots=True)
class Shard:
    """Agent number `index` of `count` under a partition: `iid`, `dirichlet:alpha`, `natural`,
    `sorted`, `uni:samples`, `pow:samples` or `cla:samples`.

    `dirichlet:alpha=0.5,min=20` also sets the fewest samples an agent may get (10 if not said).
    `natural` keeps the data's own parts whole, such as the writers of handwriting, and deals them
    in turn: agent i gets the parts i, i + count, i + 2 count, ... whatever the seed. `sorted` lays
    the samples out by those parts, drawn within each, and deals stretches of one length. The last
    three are those of `agent.tasks.unequal`. A shard with a count of 1 takes everything; or, where
    it stands for so many agents `together`, all that they have.

    A share of the samples may be `held_out` (`agent.tasks.held_out`): the shard is the others then,
    or `of_held` those.
    """

    index: int
    count: int
    partition: str = "iid"
    together: int = 1
    held_out: float = 0.0
    of_held: bool = False

    def select(
        self, labels: NDArray[Any], seed: int, parts: NDArray[Any] | None = None
    ) -> NDArray[np.int64]:
        """The ascending indices of this agent's samples; under `cla` some come several times.

        Args:
            labels: the class of each sample, (samples,); `iid` uses only its length.
            seed: the run's seed; with the same labels it gives every agent the same split.
            parts: which of the data's own parts each sample is of, (samples,), for `natural`.

        Raises:
            ConfigurationError: the partition is none of the above, or the samples do not suffice.
        """
        if self.together > 1:
            every = shares(labels, self.partition, self.together, seed, parts)
            return np.sort(np.concatenate(every))
        return shares(labels, self.partition, self.count, seed, parts)[self.index].copy()


def shares(
    labels: NDArray[Any], partition: str, count: int, seed: int, parts: NDArray[Any] | None = None
) -> tuple[NDArray[np.int64], ...]:
    """The ascending indices of each agent's samples, by agent.

    Raises:
        ConfigurationError: as `Shard.select`.
    """
    if labels.ndim != 1:
        raise ConfigurationError(
            f"partition {partition!r}: labels of shape {labels.shape}, not 1-D"
        )
    if count == 1:
        return (np.arange(len(labels), dtype=np.int64),)
    spec = _checked(partition)
    if spec.name == "natural":
        return _of_owners(_deal_parts(labels, parts, count), count)
    if spec.name == "sorted":
        return _of_owners(_deal_stretches(labels, parts, count, seed), count)
    classes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return _dealt(classes.tobytes(), partition, count, seed)


def check_partition(partition: str) -> None:
    """Check what can be checked without data.

    Raises:
        ConfigurationError: there is no such partition, or no such option of it.
    """
    _checked(partition)


def _checked(partition: str) -> Spec:
    spec = parse_spec(partition)
    match spec.name:
        case "iid" | "natural" | "sorted":
            _refuse_values(spec)
        case "dirichlet":
            _dirichlet_options(spec)
        case name if name in UNEQUAL:
            samples_option(spec)
        case _:
            sized = ", ".join(f"{name}:SAMPLES" for name in UNEQUAL)
            raise ConfigurationError(
                f"partition {partition!r} is unknown; known: iid, dirichlet:ALPHA, natural, "
                f"sorted, {sized}"
            )
    return spec


@lru_cache(maxsize=4)
def _dealt(classes: bytes, partition: str, count: int, seed: int) -> tuple[NDArray[np.int64], ...]:
    """Cached because a simulation selects every shard of the same split."""
    labels = np.frombuffer(classes, np.int64)
    spec = parse_spec(partition)
    rng = np.random.default_rng([seed, PARTITION_DOMAIN])
    if spec.name in UNEQUAL:
        rows = tuple(np.sort(dealt) for dealt in deal_unequally(labels, spec, count, rng))
    elif spec.name == "dirichlet":
        rows = _of_owners(_split_dirichlet(labels, spec, count, rng), count)
    else:
        rows = _of_owners(_split_iid(len(labels), count, rng), count)
    for each in rows:
        each.flags.writeable = False
    return rows


def _of_owners(owners: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], ...]:
    """The samples of each agent, from the owner of each sample (samples,)."""
    cuts = np.cumsum(np.bincount(owners, minlength=count))[:-1]
    return tuple(np.split(np.argsort(owners, kind="stable"), cuts))


def _deal_parts(labels: NDArray[Any], parts: NDArray[Any] | None, count: int) -> NDArray[np.int64]:
    codes = _codes("natural", labels, parts)
    if (known := int(codes.max(initial=-1)) + 1) < count:
        raise ConfigurationError(
            f"partition natural: {known} parts for {count} agents; sorted divides them"
        )
    return codes % count


def _deal_stretches(
    labels: NDArray[Any], parts: NDArray[Any] | None, count: int, seed: int
) -> NDArray[np.int64]:
    codes = _codes("sorted", labels, parts)
    drawn = np.random.default_rng([seed, PARTITION_DOMAIN]).permutation(len(codes))
    if len(codes) < count:
        raise ConfigurationError(f"partition sorted: {len(codes)} samples for {count} agents")
    owners = np.empty_like(codes)
    owners[np.lexsort((drawn, codes))] = np.arange(len(codes)) * count // len(codes)
    return owners


def _codes(name: str, labels: NDArray[Any], parts: NDArray[Any] | None) -> NDArray[np.int64]:
    """The number of each sample's part, ascending by its name: (samples,)."""
    if parts is None:
        raise ConfigurationError(
            f"partition {name}: this task's data have no parts of their own; use iid or dirichlet"
        )
    if parts.shape != labels.shape:
        raise ConfigurationError(
            f"partition {name}: parts of shape {parts.shape} for labels of shape {labels.shape}"
        )
    return np.unique(parts, return_inverse=True)[1].astype(np.int64)


def _split_iid(samples: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if samples < count:
        raise ConfigurationError(f"partition iid: {samples} samples for {count} agents")
    return rng.permutation(np.arange(samples, dtype=np.int64) % count)


def _refuse_values(spec: Spec) -> None:
    if spec.value is not None or spec.options:
        raise ConfigurationError(f"partition {spec.name} takes no value")


def _split_dirichlet(
    labels: NDArray[np.int64], spec: Spec, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Each class is dealt in proportions drawn from Dirichlet(alpha), as in Hsu, Qi & Brown (2019).

    Difference: proportions are drawn for each class over agents, not for each agent over classes,
    so that every sample has an owner; and a split is redrawn until each agent has the minimum.
    """
    alpha, samples_min = _dirichlet_options(spec)
    if len(labels) < count * samples_min:
        raise ConfigurationError(
            f"partition dirichlet: {len(labels)} samples cannot give each of {count} agents "
            f"{samples_min}; use fewer agents or a smaller min="
        )
    for _ in range(DRAWS_MAX):
        owners = _draw_dirichlet(labels, alpha, count, rng)
        if np.bincount(owners, minlength=count).min() >= samples_min:
            return owners
    raise ConfigurationError(
        f"partition dirichlet: no split in {DRAWS_MAX} draws gives each of {count} agents "
        f"{samples_min} samples; use a larger alpha, fewer agents or a smaller min="
    )


def _draw_dirichlet(
    labels: NDArray[np.int64], alpha: float, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    owners = np.empty(len(labels), np.int64)
    for label in range(int(labels.max()) + 1):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = np.cumsum(rng.dirichlet(np.full(count, alpha)))  # (count,), ends at 1
        cuts = (shares[:-1] * len(members)).astype(np.int64)
        owners[members] = np.searchsorted(cuts, np.arange(len(members)), side="right")
    return owners


def _dirichlet_options(spec: Spec) -> tuple[float, int]:
    """Alpha and the fewest samples of an agent."""
    options = dict(spec.options)
    alpha = options.pop("alpha", spec.value)
    samples_min = options.pop("min", SAMPLES_MIN)
    if options:
        raise ConfigurationError(
            f"partition dirichlet: unknown option {next(iter(options))!r}; known: alpha, min"
        )
    if not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
        raise ConfigurationError("partition dirichlet: give alpha above 0, such as dirichlet:0.5")
    if not isinstance(samples_min, int) or samples_min < 1:
        raise ConfigurationError("partition dirichlet: min must be a whole number of at least 1")
    return float(alpha), samples_min
