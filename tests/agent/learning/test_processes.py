"""Rows spread over processes: the bits are those of one; whatever happens to a worker is a line."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from candor.agent.learning import spread
from candor.agent.learning.initial import initial_parameters, stated_of
from candor.agent.learning.processes import Workers
from candor.agent.learning.rows import shards_of, trainer_of
from candor.agent.learning.spread import Spread, simulated_learner_of
from candor.agent.learning.trainer import Trainer, unpacked
from candor.agent.simulation.vectorised import Simulation
from candor.agent.tasks import resolve_task
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import Cluster, TaskSettings
from candor.topologies.specs.specs import ConfigurationError
from tests.runs import write_cluster

AGENTS = 3
SEED = 3  # that of `write_cluster`


def cluster(path: Path, task: str, agents: int = AGENTS) -> Cluster:
    stated = {"name": task, "partition": "iid", **stated_of(resolve_task(task), SEED)}
    settings = TaskSettings.model_validate(stated)
    return write_cluster(path, "complete", agents, task=settings, rounds=9)


def one(of: Cluster) -> Any:
    return trainer_of(of, None, shards_of(of), "cpu")


def several(of: Cluster) -> Spread:
    learner = simulated_learner_of(of, None, shards_of(of), "cpu", processes=2)
    assert isinstance(learner, Spread)
    return learner


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    """However short a run is, its rows are spread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spread, "WORTH_S", -1.0)
        yield patch


def rounds(learner: Any, x: Tensor, first: int, last: int) -> Tensor:
    for t in range(first, last + 1):
        x = x - 0.1 * learner.local_steps(x, t, 0.1).update
    return x


def start(of: Cluster) -> Tensor:
    return initial_parameters(resolve_task(of.task.name), SEED).repeat(AGENTS, 1)


