from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from candor.agent.tasks.partition import Shard, check_partition, shares
from candor.agent.tasks.unequal import class_counts, power_law_sizes
from candor.topologies.specs.specs import ConfigurationError


def _owners(
    labels: NDArray[Any], partition: str, count: int, seed: int, parts: NDArray[Any] | None = None
) -> NDArray[np.int64]:
    """Whose each sample is, (samples,)."""
    owners = np.full(len(labels), -1)
    for agent, rows in enumerate(shares(labels, partition, count, seed, parts)):
        owners[rows] = agent
    return owners


@settings(max_examples=40)
@given(
    samples=st.integers(200, 600),
    classes=st.integers(1, 12),
    count=st.integers(1, 8),
    seed=st.integers(0, 2**63 - 1),
    partition=st.sampled_from(["iid", "dirichlet:10", "dirichlet:alpha=1,min=2"]),
)
def test_shards_are_disjoint_cover_everything_and_keep_the_minimum(
    samples: int, classes: int, count: int, seed: int, partition: str
) -> None:
    labels = np.arange(samples) % classes
    parts = [Shard(i, count, partition).select(labels, seed) for i in range(count)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(samples))
    assert min(map(len, parts)) >= 2
    assert all((np.diff(part) > 0).all() for part in parts)


def test_the_split_follows_the_seed() -> None:
    labels = np.arange(300) % 10
    first = _owners(labels, "dirichlet:0.5", 5, seed=1)
    assert (first == _owners(labels.copy(), "dirichlet:0.5", 5, seed=1)).all()
    assert (first != _owners(labels, "dirichlet:0.5", 5, seed=2)).any()


def test_iid_parts_differ_in_size_by_at_most_one() -> None:
    sizes = np.bincount(_owners(np.zeros(103), "iid", 8, seed=0))
    assert sizes.max() - sizes.min() == 1


def test_a_small_alpha_makes_the_class_mix_differ_more_than_a_large_one() -> None:
    labels = np.arange(2000) % 10

    def spread(partition: str) -> float:
        owners = _owners(labels, partition, 8, seed=3)
        counts = np.array([np.bincount(labels[owners == i], minlength=10) for i in range(8)])
        return float((counts / counts.sum(axis=1, keepdims=True)).std())

    assert spread("dirichlet:0.3") > 3 * spread("dirichlet:100")


def test_the_labels_may_be_of_any_kind() -> None:
    words = np.array(["cat", "dog"] * 50)
    assert (
        _owners(words, "dirichlet:5", 2, 0) == _owners(words == "dog", "dirichlet:5", 2, 0)
    ).all()


def test_natural_parts_are_dealt_whole_and_in_turn() -> None:
    parts = np.array(["zoe", "ann", "bob", "ann", "eve", "zoe", "bob"])
    owners = _owners(np.zeros(7), "natural", 3, seed=5, parts=parts)
    assert owners.tolist() == [0, 0, 1, 0, 2, 0, 1]  # ann, bob, eve, zoe


def test_sorted_stretches_are_as_long_as_each_other_and_of_few_parts() -> None:
    parts = np.array(["b", "a", "c", "a", "b", "a", "c", "a", "a"])
    owners = _owners(np.zeros(9), "sorted", 3, seed=5, parts=parts)
    of = [sorted(parts[owners == agent]) for agent in range(3)]
    assert of == [["a", "a", "a"], ["a", "a", "b"], ["b", "c", "c"]]
    drawn = [_owners(np.zeros(9), "sorted", 3, seed, parts=parts).tolist() for seed in range(9)]
    assert any(one != drawn[0] for one in drawn)
    assert _owners(np.zeros(9), "sorted", 3, seed=5, parts=parts).tolist() == owners.tolist()


def test_a_single_agent_takes_everything() -> None:
    assert Shard(0, 1, "dirichlet:0.01").select(np.arange(7), 0).tolist() == list(range(7))


@pytest.mark.parametrize(
    ("partition", "words"),
    [
        ("by-writer", "unknown; known: iid, .*, cla:SAMPLES"),
        ("iid:3", "takes no value"),
        ("natural:3", "takes no value"),
        ("sorted:3", "takes no value"),
        ("sorted", "no parts of their own"),
        ("natural", "no parts of their own"),
        ("dirichlet", "alpha above 0"),
        ("dirichlet:0", "alpha above 0"),
        ("dirichlet:-1", "alpha above 0"),
        ("dirichlet:nan", "alpha above 0"),
        ("dirichlet:soft", "alpha above 0"),
        ("dirichlet:alpha=1,beta=2", "'beta'"),
        ("dirichlet:alpha=1,min=0", "min"),
        ("dirichlet:alpha=1,min=50", "cannot give"),
        ("dirichlet:alpha=0.001,min=25", "no split"),
        ("uni:26", "100 samples, and 4 agents take 104"),
        ("pow:0", "0 is not a count"),
        ("pow:2.5", "2.5 is not a count"),
        ("cla:few", "few is not a count"),
        ("cla:classes=3", "unknown option 'classes'"),
        ("cla:9", "9 samples for each of 4 agents are too few for 10 classes"),
    ],
)
def test_a_bad_partition_is_refused_in_one_line(partition: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        _owners(np.arange(100) % 10, partition, 4, 0)
    assert "\n" not in str(refusal.value)


def test_fewer_samples_than_agents_are_refused() -> None:
    _owners(np.zeros(4), "iid", 4, 0)
    with pytest.raises(ConfigurationError, match="3 samples for 4 agents"):
        _owners(np.zeros(3), "iid", 4, 0)


def test_natural_needs_a_part_for_each_sample_and_each_agent() -> None:
    with pytest.raises(ConfigurationError, match="2 parts for 3 agents"):
        _owners(np.zeros(4), "natural", 3, 0, parts=np.array([1, 2, 1, 2]))
    for name in ("natural", "sorted"):
        with pytest.raises(ConfigurationError, match="shape"):
            _owners(np.zeros(4), name, 2, 0, parts=np.array([1, 2]))
    with pytest.raises(ConfigurationError, match="4 samples for 5 agents"):
        _owners(np.zeros(4), "sorted", 5, 0, parts=np.array([1, 2, 1, 2]))


def test_labels_that_are_not_one_column_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="1-D"):
        _owners(np.zeros((4, 2)), "iid", 2, 0)


