"""The report of a whole run, of a broken one, and of one that tries to break the page."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from click.testing import CliRunner

from candor.agent.cli.report import command
from candor.agent.daemon.metrics import MetricsWriter, RoundMetrics
from candor.agent.daemon.status import Status, StatusFile
from candor.agent.reports.run_page import render, write_report
from candor.agent.runs import fault_log
from candor.agent.runs.directory import consensus_distances, read_run_directory
from candor.agent.runs.fault_log import Happened
from candor.topologies.specs.specs import ConfigurationError

AGENTS = tuple(f"a{i}" for i in range(8))
ROUNDS = 24
WIDTH = 16


def _metrics(index: int, generator: np.random.Generator) -> Iterator[RoundMetrics]:
    for number in range(1, ROUNDS + 1):
        accuracy = 0.96 - 0.8 * math.exp(-number / 8) + 0.01 * float(generator.standard_normal())
        norm = (3 if index == 3 else 1) * (4 + float(generator.standard_normal()))
        yield RoundMetrics(
            round=number,
            seconds=0.1 * number,
            train_loss=2.3 * math.exp(-number / 10),
            test_accuracy=accuracy if number % 2 == 0 else None,
            injected_norm=norm,
            balance=(number // 8) * (-3_600_000 if index == 3 else 514_285),
            bytes_sent=number * 40_000,
            bytes_received=number * 40_000,
            neighbours_mixed=2,
            missing=("a1",) if index == 0 and number == 5 else (),
        )


def _write_run(run_dir: Path) -> Path:
    """A run of eight agents on a ring as a testbed leaves it; a3 triples its updates."""
    generator = np.random.default_rng(1)
    for index, agent in enumerate(AGENTS):
        data_dir = run_dir / "agents" / agent
        data_dir.mkdir(parents=True)
        with MetricsWriter(data_dir / "metrics.csv") as writer:
            for metrics in _metrics(index, generator):
                writer.write(metrics)
        StatusFile(data_dir).write(
            Status("demo", agent, "ab" * 32, 1, "done", ROUNDS, ROUNDS, bytes_sent=960_000)
        )
        decay = np.exp(-np.arange(ROUNDS) / 10)[:, None]
        sketches = 1 + decay * generator.standard_normal((ROUNDS, WIDTH))
        (data_dir / "sketches.f64").write_bytes(sketches.astype("<f8").tobytes())
    edges = [[agent, AGENTS[(i + 1) % 8]] for i, agent in enumerate(AGENTS)]
    cluster = {
        "version": 1,
        "run_id": "demo",
        "seed": 1,
        "task": {"name": "digits", "partition": "dirichlet:0.5", "parameters": 2410},
        "payments": {"rule": "norm:2e-5", "window": 8, "sketch_size": WIDTH},
        "graph": {"topology": "ring", "mixing": "metropolis-hastings", "edges": edges},
        "agents": [{"id": agent, "endpoint": "tcp://127.0.0.1:9000"} for agent in AGENTS],
    }
    (run_dir / "cluster.toml").write_text(tomli_w.dumps(cluster))
    paid = [1_200_000, -300_000, 5_200_000, -4_800_000, 250_000, -100_000, 0, 800_000]
    summary = {
        "run_id": "demo",
        "rounds": ROUNDS,
        "seed": 1,
        "task": "digits",
        "topology": "ring",
        "partition": "dirichlet:0.5",
        "rule": "norm:2e-5",
        "accuracy": dict.fromkeys(AGENTS, 0.951),
        "centralised_accuracy": 0.972,
        "alone_accuracy": dict.fromkeys(AGENTS, 0.78),
        "mean_accuracy": 0.951,
        "min_accuracy": 0.944,
        "balances": {agent: -10_800_000 if agent == "a3" else 1_542_857 for agent in AGENTS},
        "bytes_sent": dict.fromkeys(AGENTS, 960_000),
        "strategies": {"a3": "scale:3"},
        "edges": [
            {"lo": min(edge), "hi": max(edge), "balance_lo": balance}
            for edge, balance in zip(edges, paid, strict=True)
        ],
        "consensus_distance": 0.42,
        "audit": "ok",
        "seconds": 12.5,
    }
    (run_dir / "summary.json").write_text(json.dumps(summary))
    return run_dir


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run_dir(whole_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(whole_run, tmp_path / "run")


class _Page(HTMLParser):
    """What a browser would see: the tags, the attributes and the text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.images: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.source = source
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "img":
            self.images.append(dict(attrs)["alt"] or "")
            self.sources.append(dict(attrs)["src"] or "")

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def _render(run_dir: Path) -> _Page:
    return _Page(render(read_run_directory(run_dir)))