@pytest.fixture(scope="module")
def adam(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return cluster(tmp_path_factory.mktemp("adam"), "tests.own_loops:Kept")


@pytest.fixture(scope="module")
def spread_adam(adam: Cluster, patched: pytest.MonkeyPatch) -> Iterator[tuple[Spread, Tensor]]:
    """Adam on two processes, and the models after four rounds; the ninth fails."""
    patched.setenv("FAIL_IN", "9")
    learner = several(adam)
    yield learner, rounds(learner, start(adam), 1, 4)
    learner.end()


def test_several_processes_learn_the_same_bits_as_one(
    adam: Cluster, spread_adam: tuple[Spread, Tensor]
) -> None:
    learner, x = spread_adam
    here = one(adam)
    torch.set_num_threads(1)
    assert torch.equal(rounds(here, start(adam), 1, 4), x)
    assert len(learner.processes) == 2
    assert learner.evaluate(x) == here.evaluate(x)
    assert learner.evaluate(x[:1]) == here.evaluate(x[:1])
    assert torch.equal(learner.shard_losses(x, 50, 3), here.shard_losses(x, 50, 3))
    for row in range(AGENTS):
        mine, others = learner.state_dict(x[row], row), here.state_dict(x[row], row)
        assert list(mine) == list(others)
        assert all(torch.equal(mine[name], others[name]) for name in mine)
    named = here.named(x)
    assert all(torch.equal(value, named[name]) for name, value in learner.named(x).items())


def test_what_was_kept_goes_on_with_any_number_of_processes(
    adam: Cluster, spread_adam: tuple[Spread, Tensor]
) -> None:
    learner, x = spread_adam
    alone, here, again = one(adam), one(adam), one(adam)
    rounds(alone, start(adam), 1, 4)
    assert len(unpacked(learner.private(), AGENTS)) == AGENTS
    here.restore(learner.private())
    again.restore(alone.private())
    assert torch.equal(rounds(here, x, 5, 6), rounds(again, x, 5, 6))
    with pytest.raises(ConfigurationError, match="kept to themselves is damaged"):
        learner.restore(b"nonsense")


def test_an_error_of_the_users_is_the_line_that_it_is_in_one_process(
    adam: Cluster, spread_adam: tuple[Spread, Tensor]
) -> None:
    learner, x = spread_adam
    with pytest.raises(ConfigurationError, match=r"train\(\) failed .*images") as expected:
        rounds(one(adam), x, 9, 9)
    for _ in range(2):  # and nobody is confused
        with pytest.raises(ConfigurationError) as told:
            rounds(learner, x, 9, 9)
        assert str(told.value) == str(expected.value)
    assert rounds(learner, x, 7, 7).isfinite().all()


class Waits:
    """Learns nothing, and meets with what workers meet with."""

    def prepare(self) -> None: ...

    def prints(self) -> None:
        print("a word", flush=True)

    def ended(self, how: str) -> None:
        if how == "left behind":  # holds the pipes open
            if not os.fork():
                signal.alarm(20)
                signal.pause()
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "memory":
            raise MemoryError
        if how == "exit":
            raise SystemExit("enough")
        if how == "os exit":
            os._exit(3)

    def signalled(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        return os.getpid()

    def tensors(self, some: list[Tensor]) -> list[Tensor]:
        return some


@pytest.fixture(scope="module")
def waiting() -> Iterator[Workers]:
    workers = Workers([Waits], ["a0"])  # type: ignore[list-item]
    yield workers
    workers.end()


def test_ctrl_c_and_termination_are_left_to_the_parent(waiting: Workers) -> None:
    assert waiting.ask("signalled", [()]) == waiting.pids
    assert waiting.ask("prepare", [()]) == [None]


@pytest.mark.parametrize(("how", "told"), [("memory", "MemoryError"), ("exit", "enough")])
def test_what_else_is_raised_in_a_worker_is_one_line(waiting: Workers, how: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"process of its own failed .*{told}"):
        waiting.ask("ended", [(how,)])
    assert waiting.ask("prepare", [()]) == [None]


def test_what_a_worker_prints_is_no_part_of_the_answer(
    capfd: pytest.CaptureFixture[str],
) -> None:
    workers = Workers([Waits], ["a0"])  # type: ignore[list-item]
    workers.ask("prints", [()])
    workers.end()
    found = capfd.readouterr()
    assert (found.out, found.err) == ("", "a word\n")


def test_tensors_of_all_types_cross_as_they_are(waiting: Workers) -> None:
    whole = torch.tensor([[1.5, -0.0, float("nan")], [float("inf"), 2.0, 3.0]])
    kinds = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8]
    some = [whole, whole[1:], whole.T, whole[0, 0], torch.empty(0, 3)]
    some += [torch.ones(2, 2).to(kind) for kind in kinds]
    (back,) = waiting.ask("tensors", [(some,)])
    for mine, other in zip(some, back, strict=True):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


def test_workers_that_die_are_told_in_one_line() -> None:
    workers = Workers([Waits, Waits], ["a0 to a3", "a4 to a7"])  # type: ignore[list-item]
    ways = ("left behind", "a4 to a7 was ended by SIGKILL"), ("os exit", "a0 to a3 .* exit code 3")
    for worker, (how, told) in zip((1, 0), ways, strict=True):
        arguments = [(how,) if worker == each else None for each in range(2)]
        for _ in range(2):  # later, too
            with pytest.raises(ConfigurationError, match=f"process that trains {told}") as refusal:
                workers.ask("ended", arguments)
            assert "\n" not in str(refusal.value)
    workers.end()


def test_learners_that_cannot_be_made_are_told_and_leave_no_process() -> None:
    def children() -> set[int | None]:
        from multiprocessing import active_children

        return {child.pid for child in active_children()}

    before = children()
    with pytest.raises(ConfigurationError, match="no such task"):
        Workers([partial(refuses, "no such task")], ["a0"])
    assert children() == before


def refuses(why: str) -> Any:
    raise ConfigurationError(why)


def test_short_runs_stay_in_one_process_and_leave_torch_its_threads(
    adam: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spread, "WORTH_S", 30.0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        learner = several(adam)
        rounds(learner, start(adam), 1, 3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert not learner.processes


@pytest.mark.parametrize(("large", "kind"), [(10**9, Spread), (1, Trainer)])
def test_a_single_large_model_alone_is_left_torchs_threads(
    adam: Cluster, monkeypatch: pytest.MonkeyPatch, large: int, kind: type
) -> None:
    monkeypatch.setattr(spread, "LARGE", large)
    assert type(simulated_learner_of(adam, None, [Shard(0, 1)], "cpu", processes=2)) is kind
    assert type(simulated_learner_of(adam, None, shards_of(adam), "cpu")) is Spread


def test_a_simulation_goes_on_with_another_number_of_processes_to_the_same_bit(
    adam: Cluster, patched: pytest.MonkeyPatch
) -> None:
    first = Simulation(adam, {}, measured=False)
    first.step()
    state = first.state()
    alone = Simulation(adam, {}, measured=False, state=state)
    both = Simulation(adam, {}, measured=False, state=state, threads=2)
    for _ in range(3):
        assert torch.equal(alone.step().parameters, both.step().parameters)
    assert isinstance(both._learner, Spread)
    assert len(both._learner.processes) == 2
    mine, others = (unpacked(each._learner.private(), AGENTS) for each in (alone, both))
    torch.testing.assert_close(others, mine, rtol=0, atol=0)
    both._learner.end()
