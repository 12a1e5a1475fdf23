"""The cluster workflow with real daemons: join, run, change members; revisions never mix."""

import json
import shutil
import socket
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from candor.agent.cli import main as cli
from candor.agent.daemon.metrics import read_metrics
from candor.agent.daemon.status import read_status
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.agent.testbed.nursery import Nursery
from candor.agent.testbed.testbed import free_ports
from candor.topologies.cluster.file import load_cluster

RUN_S = 240
EXAMPLES = Path(__file__).parents[2] / "examples"
FIRST, SECOND = ("alice", "bob", "carol"), ("alice", "bob", "dave")
pytestmark = pytest.mark.e2e


def has_ipv6_loopback() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def candor(*words: str | Path) -> str:
    """What a command line prints, run in this process as the entry point does."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = cli.run([str(word) for word in words])
    assert code == 0, err.getvalue()
    return out.getvalue()


def run_all(
    nursery: Nursery, root: Path, daemons: Mapping[str, tuple[Path, Path]], *more: str | Path
) -> dict[str, tuple[int, str]]:
    """Exit code and standard error of each agent's daemon, given its cluster file and directory."""
    running, told = {}, {agent: root / f"{agent}.stderr" for agent in daemons}
    try:
        for agent, (file, data) in daemons.items():
            words = ["agent", "--cluster", file, "--id", agent, "--keys", root / "keys" / agent]
            words += ["--data-dir", data, "--threads", "1", *more]
            with told[agent].open("wb") as errors:
                running[agent] = nursery.start([*map(str, words)], errors.fileno(), {})
        codes = {agent: process.wait(RUN_S) for agent, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
    return {agent: (code, told[agent].read_text()) for agent, code in codes.items()}


def audit(root: Path, agents: Mapping[str, Path], cluster: Path) -> str:
    """The audit of what these directories hold."""
    run_dir = root / "audit"
    shutil.rmtree(run_dir, ignore_errors=True)
    for agent, data in agents.items():
        shutil.copytree(data / "ledger", run_dir / "agents" / agent / "ledger")
    shutil.copy(cluster, run_dir / "cluster.toml")
    return candor("ledger", "audit", run_dir)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Keys, and requests of four agents whose addresses are of every kind."""
    ports = iter(free_ports(5))
    public = tmp_path / "keys" / "organiser" / "public.toml"
    candor("keygen", public.parent)
    second = "[::1]" if has_ipv6_loopback() else "127.0.0.1"
    places = {
        "alice": [f"tcp://127.0.0.1:{next(ports)}"],
        # Nobody ever listens at the first one: bob is behind it for some and not for others.
        "bob": [f"tcp://127.0.0.1:{next(ports)}", f"tcp://{second}:{next(ports)}"],
        "carol": [f"tcp://localhost:{next(ports)}"],
        "dave": [f"tcp://127.0.0.1:{next(ports)}"],
    }
    for agent, endpoints in places.items():
        candor("keygen", tmp_path / "keys" / agent)
        words = [word for place in endpoints for word in ("--endpoint", place)]
        words += ["--bind", endpoints[-1]] if agent == "bob" else []
        candor(
            "cluster", "request", tmp_path / "keys" / agent, "--id", agent, *words,
            "--organiser", public, "-o", tmp_path / f"{agent}.request.toml",
        )  # fmt: skip
    return tmp_path


def test_members_change_and_the_ledgers_of_both_revisions_hold(
    nursery: Nursery, root: Path
) -> None:
    one, two, three = (root / f"cluster-{number}.toml" for number in (1, 2, 3))
    sign = ("--sign-with", root / "keys" / "organiser", "-o")
    requests = [root / f"{agent}.request.toml" for agent in FIRST]
    candor(
        "cluster", "new", *requests, *sign, one, "--topology", "one-peer-exponential",
        "--task", "digits", "--run-id", "spring", "--rounds", "4", "--window", "2",
        "--start-deadline-s", "60",
    )  # fmt: skip
    data = {agent: root / "data" / agent for agent in (*FIRST, "dave")}
    ended = run_all(nursery, root, {agent: (one, data[agent]) for agent in FIRST})
    assert all(code == 0 for code, _ in ended.values()), ended
    assert "ok" in audit(root, {agent: data[agent] for agent in FIRST}, one)

    candor("cluster", "remove", one, "carol", *sign, two)
    # Alice leaves what all have learned to the next revision, dave among them.
    model = shutil.copy(data["alice"] / "model.safetensors", root / "learned.safetensors")
    learned = read_status(data["alice"]).test_accuracy
    change = ("--topology", "directed-ring", "--initial", model, "--rounds", "2")
    candor("cluster", "add", two, root / "dave.request.toml", *sign, three, *change)
    assert (load_cluster(two).graph.schedule, load_cluster(two).graph.mixing) == (
        "arcs",
        "metropolis-hastings",
    )
    assert load_cluster(three).graph.mixing == "push-sum"
    ended = run_all(
        nursery, root, {agent: (three, data[agent]) for agent in SECOND}, "--initial", model
    )
    assert all(code == 0 for code, _ in ended.values()), ended
    assert read_status(data["dave"]).test_accuracy >= learned - 0.05
    assert "ledgers_moved" in ended["bob"][1]
    assert "ok" in audit(root, {agent: data[agent] for agent in SECOND}, three)
    old = {"carol": data["carol"]} | {a: data[a] / "revision-1" for a in ("alice", "bob")}
    assert "ok" in audit(root, old, data["bob"] / "revision-1" / "cluster.toml")

    # Nobody goes back, whoever hands out the old file again.
    words = ["agent", "--cluster", one, "--id", "alice", "--keys", root / "keys" / "alice"]
    with redirect_stderr(StringIO()) as told:
        assert cli.run([str(word) for word in (*words, "--data-dir", data["alice"])]) == 3
    assert "has gone on from revision 1" in told.getvalue()


def test_daemons_of_two_revisions_refuse_each_other_and_say_why(
    nursery: Nursery, root: Path
) -> None:
    one, two = root / "cluster-1.toml", root / "cluster-2.toml"
    sign = ("--sign-with", root / "keys" / "organiser", "-o")
    requests = [root / f"{agent}.request.toml" for agent in ("alice", "bob")]
    candor(
        "cluster", "new", *requests, *sign, one, "--topology", "path", "--task", "digits",
        "--run-id", "spring", "--rounds", "4", "--start-deadline-s", "15",
    )  # fmt: skip
    candor("cluster", "add", one, root / "dave.request.toml", *sign, two, "--topology", "star")
    ended = run_all(nursery, root, {"bob": (two, root / "new"), "alice": (one, root / "old")})
    code, told = ended["alice"]
    assert code == 2  # all of its neighbours have another file
    assert "alice has revision 1 " in told
    code, told = ended["bob"]  # waits for alice to be started with its file
    assert "bob has revision 2 " in told
    assert code == 1
    assert "and is waited for" in told
    for _, told in ended.values():
        assert "cluster files differ" in told
        assert "alice needs revision 2" in told
        assert "Traceback" not in told


def test_members_change_while_the_others_run(tmp_path: Path) -> None:
    """The example's plan: of a ring of six one leaves and another joins, nobody is started anew."""
    place, plan = tmp_path / "run", EXAMPLES / "churn.toml"
    words = ["--agents", "6", "--topology", "ring", "--task", "digits", "--rounds", "112"]
    words += ["--deadline-s", "10", "--evaluate-every", "0", "--strategy", "a4=scale:3"]
    candor("testbed", *words, "--faults", plan, "--run-dir", place)
    summary = json.loads((place / "summary.json").read_text())
    assert summary["audit"] == "ok"
    (last,), (first,) = summary["left"].values(), summary["joined"].values()
    assert first == last + 1
    assert last % 16 == 0
    cluster = load_cluster(place / "cluster.toml")
    assert cluster.ids == ("a0", "a1", "a6", "a3", "a4", "a5")
    for agent in cluster.ids:
        assert read_status(place / "agents" / agent).state == "done"
        events = (place / "agents" / agent / "log.jsonl").read_text()
        assert "refused" not in events.replace("peer_refused", "")
        assert events.count('"started"') == (2 if agent != "a6" else 1)
    lines = read_metrics(place / "agents" / "a0" / "metrics.csv")
    assert [line.round for line in lines] == [*range(1, 113)]
    assert summary["balances"]["a4"] < 0  # it had lied before the change, and it has not forgotten
    _, audit = audit_run_directory(place)
    windows = {(edge.lo, edge.hi): edge.windows for edge in audit.edges}
    assert windows["a1", "a2"] <= last // 16 < windows["a4", "a5"]
