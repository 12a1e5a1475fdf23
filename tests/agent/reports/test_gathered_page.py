"""The page of one host's data directory, and of what was gathered of several by hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from candor.agent.daemon.metrics import MetricsWriter, RoundMetrics
from candor.agent.daemon.status import NeighbourStatus, Status, StatusFile
from candor.agent.daemon.store import Store
from candor.agent.reports.run_page import render
from candor.agent.runs.channels import channel_rows
from candor.agent.runs.directory import read_run_directory
from candor.mechanisms.payments.credits import format_credits
from candor.topologies.cluster.file import Cluster
from tests.agent.reports.test_run_page import _Page as Page
from tests.runs import DIM, LocalRun, finish, write_cluster

ROUNDS = 8
IDS = ("a0", "a1", "a2", "a3")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directories of four agents on a ring, side by side; a1 sends six times as much."""
    run_dir = tmp_path_factory.mktemp("run")
    cluster = write_cluster(run_dir, rounds=ROUNDS, window=4, rule="norm:2e-5 + variance:2e-5")

    def drawn(agent: str, t: int) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        noise = np.random.default_rng([5, cluster.index(agent), t]).standard_normal(DIM)
        return ((6 if agent == "a1" else 1) * (1 + 0.3 * noise)).astype(np.float32)

    reports = {agent: (lambda t, a=agent: drawn(a, t)) for agent in IDS}
    run = finish(LocalRun(run_dir, cluster, reports=reports))
    run.export()
    run.close()
    for agent in IDS:
        leave(run_dir / "agents" / agent, agent, cluster)
        shutil.copy(run_dir / "cluster.toml", run_dir / "agents" / agent)
    return run_dir / "agents"


def leave(data_dir: Path, agent: str, cluster: Cluster) -> None:
    """Metrics and a status, as a daemon leaves them."""
    with Store.open(data_dir / "ledger.sqlite") as store:
        rows = channel_rows(store)
    received = {
        row["hi"] if row["lo"] == agent else row["lo"]: (
            row["balance_lo"] if row["lo"] == agent else row["balance_hi"]
        )
        for row in rows
    }
    with MetricsWriter(data_dir / "metrics.csv") as writer:
        for t in range(1, ROUNDS + 1):
            writer.write(RoundMetrics(t, 0.1 * t, 1 / t, 1 - 1 / (t + 1), 2.0, 0, 9, 9, 2))
    neighbours = {
        peer: NeighbourStatus(
            "left", ROUNDS, amount, due_rounds=ROUNDS, mixed_rounds=ROUNDS - (peer == "a2")
        )
        for peer, amount in received.items()
    }
    StatusFile(data_dir).write(
        Status(
            "test",
            agent,
            cluster.fingerprint,
            1,
            "done",
            ROUNDS,
            ROUNDS,
            test_accuracy=0.875,
            balance=sum(received.values()),
            neighbours=neighbours,
            performed_rounds=ROUNDS,
        )
    )


def page_of(path: Path) -> tuple[Page, str]:
    page = Page(render(read_run_directory(path)))
    return page, " ".join(page.text.split())


def drawings(page: Page) -> list[str]:
    return [alt.partition(":")[0] for alt in page.images]


def test_a_host_sees_its_curves_its_payments_and_what_they_were_for(hosts: Path) -> None:
    page, words = page_of(hosts / "a1")
    assert drawings(page) == [
        "Test accuracy",
        "Training loss",
        "The graph of the run with 2 edges and who paid whom",
        "Balances",
        "Injected updates",
    ]
    assert "Candor agent test a1, one of 4 agents · 8 rounds · fixed · ring" in words
    assert "87.5 % accuracy" in words
    assert "ok ledger audit, as a1 has it" in words
    told = "2 of 3 agents took part throughout; a2 was mixed in 87 % of rounds by its neighbours"
    assert f"As a1 saw it, {told}, last seen in round 8." in words
    assert "of 2 edges with 4 settled windows" in words
    with Store.open(hosts / "a1" / "ledger.sqlite") as store:
        owed = {row["lo"] + row["hi"]: row for row in channel_rows(store)}
    to_a0, to_a2 = owed["a0a1"]["balance_lo"], owed["a1a2"]["balance_hi"]
    assert min(to_a0, to_a2) > 0
    for peer, amount in (("a0", to_a0), ("a2", to_a2)):
        assert f"a1 {peer} {format_credits(amount)}" in words  # payer, receiver
        assert f"{peer} left 8 {format_credits(-amount, signed=True)} " in words
    _, _, table = words.partition("What a1 paid for")
    assert "neighbour term by its bills by those of a1 net a0 norm +" in table
    assert "strategy" not in words
    assert "What is missing" in words  # sketches