@pytest.fixture(scope="module")
def whole_page(whole_run: Path) -> _Page:
    return _render(whole_run)


def test_a_whole_run_has_every_drawing_and_table_and_nothing_is_missing(whole_page: _Page) -> None:
    page = whole_page
    assert [alt.partition(":")[0] for alt in page.images] == [
        "Test accuracy",
        "Training loss",
        "The graph of the run with 8 edges and who paid whom",
        "Balances",
        "Injected updates",
        "Consensus",
    ]
    words = " ".join(page.text.split())
    assert "8 agents · 24 rounds · digits · ring · dirichlet:0.5 · norm:2e-5" in words
    assert "95.1 % mean accuracy 94.4 % lowest accuracy" in words
    assert "97.2 % one model on all data 78.0 % agents alone, mean" in words
    assert "ok ledger audit" in words
    assert "a3 scale:3 done 24 95.1 % -10.800000 960 kB" in words
    assert "payments.sketch_size 16" in words
    assert "What is missing" not in words


HAPPENED = (
    Happened(1.25, 4, "kill", ("a1", "a2"), "a1, a2 killed"),
    Happened(2.5, 9, "end", ("a1",), "a1 started again", "kill"),
    Happened(3.0, 11, "partition", AGENTS, "a0 | all others cut, 2 edges"),
)


def test_what_a_fault_plan_did_is_drawn_and_listed(run_dir: Path) -> None:
    fault_log.append(run_dir, HAPPENED)
    page = _render(run_dir)
    assert page.images[0] == "Faults by agent and round"
    words = " ".join(page.text.split())
    assert "seconds round what was done 1.2 4 a1, a2 killed 2.5 9 a1 started again 3.0 11" in words
    many = [replace(HAPPENED[0], round=n) for n in range(60)]
    fault_log.append(run_dir, many)
    assert "And 13 more in faults.jsonl" in _render(run_dir).text


def test_a_damaged_list_of_faults_is_noted(run_dir: Path) -> None:
    (run_dir / "faults.jsonl").write_text("<script>")
    page = _render(run_dir)
    assert "faults.jsonl: line 1 is damaged" in page.text
    assert len(page.images) == 6


def test_faults_of_agents_that_nobody_knows_are_listed_alone(run_dir: Path) -> None:
    attack = "<script>alert(1)</script>"
    fault_log.append(run_dir, [Happened(1.0, 0, "kill", (attack,), attack)])
    page = _render(run_dir)
    assert "script" not in page.tags
    assert attack in page.text
    assert len(page.images) == 6


def test_the_payments_name_payer_and_receiver_from_the_sign_of_an_edge(whole_page: _Page) -> None:
    words = " ".join(whole_page.text.split())
    # balance_lo is what lo received: above 0 on (a2, a3), below 0 on (a3, a4).
    assert "All payments: 7 payer receiver net, credits a3 a2 5.200000 a3 a4 4.800000" in words


def test_the_page_loads_nothing_and_runs_nothing(whole_page: _Page) -> None:
    page = whole_page
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 6
    assert all(value.startswith("data:image/svg+xml;base64,") for value in sources)


