"""Where rows are cut into chunks changes nothing but rounding; one line where there is no CUDA."""

from threading import Barrier

import pytest
import torch

from candor.agent.learning import chunks
from candor.agent.learning.learner import Learner
from candor.agent.tasks import resolve_task
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.specs.specs import ConfigurationError

AGENTS = 5


def trained(
    momentum: float, local_steps: int, rounds: int = 3, threads: int = 1
) -> tuple[torch.Tensor, int]:
    """The models (agents, dim) after some rounds without mixing, and how many chunks there were."""
    task = resolve_task("digits")
    settings = AlgorithmSettings(local_steps=local_steps, momentum=momentum)
    shards = [Shard(index, AGENTS) for index in range(AGENTS)]
    learner = Learner(task, shards, settings, batch_size=8, seed=0, threads=threads)
    x = torch.linspace(-0.1, 0.1, learner.dim).repeat(AGENTS, 1)
    velocity = None
    for t in range(1, rounds + 1):
        done = learner.local_steps(x, t, 0.1, velocity)
        assert done.losses.shape == (AGENTS,)
        assert (done.velocity is None) == (momentum == 0.0)
        x, velocity = x - 0.1 * done.update, done.velocity
    return x, len(learner.chunks)


@pytest.mark.parametrize(("momentum", "local_steps"), [(0.0, 1), (0.9, 1), (0.5, 3)])
def test_chunks_train_what_all_rows_at_once_do(
    momentum: float, local_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, one = trained(momentum, local_steps)
    monkeypatch.setattr(chunks, "CACHE_BYTES", 150_000)  # two rows
    parts, several = trained(momentum, local_steps)
    monkeypatch.setattr(chunks, "CACHE_BYTES", 1)
    single, most = trained(momentum, local_steps)
    assert (one, several, most) == (1, 3, AGENTS)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(single, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("momentum", "local_steps"), [(0.0, 1), (0.9, 1), (0.5, 3)])
def test_the_number_of_threads_changes_no_bit(
    momentum: float, local_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CACHE_BYTES", 150_000)  # two rows
    alone, _ = trained(momentum, local_steps)
    for threads in (2, 5):
        together, parts = trained(momentum, local_steps, threads=threads)
        assert parts == 3
        assert torch.equal(together, alone)


def test_chunks_are_worked_on_at_the_same_time() -> None:
    both = Barrier(2, timeout=60)  # nobody passes alone
    parts = chunks.slices(8, 4)
    assert sorted(chunks.Threads(2).map(lambda _: both.wait(), parts)) == [0, 1]


def test_what_one_of_the_threads_raises_is_raised() -> None:
    def fail(rows: slice) -> None:
        if rows.start == 4:
            raise ConfigurationError("no such rows")

    with pytest.raises(ConfigurationError, match="no such rows"):
        chunks.Threads(2).map(fail, chunks.slices(8, 2))


@pytest.mark.parametrize(
    ("rows", "most", "at_once"),
    [(5, 3, 3), (24, 300, 100), (100, 300, 100), (4000, 300, 250), (4096, 90, 90)],
)
def test_threads_get_parts_to_share_but_not_small_ones(rows: int, most: int, at_once: int) -> None:
    assert chunks.rows_for_threads(rows, most) == at_once


def test_what_autograd_keeps_is_counted_once_for_each_storage() -> None:
    x = torch.ones(10, 10, requires_grad=True)
    with chunks.saved_bytes() as saved:
        (x * x).sum() + (x[0] * x[0]).sum()
    assert saved.total == 400
    assert chunks.rows_at_once(saved.total, torch.device("cpu")) == chunks.CACHE_BYTES // 400


def test_a_row_larger_than_the_cache_is_trained_alone() -> None:
    assert chunks.rows_at_once(chunks.CACHE_BYTES + 1, torch.device("cpu")) == 1
