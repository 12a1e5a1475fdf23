"""The way of a file: keys, join requests, a signed file, checks, agents that join and leave."""

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import networkx as nx
import numpy as np
import pytest
from safetensors.torch import save_file

from candor.agent.cli import main as cli
from candor.agent.daemon import keys, organisers
from candor.agent.daemon.reachability import greet_all
from candor.agent.learning.initial import initial_parameters
from candor.agent.learning.learner import Learner
from candor.agent.tasks import resolve_task
from candor.agent.tasks.partition import Shard
from candor.agent.testbed.testbed import free_ports
from candor.network.transport import PeerAddress
from candor.network.zeromq.options import Route
from candor.network.zeromq.probe import Target, shake_hands
from candor.network.zeromq.transport import ZeroMqTransport
from candor.topologies.cluster.file import Cluster, load_cluster, model_digest

IDS = ("alice", "bob", "carol")


class Candor:
    """The command line, run in a directory with keys of an organiser and three agents."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._capsys = root, capsys

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = cli.run([str(word) for word in words])
        return (code, *self._capsys.readouterr())

    def done(self, *words: str | Path) -> str:
        code, out, err = self.run(*words)
        assert code == 0, err
        return out

    def refused(self, code: int, *words: str | Path) -> str:
        found, _, err = self.run(*words)
        assert found == code, err
        assert err.startswith("candor: error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err

    def request(
        self,
        agent: str,
        *endpoints: str,
        organiser: str = "organiser",
        declared: tuple[str | int, ...] = (),
    ) -> Path:
        if not (self.root / "keys" / agent).exists():
            self.done("keygen", self.root / "keys" / agent)
        path = self.root / f"{agent}.request.toml"
        places = [word for place in endpoints for word in ("--endpoint", place)]
        public = self.root / "keys" / organiser / "public.toml"
        shared = (*map(str, declared), "--organiser", public, "-o", path)
        self.done("cluster", "request", self.root / "keys" / agent, "--id", agent, *places, *shared)
        return path

    def sign(self, *words: str | Path, topology: str | Path = "ring") -> Cluster:
        """`cluster new`, `add` or `remove` with the organiser's keys."""
        output, draft = self.root / "cluster.toml", self.root / "next.toml"
        what = ("--sign-with", self.root / "keys" / "organiser", "-o", draft)
        if words[0] == "new":
            what += ("--topology", topology, "--task", "digits", "--run-id", "spring")
        self.done("cluster", *words, *what)
        draft.replace(output)
        return load_cluster(output)


@pytest.fixture
def candor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Candor:
    made = Candor(tmp_path, capsys)
    made.done("keygen", tmp_path / "keys" / "organiser")
    return made


@pytest.fixture
def requests(candor: Candor) -> list[Path]:
    return [
        candor.request(agent, f"tcp://{agent}.example:7000", f"tcp://[2001:db8::{i + 1}]:7000")
        for i, agent in enumerate(IDS)
    ]


def test_from_keys_to_a_signed_file(candor: Candor, requests: list[Path], tmp_path: Path) -> None:
    cluster = candor.sign("new", *requests)
    public = keys.load_public(tmp_path / "keys" / "organiser")
    assert cluster.ids == IDS
    assert cluster.revision is not None
    assert (cluster.revision.number, cluster.revision.organiser) == (1, public.identity.hex())
    assert cluster.agent("bob").endpoints == ("tcp://bob.example:7000", "tcp://[2001:db8::2]:7000")
    out = candor.done(
        "cluster", "check", tmp_path / "cluster.toml", "--id", "bob", "--no-dial",
        "--keys", tmp_path / "keys" / "bob", "--organiser", tmp_path / "keys" / "organiser",
    )  # fmt: skip
    assert f"revision 1, signed by organiser {public.identity.hex()}" in out
    assert "all 3 agents signed their entries" in out
    shown = candor.done("cluster", "show", tmp_path / "cluster.toml")
    assert "tcp://bob.example:7000, tcp://[2001:db8::2]:7000" in shown
    assert "revision 1 by organiser" in shown