def test_values_of_the_run_cannot_break_out_of_the_text(run_dir: Path) -> None:
    attack = "<script>alert(1)</script>\"'$x^2$ &amp;"
    summary = json.loads((run_dir / "summary.json").read_text())
    summary |= {"run_id": attack, "task": attack, "rounds": attack, "strategies": {"a3": attack}}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    (run_dir / "cluster.toml").write_text(tomli_w.dumps({attack: attack}))
    (run_dir / "agents" / attack.replace("/", "")).mkdir()
    page = _render(run_dir)
    assert "script" not in page.tags
    assert page.text.count(attack) >= 6


def test_the_consensus_distance_is_that_of_the_vectors(tmp_path: Path) -> None:
    # Two agents two units apart on every one of four coordinates: each is sqrt(4) from the mean.
    for agent, value in (("a0", 1.0), ("a1", 3.0)):
        data_dir = tmp_path / "agents" / agent
        data_dir.mkdir(parents=True)
        rows = np.full((3, 4), value) * np.array([[1.0], [2.0], [0.0]])
        (data_dir / "sketches.f64").write_bytes(rows.tobytes())
    (tmp_path / "cluster.toml").write_text(
        tomli_w.dumps({"task": {"parameters": 4}, "payments": {"sketch_size": 1024}})
    )
    run = read_run_directory(tmp_path)
    assert consensus_distances(run.agents) == {1: 2.0, 2: 4.0, 3: 0.0}


def test_without_a_cluster_file_the_width_of_a_sketch_comes_from_the_rounds(run_dir: Path) -> None:
    known = consensus_distances(read_run_directory(run_dir).agents)
    (run_dir / "cluster.toml").unlink()
    run = read_run_directory(run_dir)
    assert consensus_distances(run.agents) == known
    assert "cluster.toml: No such file or directory" in run.notes
    assert "cluster.toml: No such file" in _render(run_dir).text


def test_an_agent_that_died_is_drawn_as_far_as_it_came(run_dir: Path) -> None:
    data_dir = run_dir / "agents" / "a5"
    lines = (data_dir / "metrics.csv").read_text().splitlines(keepends=True)
    (data_dir / "metrics.csv").write_text("".join(lines[:11]) + "11,1.1,0.")
    (data_dir / "sketches.f64").write_bytes((data_dir / "sketches.f64").read_bytes()[: 8 * 167])
    StatusFile(data_dir).write(Status("demo", "a5", "ab" * 32, 1, "mixing", 11, ROUNDS))
    run = read_run_directory(run_dir)
    assert run.notes == ["a5: ended early, last seen mixing in round 11 of 24"]
    assert [len(one.sketch_rounds) for one in run.agents] == [24] * 5 + [10] + [24] * 2
    page = _render(run_dir)
    assert len(page.images) == 6
    assert "ended early" in page.text


def test_the_balance_ends_where_the_last_settlement_left_it(
    run_dir: Path, whole_page: _Page
) -> None:
    with_last_window = whole_page.sources
    summary = json.loads((run_dir / "summary.json").read_text())
    summary["balances"]["a3"] += 3_600_000
    (run_dir / "summary.json").write_text(json.dumps(summary))
    without = _render(run_dir).sources
    changed = [old != new for old, new in zip(with_last_window, without, strict=True)]
    assert changed == [False, False, True, True, False, False]  # the graph and the balances


def test_without_a_summary_the_status_has_the_last_balance(run_dir: Path) -> None:
    (run_dir / "summary.json").unlink()
    StatusFile(run_dir / "agents" / "a5").write(
        Status("demo", "a5", "ab" * 32, 1, "done", ROUNDS, ROUNDS, balance=77)
    )
    (run_dir / "agents" / "a6" / "status.json").unlink()
    balances = read_run_directory(run_dir).balances
    assert (balances["a5"], balances["a6"]) == (77, 3 * 514_285)


def _without_sketches(run_dir: Path) -> None:
    for path in run_dir.glob("agents/*/sketches.f64"):
        path.unlink()


def _without_summary(run_dir: Path) -> None:
    (run_dir / "summary.json").unlink()


def _deep_summary(run_dir: Path) -> None:
    (run_dir / "summary.json").write_text("[" * 100_000)


