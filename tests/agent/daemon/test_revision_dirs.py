"""A data directory moves on with the revision of its file, and loses no ledger on the way."""

import os
from pathlib import Path
from typing import Any

import pytest

from candor.agent.daemon import keys
from candor.agent.daemon import revision_dirs as succession
from candor.agent.daemon.exports import CLUSTER_NAME, LEDGER_NAME
from candor.agent.daemon.revision_dirs import move_on, open_store
from candor.agent.daemon.store import FILE_NAME as STORE_NAME
from candor.agent.daemon.store import PutValue, Store
from candor.network.identity import Identity
from candor.topologies.cluster.file import Cluster, load_cluster
from candor.topologies.cluster.requests import make_request
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
    own = make_request(
        identity.signing_key,
        organiser=ORGANISER.public.hex(),
        agent=AGENT,
        curve=identity.curve_public,
        endpoints=["tcp://own.example:7000"],
        serial=1,
    )
    return amended(make("bcd"), ORGANISER, joining=[own])


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
