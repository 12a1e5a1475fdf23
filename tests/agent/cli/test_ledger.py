"""`candor ledger` on a run directory of two agents whose daemons' databases are real."""

import json
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candor.agent.cli.ledger import command
from candor.agent.cli.main import run as run_command
from candor.agent.core.terms import audit_facts
from candor.agent.daemon import keys
from candor.agent.daemon.exports import write_exports
from candor.agent.daemon.status import DataDirLock, Status, StatusFile
from candor.agent.daemon.store import Store
from candor.agent.exits import BAD_CONFIGURATION, VERIFICATION_FAILED
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.mechanisms.evidence.claims import Claim, ClaimedRound, SignedClaim
from candor.mechanisms.ledger.bodies import Body, LedgerViolation
from candor.mechanisms.ledger.channel import (
    Channel,
    Effect,
    Ignored,
    ReadRecords,
    Settled,
    StorePending,
    StoreRecord,
    Transmit,
)
from candor.mechanisms.ledger.export import export_channel, parse_export
from candor.mechanisms.ledger.records import Record, sign_acceptance, sign_proposal
from candor.mechanisms.ledger.stored_chain import mended
from candor.mechanisms.payments.bills import SignedBill
from candor.mechanisms.payments.credits import CREDIT
from candor.network.identity import Identity
from candor.topologies.cluster.file import (
    AgentEntry,
    Cluster,
    PaymentSettings,
    RoundSettings,
    TaskSettings,
    assemble_cluster,
    dump_cluster,
    load_cluster,
)
from candor.topologies.encoding.canonical import pack, unpack
from candor.topologies.schedules import schedules
from candor.topologies.specs.specs import ConfigurationError
from tests.bills import settling
from tests.cases import cases

WINDOWS = 2
OPEN = range(WINDOWS)


def make_cluster(identities: dict[str, Identity], rule: str = "norm:1") -> Cluster:
    agents = [
        AgentEntry(
            id=agent,
            endpoint=f"tcp://127.0.0.1:{7000 + i}",
            identity=identity.public.identity.hex(),
            curve=identity.public.curve,
        )
        for i, (agent, identity) in enumerate(identities.items())
    ]
    return assemble_cluster(
        run_id="demo",
        seed=1,
        graph=schedules.build("ring", len(agents)),
        agents=agents,
        task=TaskSettings(name="digits", parameters=10, model_digest="00" * 32),
        rounds=RoundSettings(rounds=8),
        payments=PaymentSettings(rule=rule, window=4),
    )


def settle(run_dir: Path, cluster: Cluster, identities: dict[str, Identity]) -> None:
    """Settle every edge of the ring of three, through databases in the agents' directories."""
    facts = audit_facts(cluster)
    stores = {}
    for agent in cluster.ids:
        edges = [sorted((agent, other)) for other in cluster.neighbours(agent)]
        stores[agent] = Store.open(
            run_dir / "agents" / agent / "ledger.sqlite",
            fingerprint=cluster.fingerprint,
            channels=[facts.terms(*edge) for edge in edges],
        )
    for lo, hi in sorted(facts.edges):
        settle_edge(cluster, lo, hi, stores, identities)
    for agent, store in stores.items():
        data_dir = run_dir / "agents" / agent
        write_exports(store, cluster, agent, identities[agent].signing_key, data_dir)
        store.close()


