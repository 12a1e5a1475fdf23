"""`candor study decbyzpg`: names that it does not have."""

from pathlib import Path

import pytest

from candor.agent.cli import main as cli


def test_a_misspelt_attack_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["study", "decbyzpg", "--quick", "--attack", "avg-zer"]
    assert cli.run([*asked, "--run-dir", str(tmp_path / "study")]) == 2
    error = capsys.readouterr().err
    assert "'avg-zer' is not in the paper's runs" in error
    assert "avg-zero" in error.partition("known:")[2]
    assert not (tmp_path / "study").exists()
