import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candor.agent.tasks.partition import Shard, split
from candor.topologies.specs.specs import ConfigurationError


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
    first = split(labels, "dirichlet:0.5", 5, seed=1)
    assert (first == split(labels.copy(), "dirichlet:0.5", 5, seed=1)).all()
    assert (first != split(labels, "dirichlet:0.5", 5, seed=2)).any()


def test_iid_parts_differ_in_size_by_at_most_one() -> None:
    sizes = np.bincount(split(np.zeros(103), "iid", 8, seed=0))
    assert sizes.max() - sizes.min() == 1


def test_a_small_alpha_makes_the_class_mix_differ_more_than_a_large_one() -> None:
    labels = np.arange(2000) % 10

    def spread(partition: str) -> float:
        owners = split(labels, partition, 8, seed=3)
        counts = np.array([np.bincount(labels[owners == i], minlength=10) for i in range(8)])
        return float((counts / counts.sum(axis=1, keepdims=True)).std())

    assert spread("dirichlet:0.3") > 3 * spread("dirichlet:100")


def test_the_labels_may_be_of_any_kind() -> None:
    words = np.array(["cat", "dog"] * 50)
    assert (split(words, "dirichlet:5", 2, 0) == split(words == "dog", "dirichlet:5", 2, 0)).all()


def test_natural_parts_are_dealt_whole_and_in_turn() -> None:
    parts = np.array(["zoe", "ann", "bob", "ann", "eve", "zoe", "bob"])
    owners = split(np.zeros(7), "natural", 3, seed=5, parts=parts)
    assert owners.tolist() == [0, 0, 1, 0, 2, 0, 1]  # ann, bob, eve, zoe


def test_a_single_agent_takes_everything() -> None:
    assert Shard(0, 1, "dirichlet:0.01").select(np.arange(7), 0).tolist() == list(range(7))


@pytest.mark.parametrize(
    ("partition", "words"),
    [
        ("by-writer", "unknown"),
        ("iid:3", "takes no value"),
        ("natural:3", "takes no value"),
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
    ],
)
def test_a_bad_partition_is_refused_in_one_line(partition: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        split(np.arange(100) % 10, partition, 4, 0)
    assert "\n" not in str(refusal.value)


def test_fewer_samples_than_agents_are_refused() -> None:
    split(np.zeros(4), "iid", 4, 0)
    with pytest.raises(ConfigurationError, match="3 samples for 4 agents"):
        split(np.zeros(3), "iid", 4, 0)


def test_natural_needs_a_part_for_each_sample_and_each_agent() -> None:
    with pytest.raises(ConfigurationError, match="2 parts for 3 agents"):
        split(np.zeros(4), "natural", 3, 0, parts=np.array([1, 2, 1, 2]))
    with pytest.raises(ConfigurationError, match="shape"):
        split(np.zeros(4), "natural", 2, 0, parts=np.array([1, 2]))


def test_labels_that_are_not_one_column_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="1-D"):
        split(np.zeros((4, 2)), "iid", 2, 0)