def settle_edge(
    cluster: Cluster, lo: str, hi: str, stores: dict[str, Store], identities: dict[str, Identity]
) -> None:
    facts = audit_facts(cluster)
    terms = facts.terms(lo, hi)
    peer = {lo: hi, hi: lo}
    ends = {agent: Channel(terms, identities[agent].signing_key) for agent in peer}
    nonces = {lo: bytes(16), hi: bytes([1] * 16)}

    def perform(agent: str, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case StorePending() | StoreRecord():
                    stores[agent].commit([effect]).result()
                case Transmit(message):
                    perform(peer[agent], ends[peer[agent]].received_from_peer(message))
                case ReadRecords(channel_id, first, count):
                    records = stores[agent].records(channel_id, first, count)
                    perform(agent, ends[agent].records_read(records))
                case _:
                    assert isinstance(effect, Settled | Ignored)

    hellos = [(a, end.connected(nonces[a], nonces[peer[a]])) for a, end in ends.items()]
    for agent, effects in hellos:
        perform(agent, effects)
    for window in range(WINDOWS):
        claims = {a: signed_claim(cluster, a, window, identities[a]) for a in cluster.ids}
        signing = {agent: identity.signing_key for agent, identity in identities.items()}
        due = settling(facts.bills, lo, hi, claims, signing)
        for agent, end in ends.items():
            perform(agent, end.settle(window, due.delta, due.bundle_lo, due.bundle_hi))


def signed_claim(cluster: Cluster, agent: str, window: int, identity: Identity) -> SignedClaim:
    energy = float(cluster.index(agent) + 1)
    size = min(cluster.task.parameters, 128)
    trace = struct.pack(f"<{size}f", *[energy] * size)
    rounds = (ClaimedRound(4 * window + 1, energy, cluster.neighbours(agent), trace),)
    run = bytes.fromhex(cluster.fingerprint)
    claim = Claim(run, window, agent, rounds)
    return SignedClaim.sign(claim, identity.signing_key)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    identities = {}
    for agent in ("a0", "a1", "a2"):
        data_dir = run / "agents" / agent
        data_dir.mkdir(parents=True)
        identities[agent] = keys.generate(data_dir / "keys")
    cluster = make_cluster(identities)
    (run / "cluster.toml").write_text(dump_cluster(cluster))
    settle(run, cluster, identities)
    return run


def ledger(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def export_path(run_dir: Path, agent: str = "a0", edge: str = "a0-a1") -> Path:
    return run_dir / "agents" / agent / "ledger" / f"{edge}.jsonl"


def test_a_true_run_passes_the_audit_and_says_who_paid_whom(run_dir: Path) -> None:
    result = ledger("audit", run_dir)
    assert result.exit_code == 0, result.output
    assert "a0-a1  2 windows: a1 owes a0 1.000000" in result.output
    assert "a0-a2  2 windows: a2 owes a0 2.000000" in result.output
    assert "a0 received +3.000000 net" in result.output
    assert "a1 received +0.000000 net" in result.output
    assert "a2 received -3.000000 net" in result.output
    assert "sum of all nets: +0.000000" in result.output
    assert "to settle: a2 pays a0 3.000000\nledger audit" in result.output
    assert "ledger audit of demo: ok" in result.output


def test_the_audit_speaks_json(run_dir: Path) -> None:
    told = json.loads(ledger("audit", run_dir, "--json").output)
    assert told["audit"] == "ok"
    assert told["findings"] == []
    assert told["nets"] == {"a0": 3_000_000, "a1": 0, "a2": -3_000_000}
    assert told["sum"] == 0
    assert told["positions"] == told["nets"]
    assert told["transfers"] == [["a2", "a0", 3_000_000]]
    assert told["edges"][0] == {
        "lo": "a0",
        "hi": "a1",
        "windows": 2,
        "payments": [],
        "balance_lo": 1_000_000,
        "unacknowledged": False,
    }


def test_a_flipped_byte_makes_the_audit_exit_3_and_name_the_place(run_dir: Path) -> None:
    path = export_path(run_dir, "a1", "a1-a2")
    data = bytearray(path.read_bytes())
    third_line = data.index(b'{"seq":1')
    data[third_line + 100] ^= 1
    path.write_bytes(data)
    result = ledger("audit", run_dir)
    assert result.exit_code == 3
    assert "agents/a1/ledger/a1-a2.jsonl: edge a1-a2, seq 1: " in result.output
    assert "violated" in result.output
    [finding, *_] = json.loads(ledger("audit", run_dir, "--json").output)["findings"]
    assert finding["file"] == "agents/a1/ledger/a1-a2.jsonl"
    assert (finding["edge"], finding["seq"]) == ("a1-a2", 1)


def test_the_words_of_others_cannot_write_lines_of_the_audit(run_dir: Path, capsys) -> None:
    forged = "x\n\x1b[2Jledger audit of demo: ok"
    source = export_path(run_dir)
    hostile = source.with_name(f"{forged}.jsonl")
    hostile.write_bytes(source.read_bytes())
    assert run_command(["ledger", "audit", str(run_dir)]) == VERIFICATION_FAILED
    [finding, verdict] = capsys.readouterr().out.splitlines()[-2:]
    assert "x\\n\\x1b[2Jledger audit of demo: ok.jsonl" in finding
    assert verdict == "ledger audit of demo: violated, 1 findings"
    missing = str(run_dir / "\x1b[2Jx")
    assert run_command(["ledger", "audit", missing]) == BAD_CONFIGURATION
    assert "\x1b" not in capsys.readouterr().err


def test_a_missing_export_makes_the_audit_exit_3(run_dir: Path) -> None:
    export_path(run_dir).unlink()
    result = ledger("audit", run_dir)
    assert result.exit_code == 3
    assert "agents/a0/ledger/a0-a1.jsonl: edge a0-a1, seq 0: missing" in result.output


def test_a_folder_of_data_directories_is_audited_by_their_own_file(run_dir: Path) -> None:
    folder, text = run_dir / "agents", (run_dir / "cluster.toml").read_text()
    for agent in ("a0", "a1", "a2"):
        (folder / agent / "cluster.toml").write_text(text)
    audited = ledger("audit", folder)
    assert audited.exit_code == 0, audited.output
    assert audited.output == ledger("audit", run_dir).output
    (folder / "a1" / "cluster.toml").write_text(text.replace("rounds = 8", "rounds = 9"))
    assert text != (folder / "a1" / "cluster.toml").read_text()
    with pytest.raises(ConfigurationError, match=r"a0/cluster\.toml and .*a1.* different files"):
        audit_run_directory(folder)
    (folder / "a1" / "cluster.toml").write_text(text)
    export_path(run_dir).write_text("{}\n")
    assert ledger("audit", folder).exit_code == 3


def test_one_data_directory_is_audited_from_that_end(run_dir: Path) -> None:
    own = run_dir / "agents" / "a0"
    audited = ledger("audit", own)
    assert audited.exit_code == 0, audited.output
    assert audited.output.splitlines() == [
        "a0-a1  2 windows: a1 owes a0 1.000000",
        "a0-a2  2 windows: a2 owes a0 2.000000",
        "recomputed 6 of 6 bills",
        "a0 received +3.000000 net",
        "ledger audit of demo, as a0 has it: ok",
    ]
    export_path(run_dir).unlink()
    missing = ledger("audit", own)
    assert missing.exit_code == 3
    assert "edge a0-a1, seq 0: missing: a0 has left no export" in missing.output


def test_a_directory_without_cluster_or_exports_is_bad_usage(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError, match="cluster file"):
        audit_run_directory(run_dir / "agents")
    for path in run_dir.glob("agents/*/ledger/*"):
        path.unlink()
    with pytest.raises(ConfigurationError, match="no ledger exports"):
        audit_run_directory(run_dir)
    capsys.readouterr()
    assert run_command(["ledger", "audit", str(run_dir)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "no ledger exports" in told


def test_the_audit_needs_neither_database_nor_keys_nor_torch(run_dir: Path) -> None:
    for path in [*run_dir.glob("agents/*/ledger.sqlite*"), *run_dir.glob("agents/*/keys/*")]:
        path.unlink()
    code = (
        "import sys\n"
        "from candor.agent.cli.ledger import command\n"
        f"command(['audit', {str(run_dir)!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules and 'sqlite3' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_exports_verify_one_by_one(run_dir: Path) -> None:
    good, bad = export_path(run_dir), export_path(run_dir, "a2", "a1-a2")
    cluster = run_dir / "cluster.toml"
    result = ledger("verify", good, bad, "--cluster", cluster)
    assert result.exit_code == 0
    assert "a1 owes a0 1.000000" in result.output
    bad.write_bytes(bad.read_bytes()[:-1])
    result = ledger("verify", good, bad, "--cluster", cluster, "--json")
    assert result.exit_code == 3
    told = json.loads(result.output)
    assert told["ok"] is False
    assert [len(file["findings"]) for file in told["files"]] == [0, 1]
    result = ledger("verify", good, bad, "--cluster", cluster)
    assert result.exit_code == 3
    assert f"VIOLATION {bad}: edge a1-a2, seq 3: line" in result.output


def test_show_lists_the_channels_of_an_agent_and_of_a_run(run_dir: Path) -> None:
    result = ledger("show", run_dir / "agents" / "a1")
    assert result.exit_code == 0
    assert "a0-a1  record 2, up to window 1: a1 owes a0 1.000000" in result.output
    assert result.output.endswith(f"{CREDIT}\n")
    told = json.loads(ledger("show", run_dir, "--json").output)
    assert told == json.loads(ledger("show", run_dir / "agents", "--json").output)
    assert list(told["agents"]) == ["a0", "a1", "a2"]
    row = told["agents"]["a2"][0]
    assert len(bytes.fromhex(row.pop("channel_id"))) == 32
    assert row == {
        "lo": "a0",
        "hi": "a2",
        "seq": 2,
        "window": 1,
        "balance_lo": 2_000_000,
        "balance_hi": -2_000_000,
        "pending": False,
        "attempt": 0,
        "payment": 0,
        "status": "open",
        "reason": "",
        "credit_limit": 1_000_000_000,
    }


def test_show_says_where_there_is_no_ledger(tmp_path: Path) -> None:
    result = ledger("show", tmp_path)
    assert isinstance(result.exception, ConfigurationError)
    assert "no ledger.sqlite here" in str(result.exception)


def tell(run_dir: Path, agent: str, *words: str) -> Result:
    data_dir = run_dir / "agents" / agent
    status = Status("demo", agent, "00" * 32, 1, "training", 1, 8)
    StatusFile(data_dir).write(status)
    return ledger("pay", data_dir, *words)


def told(run_dir: Path, agent: str) -> list[int]:
    with Store.open(run_dir / "agents" / agent / "ledger.sqlite") as store:
        return sorted(store.payments().values())


def test_both_ends_are_told_of_a_payment(run_dir: Path) -> None:
    # a1 owes a0 one credit: a0 has received it, on the ledger.
    payee = tell(run_dir, "a0", "--from", "a1", "0.75")
    assert payee.output == "told that a1 has paid 0.750000; tell a1 the same\n"
    payer = tell(run_dir, "a1", "--to", "a0", "0.75")
    assert payer.output == "told of 0.750000 to a0; tell a0 the same\n"
    assert told(run_dir, "a0") == told(run_dir, "a1") == [750_000]  # hi has paid lo
    shown = ledger("show", run_dir / "agents" / "a0").output
    assert "(a payment of 0.750000 by a1 to a0 waits)" in shown
    more = tell(run_dir, "a1", "--to", "a0", "1.000001")
    assert "it waits until that much is owed" in more.output
    assert told(run_dir, "a1") == [1_000_001]
    assert tell(run_dir, "a0", "--cancel", "a1").exit_code == 0
    assert told(run_dir, "a0") == []


def test_a_payment_replaces_another_only_if_that_is_what_was_told(run_dir: Path) -> None:
    refused = tell(run_dir, "a1", "--to", "a0", "0.5", "--replace", "0.75")
    assert "--replace: no payment waits here" in str(refused.exception)
    assert told(run_dir, "a1") == []
    tell(run_dir, "a1", "--to", "a0", "0.75")
    assert tell(run_dir, "a1", "--to", "a0", "0.5", "--replace", "0.750").exit_code == 0
    assert told(run_dir, "a1") == [500_000]
    for direction in ("--to", "--from"):
        refused = tell(run_dir, "a1", direction, "a0", "0.25", "--replace", "0.75")
        assert "a payment of 0.500000 by a1 to a0 waits here" in str(refused.exception)
    assert told(run_dir, "a1") == [500_000]


def test_a_payment_names_the_data_directory_of_one_agent(run_dir: Path) -> None:
    result = ledger("pay", run_dir, "--to", "a1", "1")
    assert "name the data directory of one agent" in str(result.exception)


def test_a_payment_after_the_run_is_said_to_be_late(run_dir: Path) -> None:
    data_dir = run_dir / "agents" / "a1"
    StatusFile(data_dir).write(Status("demo", "a1", "00" * 32, 1, "done", 8, 8))
    result = ledger("pay", data_dir, "--to", "a0", "0.5")
    assert result.exit_code == 0
    assert "the run is over here: no record of it will be made" in result.output


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--to", "a9", "1"), "a0 has no ledger with a9; it has one with a1, a2"),
        (("--to", "a0", "1"), "a0 has no ledger with a0; it has one with a1, a2"),
        (("--to", "a1", "0"), "AMOUNT 0: not credits above 0"),
        (("--to", "a1", "1.0000001"), "AMOUNT 1.0000001: not credits above 0 with six decimals"),
        (("--to", "a1", "-1"), "No such option '-1'"),
        (("--to", "a1", "nan"), "AMOUNT nan: not credits"),
        (
            ("--to", "a1", "1000.000001"),
            "AMOUNT 1000.000001: above the credit limit of 1000.000000",
        ),
        (("--to", "a1", "1e999999999"), "AMOUNT 1e999999999: not credits"),
        (("--to", "a1"), "give one of --to ID AMOUNT"),
        (("--to", "a1", "--from", "a2", "1"), "give one of --to ID AMOUNT"),
        (("--cancel", "a1", "1"), "give one of --to ID AMOUNT"),
        (("--cancel", "a1", "--replace", "1"), "--replace OLD goes with --to ID AMOUNT or"),
        (("--to", "a1", "1", "--replace", "x"), "--replace x: not credits above 0"),
    ],
)
def test_a_payment_that_makes_no_sense_is_not_told(
    run_dir: Path, words: tuple[str, ...], line: str
) -> None:
    result = tell(run_dir, "a0", *words)
    assert result.exit_code != 0
    assert line in result.output + str(result.exception)
    assert told(run_dir, "a0") == []


def test_export_writes_the_files_that_the_daemon_writes(run_dir: Path, tmp_path: Path) -> None:
    data_dir, output = run_dir / "agents" / "a0", tmp_path / "out"
    common = (data_dir, "--cluster", run_dir / "cluster.toml", "--keys", data_dir / "keys")
    result = ledger("export", *common, "-o", output)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in output.iterdir()) == ["a0-a1.jsonl", "a0-a2.jsonl"]
    for path in output.iterdir():
        assert path.read_bytes() == (data_dir / "ledger" / path.name).read_bytes()
    told = json.loads(ledger("export", *common, "--json").output)
    assert told["agent"] == "a0"


def test_export_refuses_keys_and_databases_of_others(run_dir: Path, tmp_path: Path) -> None:
    cluster = run_dir / "cluster.toml"
    a0, a1 = run_dir / "agents" / "a0", run_dir / "agents" / "a1"
    keys.generate(tmp_path / "keys")
    result = ledger("export", a0, "--cluster", cluster, "--keys", tmp_path / "keys")
    assert "no agent of run 'demo' has these keys" in str(result.exception)
    result = ledger("export", a1, "--cluster", cluster, "--keys", a0 / "keys")
    assert "it belongs to another agent or run" in str(result.exception)
    if os.geteuid() != 0:
        a0.chmod(0o500)
        result = ledger("export", a0, "--cluster", cluster, "--keys", a0 / "keys")
        assert "cannot write exports" in str(result.exception)


COLUMNS = ("channel_id", "seq", "head", "body", "sig_p", "sig_a", "evidence")


def damage(run_dir: Path, agent: str, edge: str, seq: int, column: str, at: float = 0.5) -> None:
    """Flip a bit of one column of a stored record; `at` is where in its bytes, 0..1."""
    lo, hi = edge.split("-")
    with sqlite3.connect(run_dir / "agents" / agent / "ledger.sqlite") as connection:
        where = (
            "WHERE seq = ? AND channel_id = (SELECT channel_id FROM channels WHERE lo=? AND hi=?)"
        )
        query = f"SELECT rowid, {column} FROM records {where}"
        row, value = connection.execute(query, (seq, lo, hi)).fetchone()
        if isinstance(value, bytes):
            place = int(at * len(value))
            value = value[:place] + bytes([value[place] ^ 4]) + value[place + 1 :]
        else:
            value ^= 64
        connection.execute(f"UPDATE records SET {column} = ? WHERE rowid = ?", (value, row))
    connection.close()


def export(run_dir: Path, agent: str = "a0", *more: str | Path) -> int:
    data_dir = run_dir / "agents" / agent
    words = ["ledger", "export", data_dir, "--cluster", run_dir / "cluster.toml"]
    return run_command([str(word) for word in (*words, "--keys", data_dir / "keys", *more)])


def shown(run_dir: Path, agent: str, edge: str = "a0-a1", windows: Iterable[int] = OPEN) -> Path:
    """An export that shows the claims of some windows."""
    target = run_dir / "shown" / agent
    target.mkdir(parents=True, exist_ok=True)
    opened = [word for window in windows for word in ("--open", str(window))]
    assert export(run_dir, agent, "-o", target, *opened) == 0
    return target / f"{edge}.jsonl"


def repair(run_dir: Path, agent: str, *sources: Path) -> int:
    words = ["ledger", "repair", run_dir / "agents" / agent, "--cluster", run_dir / "cluster.toml"]
    return run_command([str(w) for w in (*words, *(x for s in sources for x in ("--from", s)))])


@given(
    seq=st.integers(0, WINDOWS),
    column=st.sampled_from(COLUMNS),
    at=st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=cases(25), suppress_health_check=list(HealthCheck), deadline=None)
def test_one_damaged_byte_is_never_signed_and_comes_back_from_the_neighbour(
    run_dir: Path, tmp_path_factory: pytest.TempPathFactory, seq: int, column: str, at: float
) -> None:
    run = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(run_dir, run)
    path = export_path(run)
    before = path.read_bytes()
    damage(run, "a0", "a0-a1", seq, column, at)
    assert export(run) == VERIFICATION_FAILED
    assert path.read_bytes() == before
    assert repair(run, "a0", shown(run, "a1")) == 0
    path.unlink()
    assert export(run) == 0
    assert path.read_bytes() == before
    assert not audit_run_directory(run)[1].findings


def test_a_damaged_database_is_not_exported_in_one_line(run_dir: Path, capsys) -> None:
    damage(run_dir, "a0", "a0-a1", 1, "sig_a")
    assert export(run_dir) == VERIFICATION_FAILED
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "candor: error: the database is damaged, edge a0-a1: seq 1: sig-a: not the acceptor's "
        "signature; `candor ledger repair` restores it from the neighbour's export\n"
    )


def test_repair_restores_a_lost_record_and_says_which(run_dir: Path, capsys) -> None:
    source = shown(run_dir, "a1")
    with sqlite3.connect(run_dir / "agents" / "a0" / "ledger.sqlite") as connection:
        connection.execute("DELETE FROM records WHERE seq = 1")
    connection.close()
    assert export(run_dir) == VERIFICATION_FAILED
    assert repair(run_dir, "a0", source, shown(run_dir, "a2", "a0-a2")) == 0
    assert f"{source}: restored record 1\n" in capsys.readouterr().out
    assert export(run_dir) == 0
    assert repair(run_dir, "a0", source) == 0
    assert f"{source}: nothing was damaged\n" in capsys.readouterr().out


def shorter(run_dir: Path, agent: str, edge: str) -> Path:
    """An agent's true export of when the last record was not there yet."""
    facts = audit_facts(load_cluster(run_dir / "cluster.toml"))
    terms, path = facts.terms(*edge.split("-")), shown(run_dir, agent, edge)
    key = keys.load(run_dir / "agents" / agent / "keys").signing_key
    records = parse_export(path.read_bytes()).records[:-1]
    path.write_bytes(export_channel(terms, agent, key, records))
    return path


def test_repair_keeps_good_records_that_are_newer_than_the_export(run_dir: Path) -> None:
    before = export_path(run_dir).read_bytes()
    damage(run_dir, "a0", "a0-a1", 0, "body")
    assert repair(run_dir, "a0", shorter(run_dir, "a1", "a0-a1")) == 0
    assert export(run_dir) == 0
    assert export_path(run_dir).read_bytes() == before


def test_repair_changes_nothing_where_the_export_does_not_have_what_is_damaged(
    run_dir: Path, capsys
) -> None:
    database = run_dir / "agents" / "a0" / "ledger.sqlite"
    damage(run_dir, "a0", "a0-a1", WINDOWS, "sig_p")
    before = dumped(database)
    assert repair(run_dir, "a0", shorter(run_dir, "a1", "a0-a1")) == VERIFICATION_FAILED
    assert f"seq {WINDOWS}: damaged: and the export has no such record" in capsys.readouterr().err
    assert dumped(database) == before


def dumped(database: Path) -> list[str]:
    with sqlite3.connect(database) as connection:
        lines = list(connection.iterdump())
    connection.close()
    return lines


def test_repair_takes_no_export_that_does_not_hold_and_waits_for_the_daemon(
    run_dir: Path, capsys
) -> None:
    source = export_path(run_dir, "a1")
    good = source.read_bytes()
    source.write_bytes(good.replace(b'"balance":', b'"balance":1'))
    assert repair(run_dir, "a0", source) == VERIFICATION_FAILED
    source.write_bytes(good)
    assert repair(run_dir, "a2", source) == BAD_CONFIGURATION
    assert "it has no ledger a0-a1 of this run" in capsys.readouterr().err
    with DataDirLock(run_dir / "agents" / "a0"):
        assert repair(run_dir, "a0", source) == BAD_CONFIGURATION
    assert "in use by the running process" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["show", "explain", "verify", "audit", "export", "repair"])