def test_a_partition_is_checked_without_data() -> None:
    for partition in ("iid", "natural", "dirichlet:alpha=1,min=100000", "pow:samples=1000000"):
        check_partition(partition)
    for partition in ("soft", "iid:3", "dirichlet", "uni:x"):
        with pytest.raises(ConfigurationError):
            check_partition(partition)


# --- so many samples an agent -----------------------------------------------------------------

LABELS = np.arange(60_000) % 10


@pytest.mark.parametrize(
    ("count", "samples", "sizes"),
    [
        (5, 600, [71, 336, 600, 865, 1130]),
        (10, 600, [71, 189, 306, 424, 542, 659, 777, 895, 1012, 1130]),
        (10, 2000, [236, 628, 1020, 1412, 1804, 2197, 2589, 2981, 3373, 3765]),
    ],
)
def test_sizes_under_pow_are_those_of_the_paper(count: int, samples: int, sizes: list[int]) -> None:
    assert power_law_sizes(count, samples) == sizes
    rows = shares(LABELS, f"pow:{samples}", count, seed=0)
    assert list(map(len, rows)) == sizes
    assert len(np.unique(np.concatenate(rows))) == sum(sizes)


def test_where_data_are_used_up_the_last_agent_of_pow_has_the_rest() -> None:
    """As with the 20,000 images of CIFAR-10 in the paper."""
    sizes = [len(rows) for rows in shares(LABELS[:20_000], "pow:2000", 10, seed=0)]
    assert (sizes[0], sizes[-1], sum(sizes)) == (236, 3760, 20_000)
    assert sizes == [len(rows) for rows in shares(LABELS[:20_000], "pow", 10, seed=0)]
    with pytest.raises(ConfigurationError, match="sizes rounded up for 50 agents take"):
        shares(LABELS[:100], "pow:2", 50, seed=0)


def test_under_uni_all_have_as_many() -> None:
    rows = shares(LABELS, "uni:600", 10, seed=0)
    assert set(map(len, rows)) == {600}
    assert len(np.unique(np.concatenate(rows))) == 6000
    assert set(map(len, shares(LABELS[:103], "uni", 10, seed=0))) == {10}


@pytest.mark.parametrize(
    ("count", "known"),
    [(5, [1, 3, 5, 7, 10]), (10, list(range(1, 11)))],
)
def test_under_cla_agents_know_ever_more_of_the_classes(count: int, known: list[int]) -> None:
    assert class_counts(count, 10) == known
    rows = shares(LABELS, "cla:600", count, seed=0)
    for chosen, classes in zip(rows, known, strict=True):
        found = np.bincount(LABELS[chosen], minlength=10)
        each = 600 // classes
        expected = [each] * (classes - 1) + [600 - each * (classes - 1)]
        assert found.tolist() == expected + [0] * (10 - classes)
    # With replacement, of the count * 600 that are shared: some 60 * count of the first class.
    assert len(np.unique(rows[0])) < 60 * count + 100


@settings(max_examples=20)
@given(
    partition=st.sampled_from(["uni:30", "pow:30", "cla:30"]),
    count=st.integers(2, 8),
    seed=st.integers(0, 2**63 - 1),
)
def test_unequal_shares_follow_the_seed_and_are_ascending(
    partition: str, count: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, 400)
    rows = shares(labels, partition, count, seed)
    again = [Shard(i, count, partition).select(labels, seed) for i in range(count)]
    for mine, same in zip(rows, again, strict=True):
        assert (mine == same).all()
        assert (np.diff(mine) >= 0).all()
    other = shares(labels, partition, count, seed + 1)
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(rows, other, strict=True))


def test_one_shard_has_what_all_agents_have_together() -> None:
    """What one model on all data is trained on: no more than the agents have."""
    rows = shares(LABELS, "cla:600", 5, seed=3)
    pooled = Shard(0, 1, "cla:600", together=5).select(LABELS, seed=3)
    assert pooled.tolist() == sorted(np.concatenate(rows).tolist())
    whole = Shard(0, 1, "iid", together=5).select(LABELS, seed=3)
    assert whole.tolist() == list(range(len(LABELS)))