def test_of_a_host_that_trains_all_but_the_audit_is_there(hosts: Path, tmp_path: Path) -> None:
    host = shutil.copytree(hosts / "a1", tmp_path / "alice-on-host-7")
    shutil.rmtree(host / "ledger")
    page, words = page_of(host)
    assert len(page.images) == 5
    assert "not done ledger audit, as a1 has it" in words
    assert "the ledgers were not audited: " in words
    assert "`candor ledger export` at any time" in words
    assert "What a1 paid for" in words


@pytest.mark.parametrize("inside", ["agents", "."])
def test_gathered_data_directories_are_one_run(hosts: Path, tmp_path: Path, inside: str) -> None:
    shutil.copytree(hosts, tmp_path / inside, dirs_exist_ok=True)
    if inside == "agents":
        shutil.copy(hosts / "a0" / "cluster.toml", tmp_path)
    page, words = page_of(tmp_path)
    assert drawings(page)[:3] == [
        "Test accuracy",
        "Training loss",
        "The graph of the run with 4 edges and who paid whom",
    ]
    assert "Candor run test 4 agents · 8 rounds" in words
    assert "87.5 % mean accuracy" in words
    assert "ok ledger audit" in words
    assert "3 of 4 agents took part throughout; a2 was mixed in 87 % of rounds" in words
    assert "of 4 edges with 8 settled windows" in words
    assert "All payments: 4" in words


def test_exports_alone_say_who_paid_whom(hosts: Path, tmp_path: Path) -> None:
    shutil.copy(hosts / "a0" / "cluster.toml", tmp_path)
    for agent in IDS:
        shutil.copytree(hosts / agent / "ledger", tmp_path / "agents" / agent / "ledger")
    page, words = page_of(tmp_path)
    assert drawings(page) == ["The graph of the run with 4 edges and who paid whom"]
    assert "ok ledger audit" in words
    assert "All payments: 4" in words
    whole = page_of(hosts)[1]
    paid = words[words.index("All payments") : words.index("Agents")]
    assert paid in whole


def test_no_section_and_no_column_is_empty(hosts: Path, tmp_path: Path) -> None:
    """Of exports alone there are neither curves nor states, and nobody has said who lies."""
    shutil.copy(hosts / "a0" / "cluster.toml", tmp_path)
    for agent in IDS:
        shutil.copytree(hosts / agent / "ledger", tmp_path / agent / "ledger")
    _, words = page_of(tmp_path)
    assert "agent balance a0 " in words
    for absent in ("Test accuracy", "Training loss", "Consensus", "strategy", "state", "unknown"):
        assert absent not in words, absent


def test_what_is_not_there_is_named_and_not_called_a_violation(hosts: Path, tmp_path: Path) -> None:
    for agent in IDS[:3]:
        shutil.copytree(hosts / agent, tmp_path / agent)
    _, words = page_of(tmp_path)
    assert "incomplete ledger audit" in words
    assert "a3 has left no export of this edge" in words
    assert "a3: it left no data directory" in words
    assert "All payments: 4" in words  # the other ends tell of them


def test_an_export_that_was_changed_is_named_on_the_page(hosts: Path, tmp_path: Path) -> None:
    shutil.copytree(hosts, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "a1" / "ledger" / "a1-a2.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"balance":', b'"balance":1'))
    for place, seen in ((tmp_path, ""), (tmp_path / "a1", ", as a1 has it")):
        words = page_of(place)[1]
        assert f"violated ledger audit{seen}" in words
        assert "edge record code what is wrong file a1-a2 3 end " in words
    assert "ok ledger audit, as a0 has it" in page_of(tmp_path / "a0")[1]