def test_every_command_shows_an_example(name: str) -> None:
    assert f"candor ledger {name} " in ledger(name, "--help").output


def test_claims_come_from_an_export_that_shows_them_and_all_else_from_any(
    run_dir: Path, capsys
) -> None:
    database = run_dir / "agents" / "a0" / "ledger.sqlite"
    for column in ("body", "sig_p", "sig_a", "head"):
        damage(run_dir, "a0", "a0-a1", 1, column)
        assert repair(run_dir, "a0", export_path(run_dir, "a1")) == 0, column
        assert export(run_dir) == 0
    for place in (0.4, 0.9):  # each bill holds all claims
        damage(run_dir, "a0", "a0-a1", 1, "evidence", place)
    before = dumped(database)
    assert repair(run_dir, "a0", export_path(run_dir, "a1")) == VERIFICATION_FAILED
    assert (
        "seq 1: sealed: the neighbour's export must show its claims: "
        "`candor ledger export --open 0`\n" in capsys.readouterr().err
    )
    assert dumped(database) == before
    assert repair(run_dir, "a0", shown(run_dir, "a1", windows=[0])) == 0
    assert export(run_dir) == 0


def test_two_good_records_in_one_place_are_never_mended_over(run_dir: Path) -> None:
    cluster = load_cluster(run_dir / "cluster.toml")
    facts = audit_facts(cluster)
    terms = facts.terms("a0", "a1")
    stored = parse_export(export_path(run_dir).read_bytes()).records
    signing = {a: keys.load(run_dir / "agents" / a / "keys").signing_key for a in ("a0", "a1")}
    body = replace(Body.decode(stored[0].body), nonce_lo=bytes([7] * 16)).encode()
    proposer, acceptor = sorted(signing.values(), key=lambda key: key.public != terms.proposer(0))
    sig_p = sign_proposal(proposer, body)
    other = Record(body, sig_p, sign_acceptance(acceptor, body, sig_p), ())
    with pytest.raises(LedgerViolation, match="seq 0: fork"):
        mended(terms, [other], stored)


