"""The command line as a whole."""

import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from candor.agent.cli import main as cli
from candor.agent.exits import FAULT, INTERRUPTED
from candor.topologies.specs.specs import users_errors


def test_a_fault_of_the_program_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An audit's exit code 1 says that a lie pays: a bug must not say so."""

    def broken(_name: str) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("candor.agent.cli.main.importlib.import_module", broken)
    monkeypatch.setattr(sys, "argv", ["candor", "keygen"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == FAULT
    assert "ZeroDivisionError: a bug" in capsys.readouterr().err


def test_sigterm_in_the_midst_of_the_users_code_is_no_mistake_of_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An audit would take it for a strategy that nobody can bill, and keep that."""

    def stopped(_name: str) -> None:
        with users_errors("task: train() failed"):
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("candor.agent.cli.main.importlib.import_module", stopped)
    monkeypatch.setattr(sys, "argv", ["candor", "keygen"])
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == INTERRUPTED


def test_a_note_is_one_line_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "double.edges"
    path.write_text("x y\nx y\ny z\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    with warnings.catch_warnings(action="default"):
        assert cli.run(["topology", "compare", str(path)]) == 0
    assert capsys.readouterr().err == f"candor: note: {path}: left out 1 parallel edge\n"


def test_a_thread_that_a_task_leaves_does_not_keep_the_process_for_ever() -> None:
    script = (
        "import sys, threading\n"
        "from candor.agent.cli import main\n"
        "main.THREADS_END_S = 0.2\n"
        "threading.Thread(target=threading.Event().wait, name='uploads').start()\n"
        "sys.argv = ['candor', '--version']\n"
        "main.main()\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert found.returncode == 0
    assert found.stdout.startswith("candor")
    assert found.stderr == "candor: threads of the task had not ended: uploads\n"


@pytest.mark.parametrize("name", ["games", "femnist"])
def test_a_study_that_moved_says_where_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "--help"]) == 2
    told = f"candor: error: `candor {name}` is `candor study {name}` now; call that\n"
    assert capsys.readouterr().err == told
    assert cli.run(["study", name, "--help"]) == 0
