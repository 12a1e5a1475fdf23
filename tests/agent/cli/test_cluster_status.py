"""`candor status CLUSTER.toml`: all agents, those that are here and those that are not."""

import json
import shutil
import socket
import time

import pytest
from click.testing import CliRunner

from candor.agent.cli import main as cli
from candor.agent.cli.status import command
from candor.agent.daemon import keys
from candor.agent.daemon.status import DataDirLock, NeighbourStatus, Status, StatusFile
from candor.agent.testbed.testbed import free_ports
from candor.topologies.cluster.file import load_cluster
from tests.agent.cli.cluster.test_members import listening
from tests.runs import write_cluster


@pytest.fixture
def cluster(tmp_path):
    """A ring of four, of which a0 (running) and a1 (killed) are here; a2 and a3 are elsewhere."""
    made = write_cluster(tmp_path, rounds=60)
    text = (tmp_path / "cluster.toml").read_text()
    for agent, port in zip(made.ids, free_ports(4), strict=True):
        text = text.replace(made.agent(agent).endpoint, f"tcp://127.0.0.1:{port}")
    (tmp_path / "cluster.toml").write_text(text)
    made = load_cluster(tmp_path / "cluster.toml")
    shutil.move(tmp_path / "agents", tmp_path / "keys")
    for agent in made.ids:
        for file in (tmp_path / "keys" / agent / "keys").iterdir():
            file.rename(file.parents[1] / file.name)
    present = NeighbourStatus("present", 30, 5, due_rounds=30, mixed_rounds=30)
    late = NeighbourStatus(
        "late", 12, -7, "late, last heard in round 12", due_rounds=30, mixed_rounds=12
    )
    leave(tmp_path, made, "a0", {"a1": present, "a3": late}, round=30, balance=1_500_000)
    leave(
        tmp_path, made, "a1", {"a0": present, "a2": present}, round=28, balance=-500_000,
        last_error="neighbour_missed peer=a3", last_error_s=1_700_000_000.0,
    )  # fmt: skip
    return made


def leave(root, cluster, agent, neighbours, **told):
    data_dir = root / "data" / agent
    data_dir.mkdir(parents=True, exist_ok=True)
    fields = {"performed_rounds": told["round"], "fingerprint": cluster.fingerprint} | told
    StatusFile(data_dir).write(
        Status(
            run_id="test",
            agent=agent,
            pid=1,
            state="training",
            rounds=60,
            neighbours=neighbours,
            **fields,
        )
    )


def asked(root, *words):
    """What the command prints while a0 runs."""
    with DataDirLock(root / "data" / "a0"):
        return CliRunner(env={"COLUMNS": "80"}).invoke(
            command, [str(root / "cluster.toml"), *map(str, words)]
        )


def told(root, *words):
    return json.loads(asked(root, root / "data", "--json", *words).stdout)


def test_who_is_here_tells_of_itself_and_of_the_others(cluster, tmp_path):
    found = told(tmp_path, "--no-dial")
    assert (found["round"], found["rounds"], found["fingerprint"]) == (30, 60, cluster.fingerprint)
    a0, a1, a2, a3 = (found["agents"][agent] for agent in cluster.ids)
    assert (a0["state"], a0["lag"], a0["balance"], a0["reached"]) == (
        "training", 0, 1_500_000, "here",
    )  # fmt: skip
    assert (a0["running"], a1["running"], a2["running"]) == (True, False, None)
    assert (a1["state"], a1["lag"]) == ("died", 2)
    assert (a1["last_error"], a1["last_error_s"]) == ("neighbour_missed peer=a3", 1.7e9)
    assert (a2["here"], a2["state"], a2["round"], a2["balance"]) == (False, "present", 30, None)
    assert (a3["state"], a3["round"], a3["lag"]) == ("late", 12, 18)
    assert list(a3["seen_by"]) == ["a0"]
    assert a3["seen_by"]["a0"]["balance"] == -7
    assert a3["seen_by"]["a0"]["reason"] == "late, last heard in round 12"
    assert found["participation"]["a3"]["share"] == 0.4
    assert found["unreachable"] == {}
    assert a3["reached"] is None


