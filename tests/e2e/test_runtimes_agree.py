"""Real daemons over real sockets against the vectorised runtime: one algorithm text, one result."""

import json
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
from safetensors.numpy import load_file

from candor.agent.cli import main as cli
from candor.agent.daemon.status import standings
from candor.agent.learning.learner import Learner
from candor.agent.simulation.vectorised import Simulation, run_vectorised
from candor.agent.tasks import resolve_task
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import load_cluster

pytestmark = pytest.mark.e2e
RULE = "variance:4e-5 + excess:4e-6 + originality:5e-5 + persistence:5e-5"  # charges every lie
# As few daemons as leave some that are no neighbours, as starting one costs most of what it does;
# a whole window of 16 rounds, and a part of one.
RING = ["--agents", "4", "--topology", "ring", "--rounds", "20", "--strategy", "a3=scale:3"]
LIES = [
    "--strategy",
    "a2=label-flip:from=1,to=7",
    "--strategy",
    "a3=partial:0.5",
    "--strategy",
    "a4=zero",
    "--strategy",
    "a5=scale:2 + averaged:0.4",
]


ALGORITHMS = [
    ["gradient-tracking"],
    ["median-sgd"],
    ["tests.nearest:Nearest"],
    # Passes over shards of different length, whose steps a daemon and a simulation count alike.
    ["diloco", "--local-epochs", "1", "--outer-step", "0.5", "--momentum", "0.5"],
]


def run_testbed(run_dir, *options):
    """The summary that `candor testbed` prints; each daemon is a process of its own."""
    words = ["testbed", "--task", "digits", "--run-dir", str(run_dir), "--json", *options]
    words += [] if "--rule" in options else ["--rule", RULE]
    with redirect_stdout(StringIO()) as out:
        assert cli.run(words) == 0
    return json.loads(out.getvalue())


def final_models(run_dir):
    """The models (agents, dim) that the daemons left, in the order of the cluster file."""
    cluster = load_cluster(run_dir / "cluster.toml")
    task, settings = resolve_task("digits"), cluster.task
    learner = Learner(task, [Shard(0, 1)], cluster.algorithm, settings.batch_size, cluster.seed)
    models = []
    for agent in cluster.ids:
        tensors = load_file(run_dir / "agents" / agent / "model.safetensors")
        models.append(np.concatenate([tensors[name].ravel() for name in learner.names]))
    return np.stack(models)


@pytest.fixture(scope="module")
def ring_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("ring") / "run"
    return run_dir, run_testbed(run_dir, *RING)


@pytest.fixture(scope="module")
def complete_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("complete") / "run"
    options = ["--agents", "6", "--topology", "complete", "--rounds", "20"]
    return run_dir, run_testbed(
        run_dir, *options, "--strategy", "a1=noise:0.5 + sign-flip @ 12-", *LIES
    )


@pytest.fixture(scope="module")
def one_peer_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("one-peer") / "run"
    options = ["--agents", "5", "--topology", "one-peer-exponential", "--rounds", "18"]
    return run_dir, run_testbed(run_dir, *options, "--strategy", "a3=scale:3")


@pytest.fixture(scope="module")
def push_sum_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("push-sum") / "run"
    options = ["--agents", "4", "--topology", "directed-random:degree=2", "--rounds", "18"]
    return run_dir, run_testbed(run_dir, *options, "--strategy", "a3=scale:3")


@pytest.fixture(scope="module", params=ALGORITHMS)
def algorithm_run(request, tmp_path_factory):
    """With state and two exchanges a round; with an attested aggregate; with derived rows; with an
    outer step and velocity."""
    run_dir = tmp_path_factory.mktemp("algorithm") / "run"
    options = ["--agents", "3", "--topology", "ring", "--rounds", "18", "--algorithm"]
    return run_dir, run_testbed(run_dir, *options, *request.param, "--strategy", "a1=scale:3")


@pytest.fixture(scope="module", params=["ring", "directed-random:degree=2"])
def sized_run(request, tmp_path_factory):
    """Of shards that differ, and count by their samples."""
    run_dir = tmp_path_factory.mktemp("sized") / "run"
    options = ["--agents", "4", "--topology", request.param, "--rounds", "18"]
    return run_dir, run_testbed(
        run_dir, *options, "--weights", "samples", "--strategy", "a1=scale:3"
    )


def test_daemons_and_the_simulation_agree_where_agents_count_by_samples(sized_run):
    run_dir, summary = sized_run
    agree(run_dir, summary)
    assert summary["audit"] == "ok"
    assert len(set(summary["weights"].values())) == 4
    balances = summary["balances"]
    assert min(balances, key=balances.get) == "a1"


