"""The command line as a whole."""

import sys

import pytest

from candor.agent.cli import main as cli
from candor.agent.exits import FAULT


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
