"""A data directory moves on with the revision of its file, and loses no ledger on the way."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from candor.agent.daemon import keys
from candor.agent.daemon import revision_dirs as succession
from candor.agent.daemon.exports import CLUSTER_NAME, LEDGER_NAME
from candor.agent.daemon.host import HostSettings, run_agent
from candor.agent.daemon.metrics import MetricsWriter, RoundMetrics
from candor.agent.daemon.revision_dirs import move_on, open_store
from candor.agent.daemon.status import Status, StatusFile
from candor.agent.daemon.store import FILE_NAME as STORE_NAME
from candor.agent.daemon.store import PutValue, Store
from candor.network.identity import Identity
from candor.topologies.cluster.file import Cluster, RoundSettings, dump_cluster, load_cluster
from candor.topologies.cluster.requests import JoinRequest, make_request
from candor.topologies.cluster.revisions import amended
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.specs.specs import ConfigurationError, SignatureError
from tests.topologies.cluster.test_revisions import ORGANISER, make, request

AGENT = "a"


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return keys.generate(tmp_path / "keys")


@pytest.fixture
def first(identity: Identity) -> Cluster:
    """Four agents on a ring, of which a holds the keys that are on disk."""
    return amended(make("bcd"), ORGANISER, joining=[own_request(identity, 1)])


def own_request(identity: Identity, serial: int) -> JoinRequest:
    return make_request(
        identity.signing_key,
        organiser=ORGANISER.public.hex(),
        agent=AGENT,
        curve=identity.curve_public,
        endpoints=["tcp://own.example:7000"],
        serial=serial,
    )


def run(data_dir: Path, cluster: Cluster, key: SigningKey, mark: bytes) -> Path | None:
    """What a daemon does with its directory, and a mark that it leaves in the database."""
    data_dir.mkdir(exist_ok=True)
    moved = move_on(data_dir, cluster, AGENT, key)
    with open_store(data_dir, cluster, AGENT) as store:
        store.commit([PutValue("mark", mark)]).result()
    (data_dir / "metrics.csv").write_bytes(mark)
    (data_dir / "log.jsonl.1").write_bytes(mark)
    (data_dir / "mine.txt").write_bytes(b"not the daemon's")
    return moved


def mark_of(directory: Path) -> bytes | None:
    with Store.open(directory / STORE_NAME) as store:
        return store.value("mark")


def test_the_ledgers_of_a_revision_stay_as_they_were(
    tmp_path: Path, identity: Identity, first: Cluster
) -> None:
    data, key = tmp_path / "data", identity.signing_key
    second = amended(first, ORGANISER, leaving=["c"])
    assert run(data, first, key, b"one") is None
    assert run(data, first, key, b"one again") is None
    kept = data / "revision-2"
    assert run(data, second, key, b"two") == kept
    assert sorted(path.name for path in kept.iterdir()) == [
        CLUSTER_NAME,
        LEDGER_NAME,
        STORE_NAME,
        "log.jsonl.1",
        "metrics.csv",
    ]
    assert (mark_of(kept), mark_of(data)) == (b"one again", b"two")
    # Exported on the way, as a daemon that was killed had not.
    exports = {path.name for path in (kept / LEDGER_NAME).iterdir()}
    assert exports == {f"{min(AGENT, n)}-{max(AGENT, n)}.jsonl" for n in first.neighbours(AGENT)}
    assert (data / "mine.txt").exists()


def test_no_way_leads_back(tmp_path: Path, identity: Identity, first: Cluster) -> None:
    data, key = tmp_path / "data", identity.signing_key
    second = amended(first, ORGANISER, leaving=["c"])
    third = amended(second, ORGANISER, leaving=["d"])
    run(data, first, key, b"one")
    run(data, third, key, b"three")  # the second never came here
    for old in (first, second):
        with pytest.raises(SignatureError, match="revision"):
            run(data, old, key, b"old")
    fork = amended(second, ORGANISER, leaving=["b"])
    with pytest.raises(SignatureError, match="two different files as revision 4"):
        run(data, fork, key, b"fork")
    assert mark_of(data) == b"three"


def test_a_first_start_that_was_killed_holds_no_revision_up(
    tmp_path: Path, identity: Identity, first: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = identity.signing_key
    second = amended(first, ORGANISER, leaving=["c"])

    class Killed(BaseException):
        pass

    def opened_and_killed(path: Path, **options: Any) -> Store:
        path.touch()  # as SQLite makes it
        raise Killed

    def killed(*arguments: Any, **options: Any) -> None:
        raise Killed

    points = [(Store, "open", opened_and_killed), (Store, "open", killed), (os, "replace", killed)]
    for number, (place, name, dies) in enumerate(points):
        data = tmp_path / f"data-{number}"
        with monkeypatch.context() as patch:
            patch.setattr(place, name, dies)
            with pytest.raises(Killed):
                run(data, first, key, b"one")
        run(data, second, key, b"two")
        assert mark_of(data) == b"two"
        assert load_cluster(data / CLUSTER_NAME) == second


@pytest.mark.parametrize("killed_at", range(8))
def test_a_move_that_was_killed_goes_on(
    killed_at: int,
    tmp_path: Path,
    identity: Identity,
    first: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, key = tmp_path / "data", identity.signing_key
    second = amended(first, ORGANISER, leaving=["c"])
    run(data, first, key, b"one")
    (data / "window.bin").write_bytes(b"window")

    class Killed(BaseException):
        pass

    steps = iter(range(100))

    def step(function):  # type: ignore[no-untyped-def]
        def called(*arguments):  # type: ignore[no-untyped-def]
            if next(steps) == killed_at:
                raise Killed
            return function(*arguments)

        return called

    with monkeypatch.context() as patch:
        patch.setattr(succession.os, "rename", step(os.rename))
        patch.setattr(succession, "sync", step(succession.sync))
        with pytest.raises(Killed):
            run(data, second, key, b"two")
    # Whatever is left, the old revision does not start again and state its rounds twice.
    with pytest.raises(SignatureError, match="has gone on from revision 2"):
        run(data, first, key, b"again")
    run(data, second, key, b"two")
    kept = data / "revision-2"
    assert (mark_of(kept), mark_of(data)) == (b"one", b"two")
    assert (kept / "window.bin").read_bytes() == b"window"
    assert not (data / "window.bin").exists()


def test_another_runs_file_is_refused(tmp_path: Path, identity: Identity, first: Cluster) -> None:
    data, key = tmp_path / "data", identity.signing_key
    run(data, first, key, b"one")
    unsigned = first.model_dump() | {"revision": None, "signature": None}
    unsigned["agents"] = [entry.model_dump(exclude={"join", "serial"}) for entry in first.agents]
    with pytest.raises(SignatureError, match="is not signed"):
        run(data, Cluster.model_validate(unsigned), key, b"unsigned")
    assert mark_of(data) == b"one"


def test_another_agents_directory_is_left_alone(
    tmp_path: Path, identity: Identity, first: Cluster
) -> None:
    data = tmp_path / "data"
    run(data, first, identity.signing_key, b"one")
    second = amended(first, ORGANISER, joining=[request("e")])
    with pytest.raises(ConfigurationError, match="the key is not that of agent 'a'"):
        move_on(data, second, AGENT, SigningKey(bytes(32)))
    assert mark_of(data) == b"one"


def test_unsigned_files_are_the_databases_business(tmp_path: Path, identity: Identity) -> None:
    data, key = tmp_path / "data", identity.signing_key

    def unsigned(rounds: int) -> Cluster:
        fields = make("abc").model_dump() | {"revision": None, "signature": None}
        agents = make("abc").agents
        fields["agents"] = [entry.model_dump(exclude={"join", "serial"}) for entry in agents]
        fields["rounds"]["rounds"] = rounds
        return Cluster.model_validate(fields)

    run(data, unsigned(5), key, b"five")
    with pytest.raises(ConfigurationError, match="use another --data-dir"):
        run(data, unsigned(6), key, b"six")
    assert mark_of(data) == b"five"


def test_who_left_goes_on_by_the_revision_that_has_it_in_again(
    tmp_path: Path, identity: Identity, first: Cluster
) -> None:
    key, data_dir = identity.signing_key, tmp_path / "data"
    there = amended(first, ORGANISER, changes={"rounds": RoundSettings(rounds=60)})
    away = amended(there, ORGANISER, leaving=[AGENT], after_round=4)
    back = amended(away, ORGANISER, joining=[own_request(identity, 2)], after_round=20)
    run(data_dir, there, key, b"1")
    assert move_on(data_dir, back, AGENT, key) is None
    assert load_cluster(data_dir / CLUSTER_NAME) == back
    assert mark_of(data_dir) == b"1"
    assert run(data_dir, back, key, b"2") is None
    assert not list(data_dir.glob("revision-*"))


def test_who_waited_by_a_revision_that_came_too_late_takes_the_one_in_its_place(
    tmp_path: Path, identity: Identity, first: Cluster
) -> None:
    key, data_dir, longer = identity.signing_key, tmp_path / "data", RoundSettings(rounds=60)
    alone = amended(first, ORGANISER, leaving=[AGENT], changes={"rounds": longer})
    asks = own_request(identity, 2)
    late, later, latest = (
        amended(alone, ORGANISER, joining=[asks], after_round=after) for after in (8, 20, 40)
    )
    run(data_dir, late, key, b"1")
    run(data_dir, later, key, b"2")
    assert load_cluster(data_dir / CLUSTER_NAME) == later
    assert not list(data_dir.glob("revision-*"))
    (data_dir / "metrics.csv").unlink()
    with MetricsWriter(data_dir / "metrics.csv") as metrics:
        metrics.write(RoundMetrics(33, 0.1, 0.5, None, 1.0, 0, 0, 0, 2, ()))
    with pytest.raises(SignatureError, match="two different files as revision"):
        move_on(data_dir, latest, AGENT, key)


def test_who_left_is_not_started_again_and_is_told_why(
    tmp_path: Path, identity: Identity, first: Cluster
) -> None:
    data_dir, files = tmp_path / "data", [tmp_path / "1.toml", tmp_path / "2.toml"]
    away = amended(first, ORGANISER, leaving=[AGENT], after_round=4)
    for file, cluster in zip(files, (first, away), strict=True):
        file.write_text(dump_cluster(cluster))
    run(data_dir, first, identity.signing_key, b"1")
    left = Status("demo", AGENT, first.fingerprint, 1, "done", 4, 20)
    StatusFile(data_dir).write(left)
    settings = HostSettings(agent=AGENT, keys=tmp_path / "keys", data_dir=data_dir)
    place = f"model, metrics and ledger are in {data_dir}"
    told = [run_agent(file, settings) for file in files]
    assert told == [
        (f"a left this run after round 4; {place}", 0),
        (f"the run goes on without a from revision {away.revision.number} on", 0),
    ]
    StatusFile(data_dir).write(replace(left, round=20))
    assert [run_agent(file, settings) for file in files] == [(f"this run is done; {place}", 0)] * 2