def _damaged_documents(run_dir: Path) -> None:
    (run_dir / "summary.json").write_text('{"accuracy": ')
    (run_dir / "cluster.toml").write_text("agents = 3")
    (run_dir / "agents" / "a0" / "metrics.csv").write_bytes(b"\xff\xfe\n")
    (run_dir / "agents" / "a1" / "status.json").write_text("{}")
    (run_dir / "agents" / "a2" / "sketches.f64").write_bytes(b"\0" * 7)


def _absurd_summary(run_dir: Path) -> None:
    (run_dir / "summary.json").write_text(
        json.dumps(
            {
                "accuracy": [1],
                "balances": "much",
                "edges": [{"lo": "a0"}, 3, {"lo": "a0", "hi": "zz", "balance_lo": 5}],
                "strategies": 7,
                "alone_accuracy": {"a0": "?"},
                "audit": {},
                "seconds": None,
            }
        )
    )


def _no_agents(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "agents")
    (run_dir / "cluster.toml").unlink()


@pytest.mark.parametrize(
    ("damage", "note", "drawings"),
    [
        (_without_sketches, "no agent's sketches are here, which testbeds record", 5),
        (_without_summary, "summary.json: No such file", 6),
        (_deep_summary, "summary.json: damaged, it does not parse", 6),
        (_damaged_documents, "a0: metrics.csv: cannot read the metrics (it is not text)", 6),
        (_absurd_summary, "ledger audit", 6),
        (_no_agents, "cluster.toml: No such file", 0),
    ],
)
def test_what_is_missing_is_left_out_with_a_note(run_dir, damage, note, drawings) -> None:  # type: ignore[no-untyped-def]
    damage(run_dir)
    page = _render(run_dir)
    assert note in page.text
    assert len(page.images) == drawings


def test_a_quantity_without_a_finite_value_has_no_drawing(run_dir: Path) -> None:
    for path in run_dir.glob("agents/*/metrics.csv"):
        rounds = list(_metrics(0, np.random.default_rng(0)))
        path.unlink()
        with MetricsWriter(path) as writer:
            for metrics in rounds:
                writer.write(replace(metrics, injected_norm=math.nan))
    assert len(_render(run_dir).images) == 5


@pytest.mark.parametrize(("agents", "edges"), [(1, []), (2, [["a0", "a1"]]), (40, None)])
def test_any_number_of_agents_is_drawn(tmp_path: Path, agents: int, edges: object) -> None:
    ids = [f"a{i}" for i in range(agents)]
    for index, agent in enumerate(ids):
        (tmp_path / "agents" / agent).mkdir(parents=True)
        with MetricsWriter(tmp_path / "agents" / agent / "metrics.csv") as writer:
            writer.write(next(_metrics(index, np.random.default_rng(index))))
    chain = [[u, v] for u, v in zip(ids, ids[2:], strict=False)] + [["a0", "a1"]]
    cluster = {"graph": {"edges": chain if edges is None else edges}}
    (tmp_path / "cluster.toml").write_text(
        tomli_w.dumps({**cluster, "agents": [{"id": agent} for agent in ids]})
    )
    assert "Injected updates" in " ".join(_render(tmp_path).images)


def test_the_command_writes_the_same_page_for_the_same_run_and_says_where(
    run_dir: Path, whole_page: _Page, tmp_path: Path
) -> None:
    result = CliRunner().invoke(command, [str(run_dir)])
    assert result.exit_code == 0
    assert Path(result.stdout.strip()) == run_dir / "report.html"
    assert (run_dir / "report.html").read_text() == whole_page.source
    assert whole_page.source.startswith("<!DOCTYPE html>")
    other = tmp_path / "other.html"
    assert CliRunner().invoke(command, [str(run_dir), "-o", str(other)]).exit_code == 0
    assert other.read_text() == whole_page.source


def test_a_directory_without_a_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^[^\n]*not a run directory[^\n]*$"):
        write_report(tmp_path)
    assert not re.search("report", " ".join(path.name for path in tmp_path.iterdir()))
