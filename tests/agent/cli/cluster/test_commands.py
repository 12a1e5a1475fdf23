"""`candor cluster` writes files that check; checks find real mistakes and dead endpoints."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from candor.agent.cli.cluster.commands import command
from candor.agent.daemon import keys
from candor.agent.daemon.reachability import dial_all
from candor.agent.reports import terminal_graph
from candor.topologies.cluster.file import DEFAULT_RULE, Cluster, dump_cluster, load_cluster
from candor.topologies.specs.specs import ConfigurationError

NEW = ("new", "--task", "digits", "--run-id", "demo")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def error_of(*arguments: str | Path) -> str:
    error = run(*arguments).exception
    assert isinstance(error, ConfigurationError), error
    assert "\n" not in str(error)
    return str(error)


@pytest.fixture
def keys_root(tmp_path: Path) -> Path:
    for i in range(4):
        keys.generate(tmp_path / "keys" / f"a{i}")
    return tmp_path / "keys"


def new(keys_root: Path, *more: str | Path, port: int = 7000) -> Cluster:
    output = keys_root.parent / "c.toml"
    local = ("--agents", "4", "--base-port", str(port), "--keys-root", keys_root)
    result = run(*NEW, "--topology", "ring", *local, "-o", output, *more)
    assert result.exit_code == 0, (result.output, result.exception)
    return load_cluster(output)


def test_all_agents_of_one_host(keys_root: Path) -> None:
    cluster = new(keys_root)
    assert cluster.ids == ("a0", "a1", "a2", "a3")
    assert [entry.endpoint for entry in cluster.agents] == [
        f"tcp://127.0.0.1:{7000 + i}" for i in range(4)
    ]
    for entry in cluster.agents:
        public = keys.load_public(keys_root / entry.id)
        assert (entry.identity, entry.curve) == (public.identity.hex(), public.curve)
    assert cluster.neighbours("a0") == ("a1", "a3")
    assert cluster.task.parameters > 0


def test_every_setting_reaches_the_file(keys_root: Path) -> None:
    given = {
        "seed": 5,
        "rounds": 77,
        "partition": "dirichlet:0.5",
        "batch_size": 16,
        "step_size": 0.25,
        "step_decay": 0.5,
        "local_steps": 3,
        "momentum": 0.9,
        "deadline_s": 7.5,
        "start_deadline_s": 8.5,
        "rule": "norm:1e-4",
        "window": 4,
        "credit_limit": 123,
        "sketch_size": 64,
        "mixing": "max-degree",
    }
    flags = [(f"--{name.replace('_', '-')}", str(value)) for name, value in given.items()]
    cluster = new(keys_root, *[part for flag in flags for part in flag])
    sections = (cluster, cluster.task, cluster.algorithm, cluster.rounds)
    found: dict[str, Any] = {}
    for section in (*sections, cluster.payments, cluster.graph):
        found |= section.model_dump()
    assert {name: found[name] for name in given} == given


def test_the_seed_draws_the_model_and_the_graph(keys_root: Path) -> None:
    first, second = new(keys_root, "--seed", "1"), new(keys_root, "--seed", "2")
    assert first.task.model_digest != second.task.model_digest
    assert new(keys_root, "--seed", "1") == first


def test_the_arcs_of_a_file_are_edges_where_told(keys_root: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.csv"
    rows = [f"a{i},a{i + 1},Directed" for i in range(3)]
    drawn.write_text("\n".join(["Source,Target,Type", *rows]))
    graph = new(keys_root, "--topology", str(drawn), "--undirected").graph
    assert graph.edges == (("a0", "a1"), ("a1", "a2"), ("a2", "a3"))
    assert (graph.topology, graph.mixing) == (f"undirected:{drawn}", "metropolis-hastings")


def test_named_agents_take_their_places_in_order(keys_root: Path, tmp_path: Path) -> None:
    public = tmp_path / "p@th" / "bob.toml"
    public.parent.mkdir()
    public.write_text((keys_root / "a1" / keys.PUBLIC_FILE).read_text())
    named = [
        f"zoe={keys_root / 'a0'}@tcp://10.0.0.1:7000",
        f"bob={public}@tcp://[fe80::2]:7000",
        f"amy={keys_root / 'a2'}@tcp://amy.example.org:7000",
    ]
    output = tmp_path / "c.toml"
    agents = [part for text in named for part in ("--agent", text)]
    shown = run(*NEW, "--topology", "star", "-o", output, *agents, "--json")
    cluster = load_cluster(output)
    assert cluster.ids == ("zoe", "bob", "amy")
    assert cluster.neighbours("zoe") == ("amy", "bob")
    assert cluster.neighbours("bob") == ("zoe",)
    assert json.loads(shown.output)["fingerprint"] == cluster.fingerprint


def test_a_schedule_stands_in_the_file_under_the_agents_own_names(
    keys_root: Path, tmp_path: Path
) -> None:
    names, output = ("zoe", "bob", "amy"), tmp_path / "c.toml"
    named = [
        f"{name}={keys_root / f'a{i}'}@tcp://10.0.0.{i + 1}:7000" for i, name in enumerate(names)
    ]
    agents = [part for text in named for part in ("--agent", text)]
    words = (*NEW, "-o", output, *agents, "--topology")
    assert run(*words, "one-peer-exponential").exit_code == 0
    weights = load_cluster(output).round_weights
    assert weights.of(1).taken == {"zoe": {"amy": 0.5}, "bob": {"zoe": 0.5}, "amy": {"bob": 0.5}}
    assert weights.of(2).taken == {"zoe": {"bob": 0.5}, "bob": {"amy": 0.5}, "amy": {"zoe": 0.5}}
    assert weights.of(3).taken == weights.of(1).taken
    shown = run("show", output).output
    assert "schedule arcs" in shown
    assert "every 2 rounds the same" in shown
    assert "All rounds together:" in shown
    assert run(*words, "failing:base=ring,p=0.5").exit_code == 0
    cluster = load_cluster(output)
    assert cluster.graph.schedule == "failing:p=0.5,seed=0"
    assert "mixing metropolis-hastings, by chance" in run("show", output).output
    assert json.loads(run("show", output, "--json").output)["period"] is None
    assert len({len(cluster.round_weights.graph(t).edges) for t in range(1, 20)}) > 1
    assert run(*words, "directed-ring").exit_code == 0
    cluster = load_cluster(output)
    assert (cluster.graph.mixing, cluster.algorithm.name) == ("push-sum", "gradient-push")


def test_a_matrix_stands_in_the_file_itself(keys_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("0.5,0.2,0.3\n0.3,0.5,0.2\n0.2,0.3,0.5\n")
    cluster = new(keys_root, "--mixing", path, "--agents", "3")
    path.unlink()
    expected = [[0.5, 0.2, 0.3], [0.3, 0.5, 0.2], [0.2, 0.3, 0.5]]
    assert cluster.mixing_matrix(7) == pytest.approx(np.array(expected), abs=1e-12)
    assert cluster.graph.mixing == "given"


@pytest.mark.parametrize(
    ("algorithm", "mixing_name"),
    [("gradient-push", "metropolis-hastings"), ("decentralized-sgd", "push-sum")],
)
def test_push_sum_and_its_algorithm_go_together(
    keys_root: Path, tmp_path: Path, algorithm: str, mixing_name: str
) -> None:
    text = dump_cluster(new(keys_root))
    text = text.replace("decentralized-sgd", algorithm).replace("metropolis-hastings", mixing_name)
    path = tmp_path / "c.toml"
    path.write_text(text)
    assert "go together; use both or neither" in error_of("check", path)


def test_a_topology_file_knows_its_agents_by_name(keys_root: Path, tmp_path: Path) -> None:
    topology = tmp_path / "t.toml"
    topology.write_text(
        'topology = "line"\nmixing = "max-degree"\nagents = ["a0", "a1", "a2"]\n'
        'edges = [["a0", "a2"], ["a2", "a1"]]\n'
    )
    output = tmp_path / "c.toml"
    named = [
        f"{agent}={keys_root / agent}@tcp://10.0.0.{i}:1"
        for i, agent in enumerate(["a2", "a0", "a1"])
    ]
    agents = [part for text in named for part in ("--agent", text)]
    assert run(*NEW, "--topology", topology, "-o", output, *agents).exit_code == 0
    cluster = load_cluster(output)
    assert cluster.neighbours("a2") == ("a0", "a1")
    assert (cluster.graph.topology, cluster.graph.mixing) == (str(topology)[-500:], "max-degree")
    stranger = [*named[:2], f"x={keys_root / 'a3'}@tcp://10.0.0.9:1"]
    agents = [part for text in stranger for part in ("--agent", text)]
    assert "'a1' has no keys" in error_of(*NEW, "--topology", topology, "-o", output, *agents)


def test_a_topology_file_names_local_agents_too(keys_root: Path, tmp_path: Path) -> None:
    topology, output = tmp_path / "t.toml", tmp_path / "c.toml"
    topology.write_text('topology = "pair"\nagents = ["a3", "a1"]\nedges = [["a3", "a1"]]\n')
    local = ("--base-port", "7000", "--keys-root", keys_root)
    assert run(*NEW, "--topology", topology, *local, "-o", output).exit_code == 0
    assert load_cluster(output).ids == ("a3", "a1")


def test_a_graph_of_another_program_makes_a_cluster(keys_root: Path, tmp_path: Path) -> None:
    topology, output = tmp_path / "pair.edges", tmp_path / "c.toml"
    topology.write_text("a3 a1\n")
    local = ("--base-port", "7000", "--keys-root", keys_root)
    lazily = ("--mixing", "lazy")
    assert run(*NEW, "--topology", topology, *local, *lazily, "-o", output).exit_code == 0
    cluster = load_cluster(output)
    assert cluster.ids == ("a3", "a1")
    assert (cluster.graph.topology, cluster.graph.mixing) == (str(topology)[-500:], "lazy")
    assert cluster.mixing_matrix().tolist() == [[0.75, 0.25], [0.25, 0.75]]
    star = ("--topology", "networkx:star_graph,n=3")
    assert run(*NEW, *star, *local, "-o", output).exit_code == 0
    assert load_cluster(output).neighbours("a0") == ("a1", "a2", "a3")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rule", "nrom:1"], "nrom"),
        (["--partition", "dirichlt:0.5"], "dirichlt"),
        (["--task", "nothing"], "nothing"),
        (["--task", "no_such_module:Task"], "no_such_module"),
        (["--step-size", "0"], "algorithm: step_size: input should be greater than 0"),
        (["--momentum", "1"], "algorithm: momentum"),
        (["--window", "0"], "payments: window"),
        (["--rounds", "0"], "rounds: rounds"),
        (["--batch-size", "0"], "task: batch_size"),
        (["--run-id", "a b"], "run_id"),
        (["--base-port", "65534"], "tcp://127.0.0.1:65536"),
        (["--agents", "5"], "a4"),
        (["--topology", "failing:p=2"], "p must be a number from 0 to below 1"),
        (["--topology", "one-peer-exponential:x=1"], "unknown 'x'"),
        (["--topology", "directed-random:degree=4"], "degree must be a whole number from 1 to 3"),
        (["--topology", "round-robin:ring + no.edges"], "no.edges"),
        (["--topology", "one-peer-exponential", "--mixing", "best-constant"], "for one undirected"),
        (
            ["--topology", "directed-random:degree=2", "--mixing", "lazy"],
            "is directed; use push-sum",
        ),
        (["--mixing", "mean"], "unknown mixing 'mean'"),
        (["--mixing", "none.csv"], "none.csv"),
        (["--agent", "a0=x@tcp://h:1"], "leave out --agents"),
    ],
)
def test_a_mistake_writes_no_file(more: list[str], message: str, keys_root: Path) -> None:
    output = keys_root.parent / "c.toml"
    local = ("--agents", "4", "--base-port", "7000", "--keys-root", keys_root)
    assert message in error_of(*NEW, "--topology", "ring", *local, "-o", output, *more)
    assert not output.exists()


def test_a_seed_is_not_below_0() -> None:
    result = run(*NEW, "--topology", "ring", "-o", "c.toml", "--seed", "-1")
    assert result.exit_code == 2
    assert "'--seed': -1 is not in the range" in result.output


@pytest.mark.parametrize("text", ["a0", "a0=keys", "a0@tcp://h:1", "=k@tcp://h:1", "a0=@tcp://h:1"])
def test_an_agent_in_another_form_is_told(text: str, tmp_path: Path) -> None:
    output = tmp_path / "c.toml"
    message = error_of(*NEW, "--topology", "ring", "--agent", text, "-o", output)
    assert "ID=KEYS@ENDPOINT" in message


def test_agents_must_be_given_somehow(keys_root: Path, tmp_path: Path) -> None:
    output = tmp_path / "c.toml"
    lacking = error_of(*NEW, "--topology", "ring", "--agents", "4", "-o", output)
    assert "--agent ID=KEYS@ENDPOINT" in lacking


@contextmanager
def listening(cluster_ports: int) -> Iterator[list[int]]:
    """That many consecutive ports with a real listener each."""
    for base in range(20_000, 60_000, 97):
        with ExitStack() as stack:
            try:
                for i in range(cluster_ports):
                    listener = stack.enter_context(socket.socket())
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.bind(("127.0.0.1", base + i))
                    listener.listen()
            except OSError:
                continue
            yield [base + i for i in range(cluster_ports)]
            return
    raise AssertionError("no free ports")


def test_a_check_dials_every_endpoint(keys_root: Path) -> None:
    with listening(4) as ports:
        cluster = new(keys_root, port=ports[0])
        result = run("check", keys_root.parent / "c.toml")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert cluster.fingerprint in lines[0]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["open", f"a{i}", f"tcp://127.0.0.1:{port}"] for i, port in enumerate(ports)
    ]


def test_a_check_names_who_does_not_answer(keys_root: Path) -> None:
    file = keys_root.parent / "c.toml"
    with listening(3) as ports:  # nobody listens for a3
        new(keys_root, port=ports[0])
        result = run("check", file, "--no-task")
        assert result.exit_code == 1
        assert f"FAIL  a3 tcp://127.0.0.1:{ports[0] + 3}: Connection refused" in result.output
        shown = json.loads(run("check", file, "--no-task", "--json").output)
        assert not shown["ok"]
        assert [entry["reason"] for entry in shown["endpoints"]] == [
            None,
            None,
            None,
            "Connection refused",
        ]
        assert run("check", file, "--no-task", "--id", "a1").exit_code == 0  # a3 is no neighbour
        assert run("check", file, "--no-task", "--id", "a0").exit_code == 1


def test_a_check_without_dialling_needs_nobody(keys_root: Path) -> None:
    new(keys_root)
    result = run("check", keys_root.parent / "c.toml", "--no-dial", "--json")
    assert result.exit_code == 0
    assert json.loads(result.output)["endpoints"] == []


def test_a_check_compares_keys(keys_root: Path) -> None:
    new(keys_root)
    file = keys_root.parent / "c.toml"
    options = ("--no-dial", "--no-task", "--keys")
    assert run("check", file, "--id", "a1", *options, keys_root / "a1").exit_code == 0
    wrong = error_of("check", file, "--id", "a1", *options, keys_root / "a2")
    assert "not the one of agent 'a1'" in wrong
    assert "--id" in error_of("check", file, *options, keys_root / "a2")
    (keys_root / "a1" / keys.IDENTITY_FILE).chmod(0o644)
    exposed = error_of("check", file, "--id", "a1", *options, keys_root / "a1")
    assert "chmod 600" in exposed


def test_a_check_names_a_key_that_was_made_anew(keys_root: Path) -> None:
    new(keys_root)
    for name in (keys.CURVE_FILE, keys.PUBLIC_FILE):
        (keys_root / "a1" / name).unlink()
    other = keys.generate(keys_root / "other")
    (keys_root / "a1" / keys.CURVE_FILE).touch(mode=0o600)
    (keys_root / "a1" / keys.CURVE_FILE).write_text(other.curve_secret)
    arguments = ("--id", "a1", "--keys", keys_root / "a1", "--no-dial", "--no-task")
    assert "its curve key is not the one" in error_of(
        "check", keys_root.parent / "c.toml", *arguments
    )


@pytest.mark.parametrize(
    ("old", "new_text", "message"),
    [
        ("seed = 0", "seed = 1", "builds another initial model"),
        ('"digits"', '"nothing"', "nothing"),
        (f'"{DEFAULT_RULE}"', '"norm:cheap"', "cheap"),
        ('"iid"', '"idd"', "idd"),
        ("rounds = 100", "rounds = 0", "rounds.rounds"),
    ],
)
def test_a_check_refuses_what_cannot_run(
    old: str, new_text: str, message: str, keys_root: Path
) -> None:
    new(keys_root)
    file = keys_root.parent / "c.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new_text, 1))
    assert message in error_of("check", file, "--no-dial")


def test_an_unknown_agent_or_file_is_told(keys_root: Path) -> None:
    new(keys_root)
    file = keys_root.parent / "c.toml"
    assert "has no agent 'zed'" in error_of("check", file, "--id", "zed", "--no-dial", "--no-task")
    assert "No such file" in error_of("check", keys_root / "none.toml")
    assert "No such file" in error_of("show", keys_root / "none.toml")


def test_a_silent_endpoint_holds_nobody_up() -> None:
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(8):  # fill the queue of a listener that accepts nobody
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        silent = f"tcp://127.0.0.1:{full.getsockname()[1]}"
        started_s = monotonic()
        answers = dial_all([silent, "tcp://127.0.0.1:1"], timeout_s=1)
        assert monotonic() - started_s < 10
    assert answers[silent].reason == "no answer within 1 s"
    assert answers["tcp://127.0.0.1:1"].reason == "Connection refused"


def test_an_unknown_host_is_told_in_the_resolvers_words() -> None:
    (answer,) = dial_all(["tcp://no-such-host.invalid:7000"], timeout_s=5).values()
    assert answer.reason is not None


def test_show_tells_a_machine_everything(keys_root: Path) -> None:
    cluster = new(keys_root)
    shown = json.loads(run("show", keys_root.parent / "c.toml", "--json").output)
    assert shown["fingerprint"] == cluster.fingerprint
    assert shown["dials"] == {
        "a0": ["a1", "a3"],
        "a1": ["a0", "a2"],
        "a2": ["a1", "a3"],
        "a3": ["a0", "a2"],
    }
    assert shown["spectral_gap"] == pytest.approx(2 / 3)
    kept = {name: shown[name] for name in Cluster.model_fields}
    assert Cluster.model_validate(kept).fingerprint == cluster.fingerprint


def test_show_tells_a_person_who_dials_whom(keys_root: Path) -> None:
    cluster = new(keys_root)
    output = run("show", keys_root.parent / "c.toml").output
    assert cluster.fingerprint in output
    assert "a0  tcp://127.0.0.1:7000  dials a1 a3" in output
    assert "step_size 0.4" in output
    assert "\n".join(terminal_graph.drawn(cluster.networkx_graph())) in output
    assert "rounds the same" not in output


@pytest.mark.parametrize("name", ["new", "check", "show"])
def test_every_subcommand_helps_with_an_example(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"candor cluster {name}" in result.output


def test_settings_that_show_records_are_warned_of(keys_root: Path, tmp_path: Path) -> None:
    output = tmp_path / "c.toml"
    local = ("--base-port", "7000", "--keys-root", keys_root, "--topology", "ring", "--agents", 4)
    words = (*NEW, "-o", output, *local, "--batch-size", 1, "--local-steps", 1)
    made = run(*words)
    assert made.stderr.startswith("warning: an update is of 1 sample (")
    checked = run("check", output, "--no-dial", "--no-task")
    assert checked.stderr == made.stderr
    shown = run("check", output, "--no-dial", "--no-task", "--json")
    assert json.loads(shown.output)["warnings"] == [made.stderr.removeprefix("warning: ").strip()]
    assert run(*words[:-4]).stderr == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--aggregator", "rfa"), "warning: aggregator rfa is to withstand no Byzantine neighbour"),
        (("--max-byzantine", 1), "warning: max_byzantine 1 with plain mixing, which withstands"),
        (("--aggregator", "rfa", "--max-byzantine", 1), ""),
    ],
)
def test_what_withstands_nobody_is_warned_of(
    keys_root: Path, tmp_path: Path, words: tuple[str | int, ...], told: str
) -> None:
    output = tmp_path / "c.toml"
    local = ("--base-port", "7000", "--keys-root", keys_root, "--topology", "ring", "--agents", 4)
    made = run(*NEW, "-o", output, *local, *map(str, words))
    assert made.exit_code == 0
    assert made.stderr.startswith(told)
    assert bool(made.stderr) == bool(told)
    assert run("check", output, "--no-dial", "--no-task").stderr == made.stderr


def test_a_bond_beyond_what_an_edge_may_owe_is_warned_of(keys_root: Path, tmp_path: Path) -> None:
    output = tmp_path / "c.toml"
    local = ("--base-port", "7000", "--keys-root", keys_root, "--topology", "ring", "--agents", 4)
    shown = ("--replay", "--disclose", "--credit-limit", "5000000", "--bond")
    made = run(*NEW, "-o", output, *local, *shown, "5000001")
    assert made.exit_code == 0, made.output
    assert made.stderr.startswith("warning: bond 5.000001 is more than may be owed on an edge, 5.0")
    assert run("check", output, "--no-dial", "--no-task").stderr == made.stderr
    assert run(*NEW, "-o", tmp_path / "d.toml", *local, *shown, "5000000").stderr == ""


def test_a_file_below_an_aggregators_breakdown_point_is_not_valid(keys_root: Path) -> None:
    new(keys_root, "--aggregator", "rfa", "--max-byzantine", "1")
    path = keys_root.parent / "c.toml"
    path.write_text(path.read_text().replace("max_byzantine = 1", "max_byzantine = 2"))
    error = error_of("check", path, "--no-dial", "--no-task")
    assert error.startswith(f"{path}: aggregator rfa: ")
    assert "a0 has 2" in error


def test_settings_that_may_be_left_out_are_in_the_file_where_they_are_given(
    keys_root: Path,
) -> None:
    plain = new(keys_root).algorithm
    optional = ("local_epochs", "local_seconds", "outer_step", "outer_momentum", "aggregator")
    assert all(getattr(plain, name) is None for name in optional)
    options = ("--algorithm", "diloco", "--local-epochs", 2, "--outer-momentum", 0.5)
    given = new(keys_root, *map(str, options))
    assert (given.algorithm.local_epochs, given.algorithm.outer_momentum) == (2, 0.5)
    path = keys_root.parent / "c.toml"
    assert "local_seconds" not in path.read_text()
    shown = run("show", path).output
    assert "local_epochs 2, outer_momentum 0.5" in shown
    assert "None" not in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--outer-step", 0.7), "outer_step is of algorithm 'diloco', and this is 'decentral"),
        (("--algorithm", "diloco", "--outer-momentum", 1), "algorithm: outer_momentum: "),
        (("--local-seconds", 0), "algorithm: local_seconds: "),
        (("--local-epochs", 0), "algorithm: local_epochs: "),
    ],
)
def test_settings_of_local_phases_out_of_range_are_one_line(
    keys_root: Path, words: tuple[str | float, ...], told: str
) -> None:
    local = ("--agents", "4", "--base-port", "7000", "--keys-root", keys_root)
    output = keys_root.parent / "c.toml"
    assert told in error_of(*NEW, "--topology", "ring", *local, "-o", output, *map(str, words))
