"""Why an agent was charged, from the database of a run of real cores."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from candor.agent.cli.ledger import command
from candor.agent.daemon.store import Store
from candor.agent.runs.channels import channel_rows
from candor.agent.runs.charges import settled_windows
from candor.mechanisms.payments.credits import CREDIT
from candor.topologies.specs.specs import ConfigurationError
from tests.runs import DIM, LocalRun, finish, write_cluster

RULE = "band:5e-4 + originality:5e-4 + persistence:5e-4 + variance:2e-5 + norm:2e-5"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four agents on a ring with updates at random; a1 sends six times as much. The last window is
    of two rounds."""
    path = tmp_path_factory.mktemp("run")
    cluster = write_cluster(path, rounds=18, window=8, rule=RULE)

    def report(agent: str, t: int) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        drawn = np.random.default_rng([5, cluster.index(agent), t]).standard_normal(DIM)
        return ((6 if agent == "a1" else 1) * (1 + 0.3 * drawn)).astype(np.float32)

    reports = {agent: (lambda t, a=agent: report(a, t)) for agent in cluster.ids}
    run = finish(LocalRun(path, cluster, reports=reports))
    run.export()
    run.close()
    return path


def explain(*arguments: object) -> Result:
    return CliRunner().invoke(command, ["explain", *map(str, arguments)])


def test_what_is_explained_is_what_the_ledgers_say_to_the_micro_credit(run_dir: Path) -> None:
    shown = json.loads(explain(run_dir, "--json").output)["agents"]
    assert list(shown) == ["a0", "a1", "a2", "a3"]
    for agent, windows in shown.items():
        with Store.open(run_dir / "agents" / agent / "ledger.sqlite") as store:
            for row in channel_rows(store):
                peer, received = (row["hi"], row["balance_lo"])
                if agent == row["hi"]:
                    peer, received = row["lo"], row["balance_hi"]
                of_edge = [one for one in windows if one["peer"] == peer]
                assert [one["window"] for one in of_edge] == [0, 1, 2]
                assert sum(one["paid"] for one in of_edge) == -received
        for one in windows:
            bills = [one["theirs"], one["own"]]
            assert one["paid"] == bills[0]["amount"] - bills[1]["amount"]
            for bill in bills:
                terms = bill["terms"]
                assert sum(term["amount"] for term in terms) == bill["amount"]
                assert len(bill["rounds"]) == (2 if one["window"] == 2 else 8)
    paid = {agent: sum(one["paid"] for one in windows) for agent, windows in shown.items()}
    assert sum(paid.values()) == 0
    assert paid["a1"] == max(paid.values())
    # The last window is billed as the others are, short as it is.
    assert all(one["paid"] > 0 for one in shown["a1"] if one["window"] == 2)


def test_the_words_name_rounds_terms_and_what_is_free(run_dir: Path) -> None:
    result = explain(run_dir / "agents" / "a1", "--window", 1)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "a1"
    assert lines[1] == "  window 1"
    assert any(line.startswith("    a1 paid a0 0.") for line in lines)
    assert any(line.startswith("      by the bill of a0, a1 pays 0.") for line in lines)
    assert all(line.endswith(" for rounds 9-16") for line in lines if "by the bill of" in line)
    assert any("noise and energy, times a neighbour's" in line for line in lines)
    assert any("free from 0.5 to 2: charged" in line for line in lines)
    assert lines[-1] == CREDIT
    short = explain(run_dir / "agents" / "a3").output
    assert "window 0" in short
    assert "all is free" not in short  # of norm nothing is
    assert len(short.splitlines()) < len(explain(run_dir / "agents" / "a3", "--window", 0).output)


def test_a_window_that_is_not_there_and_a_folder_without_ledgers(
    run_dir: Path, tmp_path: Path
) -> None:
    nothing = explain(run_dir / "agents" / "a1", "--window", 7)
    assert nothing.output.splitlines()[:2] == ["a1", "  window 7: nothing is settled"]
    assert "no ledger.sqlite here" in str(explain(tmp_path).exception)


def test_what_was_changed_in_the_database_is_not_explained(run_dir: Path, tmp_path: Path) -> None:
    import sqlite3

    data_dir = tmp_path / "agents" / "a1"
    data_dir.mkdir(parents=True)
    (tmp_path / "cluster.toml").write_bytes((run_dir / "cluster.toml").read_bytes())
    (data_dir / "ledger.sqlite").write_bytes(
        (run_dir / "agents" / "a1" / "ledger.sqlite").read_bytes()
    )
    assert settled_windows(data_dir)
    connection = sqlite3.connect(data_dir / "ledger.sqlite")
    connection.execute(
        "UPDATE records SET evidence = (SELECT evidence FROM records r WHERE r.seq = 2 AND "
        "r.channel_id = records.channel_id) WHERE seq = 1"
    )
    connection.commit()
    connection.close()
    with pytest.raises(ConfigurationError, match="record 1 of a0-a1 cannot be explained"):
        settled_windows(data_dir)