def retyped(run_dir: Path, agent: str, column: str, value: object) -> None:
    """A database whose records have a value of another type in a column, which a bit of a row's
    header is enough for."""
    with sqlite3.connect(run_dir / "agents" / agent / "ledger.sqlite") as connection:
        connection.execute("CREATE TABLE loose AS SELECT * FROM records")
        connection.execute("DROP TABLE records")
        connection.execute("ALTER TABLE loose RENAME TO records")
        connection.execute(f"UPDATE records SET {column} = ? WHERE seq = 1", (value,))
    connection.close()


@pytest.mark.parametrize("value", [None, 7, 1.5, "text"])
@pytest.mark.parametrize("column", ["channel_id", "body", "sig_p", "sig_a", "evidence"])
def test_a_column_of_another_type_is_damage_like_any_other(
    run_dir: Path, column: str, value: object, capsys
) -> None:
    sources = [shown(run_dir, "a1"), shown(run_dir, "a2", "a0-a2")]
    retyped(run_dir, "a0", column, value)
    data_dir = run_dir / "agents" / "a0"
    for name in ("show", "explain"):
        assert run_command(["ledger", name, str(data_dir)]) in (0, BAD_CONFIGURATION)
    assert run_command(["ledger", "audit", str(run_dir)]) == 0
    assert export(run_dir) == VERIFICATION_FAILED
    assert capsys.readouterr().err.splitlines()[-1].startswith("candor: error: the database is dam")
    assert repair(run_dir, "a0", *sources) == 0
    assert "restored record 1\n" in capsys.readouterr().out
    assert export(run_dir) == 0


