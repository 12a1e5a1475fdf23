"""Daemons that train by a user's own loop: killed, started again, and failing in midst of a run."""

import io
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from candor.agent.daemon.model_file import PRIVATE_NAME, rounds_behind
from candor.agent.runs.cluster_parts import task_settings
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.agent.testbed import testbed
from tests import paced
from tests.campaigns.crashes import plan
from tests.own_loops import Adam

pytestmark = pytest.mark.e2e


@pytest.fixture
def bed(tmp_path, monkeypatch):
    """Make a testbed of agents with a task, all of whose processes are gone at the end."""
    monkeypatch.setenv("PYTHONPATH", paced.environment()["PYTHONPATH"])
    made = []

    def make(task, rounds, agents=3):
        shape = plan(agents, "complete", rounds, 1, "norm:2e-5")
        settings = task_settings(task, shape.seed, None, batch_size=32)
        timing = shape.rounds.model_copy(update={"deadline_s": 5.0, "start_deadline_s": 60.0})
        algorithm = shape.algorithm.model_copy(update={"local_steps": 3})
        shape = replace(shape, task=settings, rounds=timing, algorithm=algorithm)
        made.append(testbed.prepare(shape, tmp_path / "run"))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def private(bed, agent):
    """What an agent has saved for itself."""
    data = load_file(bed.data_dir(agent) / PRIVATE_NAME)["bytes"].numpy().tobytes()
    return torch.load(io.BytesIO(data), weights_only=True)[0]


def told(bed, agent, event):
    lines = (bed.data_dir(agent) / "log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == event]


def test_adams_moments_and_schedule_survive_a_kill(bed) -> None:
    one = bed("tests.own_loops:Slow", rounds=40)
    one.start()
    path = one.data_dir("a0") / PRIVATE_NAME
    paced.until(lambda: rounds_behind(path, one.cluster.fingerprint) >= 3)
    one.processes["a0"].kill()
    one.processes["a0"].wait()
    before, saved = private(one, "a0"), rounds_behind(path, one.cluster.fingerprint)
    one.restart("a0")
    testbed.watch(one, lambda _statuses: None)
    assert not one.failed()
    after = private(one, "a0")
    steps = [int(held["kept"]["adam"]["state"][0]["step"]) for held in (before, after)]
    trained = after["saved"]["rounds"]
    assert trained[: len(before["saved"]["rounds"])] == before["saved"]["rounds"]
    assert trained[-1] == 40
    assert steps[1] == 3 * len(trained) > steps[0]  # not begun anew
    (restored,) = told(one, "a0", "training_restored")
    assert restored["round"] == saved
    assert after["kept"]["cosine"]["last_epoch"] == len(trained)
    _, audit = audit_run_directory(one.run_dir)
    assert not audit.findings


def test_a_failure_in_midst_of_a_run_costs_a_round_and_three_in_a_row_the_run(
    bed, monkeypatch
) -> None:
    monkeypatch.setenv("FAIL_IN", "3,5,6")
    one = bed("tests.own_loops:Fails", rounds=8)
    with testbed.stopping_on_signals(one):
        one.start()
        testbed.watch(one, lambda _statuses: None)
    assert not one.failed()
    said = told(one, "a1", "round_sat_out")
    assert [line["round"] for line in said] == [3, 5, 6]
    assert "task: train() failed (RuntimeError: the images are gone)" in said[0]["detail"]
    model = Adam().build_model()
    model.load_state_dict(load_file(one.data_dir("a1") / "model.safetensors"))
    assert Adam().evaluate(model) > 0.6
    _, audit = audit_run_directory(one.run_dir)
    assert not audit.findings


def test_an_agent_that_fails_again_and_again_ends_with_one_line(bed, monkeypatch) -> None:
    monkeypatch.setenv("FAIL_IN", "3,4,5")
    one = bed("tests.own_loops:Fails", rounds=8, agents=2)
    with testbed.stopping_on_signals(one):
        one.start()
        testbed.watch(one, lambda _statuses: None)
    assert one.failed() == {"a0": 2, "a1": 2}
    said = "task: train() failed (RuntimeError: the images are gone) at own_loops.py:"
    assert said in one.complaint("a0")
    stderr = (one.data_dir("a0") / "stderr.log").read_text()
    assert "Traceback" not in stderr
    assert rounds_behind(one.data_dir("a0") / "model.safetensors", one.cluster.fingerprint) >= 2