def test_daemons_and_the_simulation_agree_on_each_algorithm(algorithm_run):
    agree(*algorithm_run)


def test_float16_takes_half_the_bytes_and_costs_no_accuracy(tmp_path, capsys):
    """With a model whose payloads outweigh the statements."""
    words = ["--agents", "2", "--topology", "path", "--task", "digits:hidden=1024", "--rounds", "6"]
    half = run_testbed(tmp_path / "half", *words, "--codec", "float16")
    cluster = load_cluster(tmp_path / "half" / "cluster.toml")
    whole_bytes = 4 * cluster.task.parameters * cluster.rounds.rounds  # of float32's vectors alone
    assert max(half["bytes_sent"].values()) < 0.6 * whole_bytes
    whole = cluster.model_copy(
        update={"rounds": cluster.rounds.model_copy(update={"codec": "float32"})}
    )
    accuracy = run_vectorised(whole, {}).accuracy
    assert np.mean(list(accuracy.values())) - half["mean_accuracy"] < 0.005


RUNS = ["ring_run", "complete_run", "one_peer_run", "push_sum_run"]


@pytest.mark.parametrize("name", RUNS)
def test_daemons_and_the_vectorised_runtime_agree(name, request):
    agree(*request.getfixturevalue(name))


def agree(run_dir, summary):
    """Assert that a run of daemons came to what its simulation does."""
    cluster = load_cluster(run_dir / "cluster.toml")
    expected = run_vectorised(cluster, summary["strategies"])
    x, y = final_models(run_dir), expected.parameters.numpy()
    relative = np.linalg.norm(x - y, axis=1) / np.linalg.norm(y, axis=1)
    assert relative.max() < 1e-5
    # Each settlement of an edge may round the other way: at most one unit a window and neighbour.
    windows = -(-cluster.rounds.rounds // cluster.payments.window)
    for agent, balance in expected.balances.items():
        tolerance = windows * len(cluster.neighbours(agent))
        assert abs(balance - summary["balances"][agent]) <= tolerance
    assert sum(summary["balances"].values()) == 0
    assert min(summary["balances"].values()) < -100


def test_daemons_and_the_simulation_rate_and_trade_alike(tmp_path):
    """With one that does nothing, which gets less than the others and is told so."""
    options = [*RING[:4], "--rounds", "18", "--partition", "iid", "--rewards", "cgsv:beta=1"]
    summary = run_testbed(tmp_path / "run", *options, "--strategy", "a3=zero")
    cluster = load_cluster(tmp_path / "run" / "cluster.toml")
    simulation = Simulation(cluster, summary["strategies"], measured=True)
    for _ in range(17):
        simulation.step()
    expected = standings(simulation.shares())  # what is stated in the last round
    assert summary["rewards"].keys() == expected.keys()
    for agent, told in expected.items():
        assert summary["rewards"][agent]["share"] == told["share"]
        assert summary["rewards"][agent]["reputation"] == pytest.approx(told["reputation"])
    simulation.step()
    x, y = final_models(tmp_path / "run"), simulation.parameters.numpy()
    assert (np.linalg.norm(x - y, axis=1) / np.linalg.norm(y, axis=1)).max() < 1e-5
    assert summary["rewards"]["a3"]["share"] < 0.3 < summary["rewards"]["a1"]["share"]
    assert summary["audit"] == "ok"
    assert "given" in (tmp_path / "run" / "report.html").read_text()


def test_payments_do_not_touch_the_model(ring_run, tmp_path):
    free = run_testbed(tmp_path / "run", *RING, "--rule", "none")
    run_dir, _ = ring_run
    assert set(free["balances"].values()) == {0}
    np.testing.assert_array_equal(final_models(run_dir), final_models(tmp_path / "run"))


def test_no_sample_and_no_secret_is_left_outside_the_agents_own_directory(ring_run):
    run_dir, _ = ring_run
    for path in run_dir.rglob("*.key"):
        assert path.stat().st_mode & 0o077 == 0
        assert path.parts[-4:-2] == ("agents", path.parts[-3])
    shared = [path for path in run_dir.iterdir() if path.is_file()]
    assert {path.name for path in shared} == {"cluster.toml", "summary.json", "report.html"}
    assert "PRIVATE" not in (run_dir / "cluster.toml").read_text()


def test_the_summary_has_every_documented_field(ring_run):
    run_dir, summary = ring_run
    assert json.loads((run_dir / "summary.json").read_text()) == summary
    wanted = {"run_id", "rounds", "seed", "accuracy", "centralised_accuracy", "alone_accuracy"}
    wanted |= {"balances", "bytes_sent", "consensus_distance", "audit", "seconds"}
    assert wanted <= set(summary)
    assert summary["audit"] == "ok"