def test_a_reason_of_another_type_is_shown_as_text(run_dir: Path) -> None:
    with sqlite3.connect(run_dir / "agents" / "a0" / "ledger.sqlite") as connection:
        connection.execute("CREATE TABLE loose AS SELECT * FROM channels")
        connection.execute("DROP TABLE channels")
        connection.execute("ALTER TABLE loose RENAME TO channels")
        connection.execute("UPDATE channels SET reason = x'61'")
    connection.close()
    assert "(a)" in ledger("show", run_dir / "agents" / "a0").output


def test_text_with_the_same_bytes_is_damage_too(run_dir: Path) -> None:
    source = shown(run_dir, "a1")
    retyped(run_dir, "a0", "head", b"")
    assert repair(run_dir, "a0", source, shown(run_dir, "a2", "a0-a2")) == 0
    with sqlite3.connect(run_dir / "agents" / "a0" / "ledger.sqlite") as connection:
        connection.execute("UPDATE records SET sig_p = CAST(sig_p AS TEXT)")
    connection.close()
    assert export(run_dir) == VERIFICATION_FAILED
    assert repair(run_dir, "a0", source, shown(run_dir, "a2", "a0-a2")) == 0
    assert export(run_dir) == 0


@pytest.mark.parametrize("folder", [".", "agents/a2"])
def test_a_claim_with_a_forged_signature_opens_no_bill_and_accuses_nobody(
    run_dir: Path, folder: str, capsys
) -> None:
    database = run_dir / "agents" / "a2" / "ledger.sqlite"
    with sqlite3.connect(database) as connection:
        for row, data in connection.execute("SELECT rowid, evidence FROM records").fetchall():
            bills = map(SignedBill.decode, unpack(data, bytes_max=len(data)))
            forged = [
                replace(bill, claims=tuple(replace(c, signature=bytes(64)) for c in bill.claims))
                for bill in bills
            ]
            evidence = pack([bill.encode() for bill in forged])
            connection.execute("UPDATE records SET evidence = ? WHERE rowid = ?", (evidence, row))
    connection.close()
    assert run_command(["ledger", "audit", str(run_dir / folder)]) == 0
    assert "VIOLATION" not in capsys.readouterr().out