def test_a_person_sees_who_is_behind_who_is_silent_and_what_went_wrong(cluster, tmp_path):
    result = asked(tmp_path, tmp_path / "data")
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    assert "a0 training 30/60 0 1.500000 1/1 here" in words
    assert "a1 died 28/60 2 -0.500000 1/1 here" in words
    assert "a2 present 30/60 0 - 1/1 silent" in words
    assert "a3 late 12/60 18 - 0/1 silent" in words
    where = cluster.agent("a3").endpoint
    assert f"a3 does not answer: {where}: Connection refused" in words
    assert "a0 is without a3: late, last heard in round 12" in words
    assert "a1: last error 2023-11-14T22:13:20Z: neighbour_missed peer=a3" in words
    assert "a3 was mixed in 40 % of rounds by its neighbours" in words
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_neighbour_answers_the_handshake_and_who_listens_there_is_not_enough(cluster, tmp_path):
    """a1's keys: a2 is its neighbour, a3 is not."""
    with listening(cluster, "a2", tmp_path, "a1"), listening(cluster, "a3", tmp_path, "a0"):
        greeted = told(tmp_path, "--keys", tmp_path / "keys" / "a1", "--timeout-s", "60")
        dialled = told(tmp_path, "--timeout-s", "60")
    with listening(cluster, "a2", tmp_path, "a3"):  # which has not a1 on its list
        refused = told(tmp_path, "--keys", tmp_path / "keys" / "a1", "--timeout-s", "60")
    reached = [[one["agents"][k]["reached"] for k in ("a2", "a3")] for one in (greeted, dialled)]
    assert reached == [["answers", "open"], ["open", "open"]]
    assert greeted["unreachable"] == {}
    assert "they do not know our key" in refused["unreachable"]["a2"]
    assert list(refused["unreachable"]) == ["a2", "a3"]


def test_a_health_check_fails_with_the_silent_and_the_dead(cluster, tmp_path):
    check = [tmp_path / "data", "--max-age", "50"]
    assert asked(tmp_path, *check, "--no-dial").exit_code == 1  # a1 was killed
    shutil.rmtree(tmp_path / "data" / "a1")
    assert asked(tmp_path, *check, "--no-dial").exit_code == 0
    assert asked(tmp_path, *check).exit_code == 1  # a1, a2 and a3 are silent
    left = NeighbourStatus("left", 60)
    leave(tmp_path, cluster, "a0", {"a1": left, "a3": left}, round=60)
    leave(tmp_path, cluster, "a2", {"a1": left, "a3": left}, round=60)
    with DataDirLock(tmp_path / "data" / "a2"):
        assert asked(tmp_path, *check).exit_code == 0  # they have left, as they should
        assert told(tmp_path)["agents"]["a3"]["reached"] == "silent"


def test_it_is_over_in_the_time_that_was_given(cluster, tmp_path):
    """Who listens and says nothing is waited for as long, however many there are."""
    places = [cluster.agent(agent).endpoint for agent in ("a0", "a2")]
    addresses = [("127.0.0.1", int(place.rpartition(":")[2])) for place in places]
    with socket.create_server(addresses[0]), socket.create_server(addresses[1]):
        before = time.monotonic()
        words = [tmp_path / "data" / "a1", "--keys", tmp_path / "keys" / "a1", "--timeout-s", "1"]
        found = json.loads(asked(tmp_path, *words, "--json").stdout)
        assert time.monotonic() - before < 60  # a handshake of ZeroMQ's own would take for ever
    assert {agent: found["agents"][agent]["reached"] for agent in ("a0", "a2")} == {
        "a0": "silent",
        "a2": "silent",
    }
    assert "no handshake within" in found["unreachable"]["a2"]


def test_a_status_of_another_revision_counts_for_nothing(cluster, tmp_path):
    text = (tmp_path / "cluster.toml").read_text()
    (tmp_path / "cluster.toml").write_text(text.replace("rounds = 60", "rounds = 61"))
    found = told(tmp_path, "--no-dial")
    assert len(found["notes"]) == 2
    assert all("of another run, or another revision of this one" in note for note in found["notes"])
    assert found["agents"]["a0"]["here"] is False
    assert found["agents"]["a0"]["state"] == "unknown"


def test_what_cannot_be_used_is_named(cluster, tmp_path):
    shutil.copytree(tmp_path / "data" / "a0", tmp_path / "data" / "again")
    (tmp_path / "data" / "a1" / "status.json").write_text("{}")
    notes = told(tmp_path, "--no-dial")["notes"]
    assert [note.partition(": ")[2] for note in notes] == [
        "not a status file",
        "a second directory of a0, which is not shown",
    ]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["cluster.toml", "nowhere"], "nowhere: no status here"),
        (["cluster.toml", "data", "--keys", "stranger"], "they are of no agent of the cluster"),
        (["cluter.toml", "data"], "cluter.toml: no such file or directory"),
        (["nowhere"], "nowhere: no such file or directory"),
        (["data", "data"], "name the CLUSTER file first"),
        (["data", "--no-dial"], "name the CLUSTER file first"),
    ],
)
def test_mistakes_are_one_line(cluster, tmp_path, monkeypatch, capsys, words, complaint):
    monkeypatch.chdir(tmp_path)
    keys.generate(tmp_path / "stranger")
    assert cli.run(["status", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_without_directories_they_are_looked_for_beside_the_file(cluster, tmp_path):
    (tmp_path / "data").rename(tmp_path / "agents")
    (tmp_path / "data" / "a0").mkdir(parents=True)
    found = json.loads(asked(tmp_path, "--no-dial", "--json").stdout)
    assert [k for k, one in found["agents"].items() if one["here"]] == ["a0", "a1"]