@pytest.mark.parametrize("now_s", [0.0, 4e9])
def test_a_check_does_not_depend_on_the_clock(
    now_s: float,
    candor: Candor,
    requests: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    candor.sign("new", *requests)
    monkeypatch.setattr("time.time", lambda: now_s)
    words = ("--id", "bob", "--keys", tmp_path / "keys" / "bob", "--no-dial")
    candor.done("cluster", "check", tmp_path / "cluster.toml", *words)


def test_agents_join_move_and_leave(candor: Candor, requests: list[Path], tmp_path: Path) -> None:
    file, old = tmp_path / "cluster.toml", tmp_path / "old.toml"
    first = candor.sign("new", *requests)
    old.write_text(file.read_text())
    before = tmp_path / "before.toml"
    before.write_text(requests[1].read_text())
    second = candor.sign("add", file, candor.request("dave", "tcp://dave.example:7000"))
    assert (second.ids, second.neighbours("dave")) == ((*IDS, "dave"), ("alice", "carol"))
    assert second.revision is not None
    assert (second.revision.number, second.revision.previous) == (2, first.fingerprint)
    moved = candor.sign("add", file, candor.request("bob", "tcp://new.example:7000"))
    assert moved.agent("bob").endpoints == ("tcp://new.example:7000",)
    replayed = candor.refused(
        2, "cluster", "add", file, before, "--sign-with", tmp_path / "keys" / "organiser",
        "-o", tmp_path / "x.toml",
    )  # fmt: skip
    assert "the request of agent 'bob' is not later than the one that is in" in replayed
    third = candor.sign("remove", file, "alice", "carol", "--topology", "path")
    assert third.ids == ("bob", "dave")
    assert third.revision is not None
    assert third.revision.number == 4
    check = ("cluster", "check", "--no-dial", "--no-task")
    told = candor.done(*check, file, "--previous", old)
    assert f"later than {old}: revisions 2 to 3 are between" in told
    replayed = candor.refused(3, *check, old, "--previous", file)
    assert "it is revision 1, and revision 4 was in use already" in replayed


@pytest.mark.parametrize(
    ("topology", "schedule", "mixing"),
    [
        ("complete", "fixed", "metropolis-hastings"),
        ("one-peer-exponential", "arcs", "metropolis-hastings"),
        ("random-matching", "pairs:seed=0", "metropolis-hastings"),
        ("rotating:base=complete,parts=2", "turns", "metropolis-hastings"),
        ("failing:base=ring,p=0.25", "failing:p=0.25,seed=0", "metropolis-hastings"),
        ("round-robin:ring + star", "turns", "metropolis-hastings"),
        ("directed-ring", "arcs", "push-sum"),
        ("directed-random:degree=2", "arcs", "push-sum"),
        ("networkx:cycle_graph,n=3", "fixed", "metropolis-hastings"),
    ],
)
def test_graph_and_weights_of_every_round_are_signed(
    topology: str,
    schedule: str,
    mixing: str,
    candor: Candor,
    requests: list[Path],
    tmp_path: Path,
) -> None:
    file = tmp_path / "cluster.toml"
    first = candor.sign("new", *requests, topology=topology)
    assert (first.graph.schedule, first.graph.mixing) == (schedule, mixing)
    assert first.graph.topology == topology
    check = ("cluster", "check", file, "--no-dial", "--organiser", tmp_path / "keys" / "organiser")
    candor.done(*check)
    assert f"schedule {schedule}, mixing {mixing}" in candor.done("cluster", "show", file)
    if "networkx" in topology:
        return
    second = candor.sign("add", file, candor.request("dave", "tcp://dave.example:7000"))
    assert (second.graph.schedule, second.graph.mixing) == (schedule, mixing)
    assert second.neighbours("dave")
    candor.done(*check)


def test_another_seed_of_a_schedule_is_not_what_was_signed(
    candor: Candor, requests: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "cluster.toml"
    candor.sign("new", *requests, topology="failing:base=ring,p=0.25")
    file.write_text(file.read_text().replace("p=0.25,seed=0", "p=0.25,seed=1"))
    assert "did not sign this" in candor.refused(3, "cluster", "check", file, "--no-dial")


def test_revisions_change_topology_and_mixing(
    candor: Candor, requests: list[Path], tmp_path: Path
) -> None:
    file, arcs, matrix = (tmp_path / name for name in ("cluster.toml", "arcs.graphml", "w.csv"))
    nx.write_graphml(nx.DiGraph([("alice", "bob"), ("bob", "carol"), ("carol", "alice")]), arcs)
    candor.sign("new", *requests)
    second = candor.sign("add", file, requests[0], "--topology", arcs)
    assert (second.graph.mixing, second.algorithm.name) == ("push-sum", "gradient-push")
    assert second.round_weights.of(1).takers["alice"] == {"bob"}
    matrix.write_text("0.5,0.2,0.3\n0.3,0.5,0.2\n0.2,0.3,0.5\n")
    third = candor.sign("add", file, requests[0], "--topology", "ring", "--mixing", matrix)
    assert (third.graph.mixing, third.algorithm.name) == ("given", "decentralized-sgd")
    assert third.mixing_matrix()[0].tolist() == pytest.approx([0.5, 0.2, 0.3])
    organiser = ("--sign-with", tmp_path / "keys" / "organiser", "-o", tmp_path / "x.toml")
    told = candor.refused(2, "cluster", "remove", file, "bob", *organiser)
    assert "give another with --mixing NAME|FILE" in told


def test_a_revision_changes_rounds_and_the_initial_model(
    candor: Candor, requests: list[Path], tmp_path: Path
) -> None:
    before = candor.sign("new", *requests)
    file, model = tmp_path / "cluster.toml", tmp_path / "model.safetensors"
    assert "nothing would change" in candor.refused(
        2, "cluster", "amend", file, "--rounds", str(before.rounds.rounds), "-o", model,
        "--sign-with", tmp_path / "keys" / "organiser",
    )  # fmt: skip
    digits = resolve_task("digits")
    trained = initial_parameters(digits, before.seed) + 1.0
    tensors = Learner(digits, [Shard(0, 1, "iid")], before.algorithm, 32, 0).state_dict(trained)
    save_file(dict(tensors), model)
    after = candor.sign("amend", file, "--rounds", "7", "--initial", model)
    assert after.rounds == before.rounds.model_copy(update={"rounds": 7})
    assert after.task.model_digest == model_digest(trained.numpy())
    changed = {"rounds", "task", "revision", "signature"}
    assert before.model_dump(exclude=changed) == after.model_dump(exclude=changed)
    check = ("cluster", "check", file, "--no-dial")
    assert "give --initial FILE" in candor.refused(2, *check)
    candor.done(*check, "--initial", model)
    # What is not changed stays: this model is the one of later revisions, too.
    assert candor.sign("remove", file, "carol").task == after.task


def test_a_wrong_organiser_is_refused(candor: Candor, requests: list[Path], tmp_path: Path) -> None:
    candor.done("keygen", tmp_path / "keys" / "mallory")
    file, mallory = tmp_path / "cluster.toml", tmp_path / "keys" / "mallory"
    candor.sign("new", *requests)
    check = ("cluster", "check", file, "--no-dial", "--no-task", "--organiser", mallory)
    assert "and not by" in candor.refused(3, *check)
    out = ("-o", tmp_path / "x.toml")
    new = ("--topology", "ring", "--task", "digits", "--run-id", "x")
    told = candor.refused(2, "cluster", "new", *requests, "--sign-with", mallory, *new, *out)
    assert "'alice' is for the organiser" in told
    told = candor.refused(2, "cluster", "remove", file, "bob", "--sign-with", mallory, *out)
    assert "only the same one may go on" in told
    assert not (tmp_path / "x.toml").exists()


def stripped(signed: str) -> str:
    """A signed file without all that was signed, and with another seed."""
    head, _, rest = signed.partition("[revision]\n")
    unsigned = ("join", "serial", "signature")
    lines = (head + rest[rest.index("[graph]") :]).replace("seed = 0", "seed = 1").splitlines()
    return "\n".join(line for line in lines if line.split(" ")[0] not in unsigned)


def test_keys_that_asked_an_organiser_take_no_file_of_anybody_else(
    candor: Candor, requests: list[Path], tmp_path: Path
) -> None:
    file, alice = tmp_path / "cluster.toml", tmp_path / "keys" / "alice"
    candor.sign("new", *requests)
    file.write_text(stripped(file.read_text()))
    assert load_cluster(file).revision is None
    check = ("cluster", "check", file, "--no-dial", "--no-task", "--id", "alice", "--keys", alice)
    daemon = ("agent", "--cluster", file, "--id", "alice", "--keys", alice)
    daemon = (*daemon, "--data-dir", tmp_path / "data")
    asked = keys.load_public(tmp_path / "keys" / "organiser").identity.hex()
    for words in (check, daemon):
        told = candor.refused(3, *words)
        assert f"is not signed, and not by {asked[:12]}…, whom {alice} has asked" in told
    assert not (tmp_path / "data").exists()
    # Keys that asked nobody take it, unless they are told whom to trust.
    (alice / organisers.FILE_NAME).unlink()
    candor.done(*check)
    organiser = ("--organiser", tmp_path / "keys" / "organiser")
    for words in (check, daemon):
        assert "is not signed, and not by" in candor.refused(3, *words, *organiser)


def test_a_check_tells_where_a_revision_stands(
    candor: Candor, requests: list[Path], tmp_path: Path
) -> None:
    sign = ("--sign-with", tmp_path / "keys" / "organiser", "-o")
    candor.sign("new", *requests)
    files = [tmp_path / "cluster.toml", *(tmp_path / f"{number}.toml" for number in (2, 3, 4))]
    for old, new, agent in zip(files, files[1:], IDS, strict=False):
        path = candor.request(agent, f"tcp://new.{agent}.example:7000")
        candor.done("cluster", "add", old, path, *sign, new)
    for new, told in (
        (0, "the same revision as"),
        (1, "follows"),
        (2, "later than {}: revision 2 is between"),
        (3, "later than {}: revisions 2 to 3 are between"),
    ):
        words = ("cluster", "check", files[new], "--previous", files[0], "--no-dial", "--no-task")
        told = told.format(files[0]) if "{}" in told else f"{told} {files[0]}"
        assert told in candor.done(*words).splitlines()


def test_the_file_to_go_on_from_is_not_written_over(
    candor: Candor, requests: list[Path], tmp_path: Path
) -> None:
    candor.sign("new", *requests)
    file, link = tmp_path / "cluster.toml", tmp_path / "link.toml"
    link.symlink_to(file)
    before = file.read_text()
    for output in (file, link):
        told = candor.refused(
            2, "cluster", "remove", file, "carol", "-o", output,
            "--sign-with", tmp_path / "keys" / "organiser",
        )  # fmt: skip
        assert "is the file to go on from" in told
    assert file.read_text() == before


def test_mistakes_get_one_line_and_write_nothing(
    candor: Candor, requests: list[Path], tmp_path: Path
) -> None:
    file, output = tmp_path / "cluster.toml", tmp_path / "x.toml"
    organiser = ("--sign-with", tmp_path / "keys" / "organiser", "-o", output)
    candor.sign("new", *requests)
    new = ("cluster", "new", "--topology", "ring", "--task", "digits", "--run-id", "x")
    for words, told in (
        ((*new, *requests, "-o", output), "go together"),
        ((*new, *organiser), "go together"),
        ((*new, *requests, *organiser, "--base-port", "7000"), "leave out"),
        ((*new, *requests, *organiser, "--agent", "a=k@tcp://h:1"), "choose one"),
        ((*new, *requests, requests[0], *organiser), "two requests of agent 'alice'"),
        (("cluster", "add", file, requests[0], *organiser), "nothing would change"),
        (("cluster", "remove", file, "zed", *organiser), "has no agent 'zed'"),
        (("cluster", "remove", file, *IDS, *organiser), "nobody would be left"),
        (
            ("cluster", "remove", file, "bob", *organiser, "--topology", "torus:rows=3,cols=3"),
            "torus",
        ),
    ):
        assert told in candor.refused(2, *words)
    request = ("cluster", "request", tmp_path / "keys" / "alice", "--id", "alice", "-o", output)
    for endpoint in ("alice.example:7000", "tcp://*:7000", "tcp://h:70000", "tcp://[::1:7"):
        words = (*request, "--organiser", "22" * 32, "--endpoint", endpoint)
        assert "endpoint" in candor.refused(2, *words)
    place = ("--endpoint", "tcp://h:1")
    assert "public keys" in candor.refused(2, *request, *place, "--organiser", tmp_path / "none")
    nobody = ("--organiser", "00" * 32)
    assert "is nobody's identity" in candor.refused(2, *request, *place, *nobody)
    assert not output.exists()


@pytest.mark.parametrize(
    ("code", "old", "new"),
    [
        (3, "rounds = 100", "rounds = 101"),
        (3, "bob.example:7000", "bob.example:7001"),
        (3, "number = 1", 'number = 2\nprevious = "' + "0" * 64 + '"'),
        (2, "number = 1", "number = 2"),
        (2, "[graph]", "[graph"),
        (2, 'run_id = "spring"', 'run_id = "\x00"'),
    ],
)
def test_a_tampered_file_stops_check_and_daemon(
    code: int, old: str, new: str, candor: Candor, requests: list[Path], tmp_path: Path
) -> None:
    candor.sign("new", *requests)
    file = tmp_path / "cluster.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    daemon = ("--id", "bob", "--keys", tmp_path / "keys" / "bob", "--data-dir", tmp_path / "data")
    for words in (("cluster", "check", file, "--no-dial"), ("agent", "--cluster", file, *daemon)):
        assert str(file) in candor.refused(code, *words)
    assert not (tmp_path / "data").exists()


@pytest.mark.timeout(20)
def test_pipes_and_devices_hold_nobody_up(
    candor: Candor, requests: list[Path], tmp_path: Path
) -> None:
    candor.sign("new", *requests)
    pipe, file = tmp_path / "pipe", tmp_path / "cluster.toml"
    os.mkfifo(pipe)
    sign = ("--sign-with", tmp_path / "keys" / "organiser", "-o", tmp_path / "x.toml")
    for odd in (pipe, Path("/dev/zero")):
        for words in (
            ("cluster", "check", odd),
            ("cluster", "check", file, "--no-dial", "--no-task", "--previous", odd),
            ("cluster", "check", file, "--no-dial", "--no-task", "--organiser", odd),
            ("cluster", "add", file, odd, *sign),
            ("cluster", "remove", odd, "bob", *sign),
        ):
            assert "Not a regular file" in candor.refused(2, *words)
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd" / keys.IDENTITY_FILE, mode=0o600)
    words = ("cluster", "remove", file, "bob", "--sign-with", tmp_path / "odd")
    assert "Not a regular file" in candor.refused(2, *words, "-o", tmp_path / "x.toml")


@pytest.mark.parametrize("place", ["tcp://127.0.0.1:99999", "127.0.0.1:7000", "tcp://*:0", ""])
def test_an_address_that_cannot_be_is_bad_usage(
    place: str, candor: Candor, requests: list[Path], tmp_path: Path
) -> None:
    candor.sign("new", *requests)
    daemon = ("--id", "bob", "--keys", tmp_path / "keys" / "bob", "--data-dir", tmp_path / "data")
    words = ("agent", "--cluster", tmp_path / "cluster.toml", *daemon)
    told = candor.refused(2, *words, "--listen", "tcp://*:7000", "--listen", place)
    assert "--listen: endpoint" in told
    assert not (tmp_path / "data").exists()


# --- who answers --------------------------------------------------------------------------------


@contextmanager
def listening(cluster: Cluster, agent: str, root: Path, *neighbours: str) -> Iterator[None]:
    """The agent's own transport, in a thread, that lets these neighbours in."""
    identity, ready, over = keys.load(root / "keys" / agent), Event(), Event()
    peers = {name: PeerAddress(entry.endpoint, entry.curve) for name in neighbours
             for entry in (cluster.agent(name),)}  # fmt: skip

    async def serve() -> None:
        binds = cluster.agent(agent).listens_at
        transport = ZeroMqTransport(
            agent, binds[0], identity.curve_public, identity.curve_secret, peers,
            other_binds=binds[1:],
        )  # fmt: skip
        await transport.start()
        ready.set()
        await asyncio.to_thread(over.wait)
        await transport.close(0)

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(120)
        yield
    finally:
        over.set()
        thread.join()


def check_as(candor: Candor, agent: str, *more: str) -> tuple[int, str]:
    words = (
        "--id",
        agent,
        "--keys",
        candor.root / "keys" / agent,
        "--no-task",
        *more,
        "--timeout-s",
        "120",
    )
    code, out, _ = candor.run("cluster", "check", candor.root / "cluster.toml", *words)
    return code, out


def test_a_check_with_keys_shakes_hands(candor: Candor, tmp_path: Path) -> None:
    ports = free_ports(4)
    requests = [
        candor.request("alice", f"tcp://127.0.0.1:{ports[0]}"),
        candor.request("bob", f"tcp://127.0.0.1:{ports[1]}", f"tcp://localhost:{ports[2]}"),
        candor.request("carol", f"tcp://127.0.0.1:{ports[3]}"),
    ]
    cluster = candor.sign("new", *requests)
    with listening(cluster, "bob", tmp_path, "alice"):
        code, out = check_as(candor, "alice")
        assert code == 1
        assert f"ok    bob tcp://127.0.0.1:{ports[1]}" in out
        assert f"ok    bob tcp://localhost:{ports[2]}" in out
        closed = f"FAIL  carol tcp://127.0.0.1:{ports[3]}: Connection refused; does its agent run"
        assert closed in out
        # Carol has keys that bob's list, another revision's perhaps, does not have.
        code, out = check_as(candor, "carol", "--json")
        told = json.loads(out)
        assert told["keys_checked"]
        assert "they do not know our key" in told["endpoints"][1]["reason"]
        code, out = check_as(candor, "carol")
        (refused,) = (
            line for line in out.splitlines() if f"bob tcp://127.0.0.1:{ports[1]}" in line
        )
        assert refused.endswith("have they the same revision of the cluster file?")
        # Whoever listens there: without keys nobody is taken for bob.
        code, out, _ = candor.run("cluster", "check", tmp_path / "cluster.toml", "--no-task")
        assert f"open  bob tcp://127.0.0.1:{ports[1]}" in out
        assert "keys not checked: give --id and --keys" in out
        assert "ok " not in out
    alone = Cluster.model_validate(cluster.model_dump())
    with listening(alone, "alice", tmp_path, "bob"), listening(alone, "carol", tmp_path, "bob"):
        assert check_as(candor, "bob")[0] == 0


def test_a_handshake_tells_who_is_not_there(candor: Candor, tmp_path: Path) -> None:
    first, second = free_ports(2)
    requests = [
        candor.request("alice", f"tcp://127.0.0.1:{first}"),
        candor.request("bob", f"tcp://127.0.0.1:{second}"),
    ]
    cluster = candor.sign("new", *requests, topology="path")
    stranger = keys.generate(tmp_path / "keys" / "stranger").public.curve
    own = keys.load(tmp_path / "keys" / "alice")
    with (
        listening(cluster, "bob", tmp_path, "alice"),
        socket.create_server(("127.0.0.1", 0)) as mute,
    ):
        place = cluster.agent("bob").endpoint
        pair = (own.curve_public, own.curve_secret)
        # Whoever answers has all the time; who never does, none to speak of.
        answers = greet_all({place: stranger}, pair, timeout_s=120)
        silent = Target(Route(f"tcp://127.0.0.1:{mute.getsockname()[1]}", False), stranger)
        unanswered = shake_hands({"mute": silent}, pair, timeout_s=0.1)
    assert "the key they hold is not the one" in str(answers[place].reason)
    assert unanswered == {"mute": "no handshake within 0.1 s"}


@pytest.mark.parametrize("name", ["request", "add", "remove"])
def test_every_subcommand_helps_with_an_example(name: str, candor: Candor) -> None:
    assert f"candor cluster {name}" in candor.done("cluster", name, "--help")


def test_declared_weights_come_from_requests_and_are_shown(candor: Candor, tmp_path: Path) -> None:
    for number, agent in enumerate(IDS, start=1):
        weight = ("--weight", 100 * number)
        candor.request(agent, f"tcp://{agent}.example:7000", declared=weight)
    asked = [tmp_path / f"{agent}.request.toml" for agent in IDS]
    cluster = candor.sign("new", *asked, "--weights", "samples")
    assert cluster.sizes == (100.0, 200.0, 300.0)
    shown = candor.done("cluster", "show", tmp_path / "cluster.toml")
    assert "from alice 100 (16.7 % of the mean) to carol 300 (50 %)" in shown
    facts = json.loads(candor.done("cluster", "show", tmp_path / "cluster.toml", "--json"))
    assert facts["shares"] == pytest.approx({"alice": 1 / 6, "bob": 1 / 3, "carol": 1 / 2})
    values = np.linalg.eigvals(cluster.mixing_matrix())
    assert facts["spectral_gap"] == pytest.approx(1 - np.sort(np.abs(values))[-2], abs=1e-9)
    text = (tmp_path / "cluster.toml").read_text().replace("weight = 300.0", "weight = 900.0")
    (tmp_path / "forged.toml").write_text(text)
    told = candor.refused(3, "cluster", "check", tmp_path / "forged.toml", "--no-dial")
    assert "agent 'carol': its keys did not sign this entry" in told


def test_weights_are_equal_unless_told_and_said_to_be(
    candor: Candor, requests: list[Path], tmp_path: Path
) -> None:
    cluster = candor.sign("new", *requests)
    assert cluster.sizes == ()
    shown = candor.done("cluster", "show", tmp_path / "cluster.toml")
    assert "equal: nobody declares a size, all count alike" in shown


def test_who_declared_something_else_than_is_asked_for_is_named(
    candor: Candor, requests: list[Path], tmp_path: Path
) -> None:
    loud = candor.request("dave", "tcp://dave.example:7000", declared=("--weight", "7.5"))
    new = ("cluster", "new", "--sign-with", tmp_path / "keys" / "organiser", "--topology", "ring")
    new += ("--task", "digits", "--run-id", "spring", "-o", tmp_path / "c.toml", *requests, loud)
    assert "agent 'dave' declared a weight in a signed request" in candor.refused(2, *new)
    told = candor.refused(2, *new, "--weights", "samples")
    assert "agent 'alice' and 2 more declared nothing" in told
    told = candor.refused(2, *new, "--weights", "alice=1,bob=1,carol=1,dave=2")
    assert "declare theirs themselves" in told
    cluster = candor.sign("new", *requests)
    told = candor.refused(
        2, "cluster", "add", tmp_path / "cluster.toml", loud, "-o", tmp_path / "next.toml",
        "--sign-with", tmp_path / "keys" / "organiser",
    )  # fmt: skip
    assert "agent 'alice' declares no weight, and 'dave' does" in told
    assert cluster.sizes == ()