def test_a_view_in_a_database_is_not_read(run_dir: Path, capsys) -> None:
    data_dir = run_dir / "agents" / "a0"
    with sqlite3.connect(data_dir / "ledger.sqlite") as connection:
        connection.execute("DROP TABLE records")
        connection.execute(
            "CREATE VIEW records AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i FROM n)"
            " SELECT i AS channel_id, i AS seq, i AS head, i AS body, i AS sig_p, i AS sig_a,"
            " i AS evidence FROM n"
        )
    connection.close()
    assert run_command(["ledger", "audit", str(run_dir)]) == 0
    for name in ("show", "explain"):
        assert run_command(["ledger", name, str(data_dir)]) == BAD_CONFIGURATION
        assert "not a ledger database of this version" in capsys.readouterr().err


def test_opened_windows_are_never_put_where_exports_are_handed_out(run_dir: Path, capsys) -> None:
    before = export_path(run_dir).read_bytes()
    for more in ((), ("-o", run_dir / "agents" / "a0" / "ledger")):
        assert export(run_dir, "a0", "--open", "0", *more) == BAD_CONFIGURATION
        assert "is handed out; name another folder with -o" in capsys.readouterr().err
    assert export(run_dir, "a0", "--open", "9", "-o", run_dir / "shown") == BAD_CONFIGURATION
    assert "--open 9: that window is not settled, 0 to 1 are" in capsys.readouterr().err
    assert export_path(run_dir).read_bytes() == before
    assert not (run_dir / "shown").exists()


