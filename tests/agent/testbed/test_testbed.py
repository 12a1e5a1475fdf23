"""The testbed under a fault plan: what it does, keeps a list of, and waits for."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from candor.agent.exits import RunFailed
from candor.agent.runs import fault_log
from candor.agent.testbed import testbed
from candor.agent.testbed.faults import Fault
from candor.agent.testbed.network import Network
from candor.agent.testbed.proxy import Ports, Proxy

AGENTS = ("a0", "a1")
Bed = Callable[..., testbed.Testbed]


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    """Makes a testbed whose agents sleep instead of training."""

    def sleep(made: testbed.Testbed, agent: str, _environment: Any = None) -> None:
        made.processes[agent] = subprocess.Popen(["sleep", "600"])
        started.append(made.processes[agent])

    def make(*faults: Fault) -> testbed.Testbed:
        cluster: Any = SimpleNamespace(ids=AGENTS)
        made = testbed.Testbed(tmp_path, cluster, plan=None, faults=list(faults))  # type: ignore[arg-type]
        monkeypatch.setattr(testbed.Testbed, "_start", sleep)
        made.start()
        return made

    started: list[Any] = []
    yield make
    for process in started:
        process.kill()
        process.wait()


def in_round(made: testbed.Testbed, number: int) -> None:
    made.statuses = {agent: SimpleNamespace(round=number) for agent in AGENTS}  # type: ignore[misc]


def test_events_are_done_when_they_are_due_and_end_when_they_should(bed: Bed) -> None:
    made = bed(
        Fault("kill", ("a0",), 3, None, until_round=5),
        Fault("kill", AGENTS, 8, None, for_s=60.0),
    )
    assert made.inject_faults() == []
    in_round(made, 3)
    (killed,) = made.inject_faults()
    assert (killed.action, killed.agents, killed.round) == ("kill", ("a0",), 3)
    assert killed.detail == "a0 killed"
    assert made.running() == ["a1"]
    assert made.inject_faults() == []
    in_round(made, 6)
    (again,) = made.inject_faults()
    assert (again.action, again.of, again.detail) == ("end", "kill", "a0 started again")
    assert made.running() == ["a0", "a1"]
    assert made.restarted == {"a0"}
    in_round(made, 9)
    (every,) = made.inject_faults()
    assert every.detail == "all 2 agents killed"
    assert made.running() == []
    assert made.all_held()
    made.started_s -= 60
    (back,) = made.inject_faults()
    assert back.detail == "all 2 agents started again"
    assert made.running() == ["a0", "a1"]
    assert fault_log.read(made.run_dir) == [killed, again, every, back]
    assert made.never_due() == []


def test_the_end_of_a_fault_starts_nobody_who_was_started_before(bed: Bed) -> None:
    made = bed(
        Fault("kill", ("a0",), None, 0.0, for_s=5.0),
        Fault("restart", ("a0",), None, 1.0),
    )
    made.inject_faults()
    made.started_s -= 1
    made.inject_faults()
    process = made.processes["a0"]
    made.started_s -= 5
    (told,) = made.inject_faults()
    assert told.detail == "a0 had gone on before"
    assert made.processes["a0"] is process
    assert process.poll() is None


def test_who_is_held_with_everybody_is_waited_for_if_the_plan_says_when(bed: Bed) -> None:
    made = bed(Fault("stop", AGENTS, None, 0.0))
    made.inject_faults()
    assert made.holds.stopped == set(AGENTS)
    assert not made.all_held()
    made.faults = [Fault("continue", ("a1",), 9, None)]
    assert not made.all_held()  # nobody is left who would reach that round
    made.faults.append(Fault("kill", ("a0",), None, 1e6))
    assert not made.all_held()
    made.faults.append(Fault("continue", ("a0",), None, 1e6))
    assert made.all_held()
    assert made.never_due() == [
        "continue of a1 in round 9",
        "kill of a0 at 1000000.0 s",
        "continue of a0 at 1000000.0 s",
    ]
    made.holds.stopped.discard("a1")
    assert not made.all_held()


def test_nobody_is_waited_for_once_somebody_has_finished_the_run(bed: Bed) -> None:
    made = bed(Fault("kill", ("a0",), None, 0.0, for_s=1e6))
    made.inject_faults()
    assert not made.all_held()
    made.processes["a1"].kill()
    made.processes["a1"].wait()
    assert made.all_held()  # it failed, and a0 may go on without it
    made.processes["a1"].returncode = 0
    assert not made.all_held()
    assert made.never_due()[0].startswith("the end of kill of a0 at 10000")


def test_faults_of_the_network_are_done_to_the_proxy(bed: Bed) -> None:
    relay, daemon = testbed.free_ports(2)
    made = bed()
    made.network = Network(Proxy({("a0", "a1"): Ports(relay, daemon)}))
    made.network.proxy.start()
    try:
        made.faults = [Fault("delay", ("a1",), None, 0.0, for_s=3.0, amount=0.25)]
        (told,) = made.inject_faults()
        assert told.detail == "a1 0.25 s farther away, 1 edge"
        assert made.network.proxy.conditions["a0", "a1"].delay_s == 0.25
        made.started_s -= 4
        (told,) = made.inject_faults()
        assert told.detail == "a1: delay over, 1 edge"
        assert made.network.proxy.conditions["a0", "a1"].delay_s == 0.0
    finally:
        made.network.proxy.close()


def test_a_list_of_faults_that_cannot_be_written_ends_the_run_in_one_line(bed: Bed) -> None:
    made = bed(Fault("stop", ("a0",), None, 0.0))
    (made.run_dir / fault_log.FILE_NAME).mkdir()
    with pytest.raises(RunFailed, match=r"faults\.jsonl: Is a directory"):
        made.inject_faults()


def test_who_was_restarted_too_late_does_not_end_the_run(bed: Bed) -> None:
    made = bed()
    in_round(made, 0)
    for process in made.processes.values():
        process.kill()
        process.wait()
    made.restarted = {"a1"}
    assert (made.never_trained(), list(made.failed())) == (["a0"], ["a0", "a1"])


def test_long_lists_of_agents_are_cut(bed: Bed) -> None:
    made = bed()
    made.cluster = SimpleNamespace(ids=tuple(f"a{i}" for i in range(20)))  # type: ignore[assignment]
    assert made._named(made.cluster.ids) == "all 20 agents"
    assert made._named(made.cluster.ids[:9]) == "a0, a1, a2, a3, a4, a5, a6, a7, 1 more"
