"""Who is accused beside the ledgers of a run: proven, or by the word of its neighbours."""

import json

import pytest

from candor.agent.cli.main import run as run_command
from candor.agent.daemon.recorder import Recorder
from candor.agent.daemon.status import misrated_of, read_status
from tests.agent.core.test_bartering import lying, traded_run, with_rating


@pytest.fixture(scope="module")
def accused(tmp_path_factory):
    """A run in which a1 gives a0 less than it earns, and keeps a file that is no proof."""
    folder = tmp_path_factory.mktemp("accused")
    run = traded_run(folder, rounds=6)
    run.start()
    lying(run, "a1", 6, lambda said: with_rating(said, "a0", groups=0))
    run.run()
    names = {"run_id": "test", "fingerprint": run.cluster.fingerprint, "rounds": 6}
    for agent, node in run.nodes.items():
        data_dir = folder / "agents" / agent
        with Recorder(data_dir, **names, record_sketches=False, taken=lambda _: ()) as recorder:
            recorder.ended(node.core, "done")
    run.export()
    (folder / "agents/a1/evidence").mkdir()
    (folder / "agents/a1/evidence/two-bills-a0.proof").write_bytes(b"no proof")
    run.close()
    return folder


def test_the_audit_names_who_gave_less_and_on_whose_word_and_what_is_proven(accused, capsys):
    assert run_command(["ledger", "audit", str(accused)]) == 0
    *_, proven, worthless, word, verdict = capsys.readouterr().out.splitlines()
    file = "agents/a0/evidence/false-rating-a1.proof"
    assert proven == f"proven: a1: false-rating in round 6: guilty, by {file} and 2 more files"
    assert worthless.startswith("note: agents/a1/evidence/two-bills-a0.proof: proves nothing: ")
    assert word == (
        "by its neighbours' word: a1 gave less than ratings earn, or rated falsely: refused by "
        "a0 1 times, a2 1 times"
    )
    assert verdict == "ledger audit of test: ok"


def test_programs_are_told_the_same(accused, capsys):
    assert run_command(["ledger", "audit", str(accused), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["proven"]) == 3  # all that are honest keep it
    for proven in told["proven"]:
        assert (proven["agent"], proven["kind"], proven["malice"]) == ("a1", "false-rating", True)
    assert list(told["worthless"]) == ["agents/a1/evidence/two-bills-a0.proof"]
    assert told["misrated"] == {"a1": {"a0": 1, "a2": 1}}


def test_of_one_data_directory_it_is_the_word_of_its_agent_alone(accused, capsys):
    assert run_command(["ledger", "audit", str(accused / "agents/a0"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["proven"]) == 1
    assert told["misrated"] == {"a1": {"a0": 1}}


def test_a_status_of_another_run_says_nothing_here(accused, capsys):
    path = accused / "agents/a2/status.json"
    said = path.read_text()
    own = read_status(path.parent).fingerprint
    try:
        path.write_text(said.replace(own, "0" * 64))
        assert misrated_of([read_status(path.parent)]) == {"a1": {"a2": 1}}
        assert run_command(["ledger", "audit", str(accused), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["misrated"] == {"a1": {"a0": 1}}
    finally:
        path.write_text(said)