def test_an_export_says_whose_claims_it_shows_and_verify_how_much_is_recomputed(
    run_dir: Path, capsys
) -> None:
    assert export(run_dir, "a0", "--open", "1", "-o", run_dir / "shown") == 0
    assert ".jsonl, shows claims of a0, a1, a2\n" in capsys.readouterr().out
    cluster = str(run_dir / "cluster.toml")
    for path, count in ((export_path(run_dir), 0), (run_dir / "shown" / "a0-a1.jsonl", 2)):
        assert run_command(["ledger", "verify", str(path), "--cluster", cluster]) == 0
        assert f"ok, 2 windows, {count} of 4 bills recomputed, " in capsys.readouterr().out


def test_the_audit_names_a_damaged_database_whose_claims_it_cannot_use(
    run_dir: Path, capsys
) -> None:
    for place in (0.2, 0.4, 0.6, 0.9):
        damage(run_dir, "a0", "a0-a1", 1, "evidence", place)
    (run_dir / "agents" / "a1" / "ledger.sqlite").write_bytes(b"")
    assert run_command(["ledger", "audit", str(run_dir)]) == 0
    told = capsys.readouterr().out
    assert "note: a0/ledger.sqlite: the database is damaged, edge a0-a1: seq 1: evidence: " in told
    assert "note: a1/ledger.sqlite: no such table: " in told
    assert "recomputed 6 of 6 bills\n" in told  # a2 has all of them
