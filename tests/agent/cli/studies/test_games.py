"""`candor study games` prints predictions next to measurements, and fails where they differ."""

import json
from dataclasses import asdict

import pytest
from click.testing import CliRunner, Result

from candor.agent.cli.studies import games
from candor.agent.studies.games.estimation_rows import Row


def run(*arguments: str) -> Result:
    return CliRunner().invoke(games.command, ["--trials", "5000", *arguments])


def test_every_result_is_in_the_table_and_holds() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    for source in ("Thm 4.1", "Cor B.1", "Thm B.2", "beyond 5.1", "quadratic", "Thm 6.1"):
        assert source in result.stdout
    assert "fails" not in result.stdout
    assert result.stdout.endswith("results hold\n")
    assert "passed: all " in result.stdout


def test_json_is_the_same_for_the_same_seed() -> None:
    first, again, other = (run("--json", "--seed", seed).stdout for seed in ("5", "5", "6"))
    assert first == again != other
    told = json.loads(first)
    assert told["ok"] is True
    assert {"source", "what", "prediction", "measured", "error", "holds"} <= set(told["rows"][0])
    assert len(told["rows"]) > 30


@pytest.mark.parametrize("relation", ["=", "<="])
def test_a_row_that_does_not_hold_is_exit_code_1(
    relation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Row("Thm 0", "off", 1.0, 1.5, 0.01, relation=relation)  # type: ignore[arg-type]
    monkeypatch.setattr(games, "sgd_rows", lambda trials, rng: [wrong])
    result = run()
    assert result.exit_code == 1
    assert "fails" in result.stdout
    assert "failed: 1 of " in result.stdout
    assert "results do not hold: Thm 0 (off)" in result.stdout
    told = run("--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["ok"] is False
    assert json.loads(told.stdout)["rows"][-1] == asdict(wrong) | {"error": 0.5, "holds": False}


def test_too_few_trials_are_refused() -> None:
    result = CliRunner().invoke(games.command, ["--trials", "10"])
    assert result.exit_code == 2
    assert "'--trials': 10 is not in the range" in result.output
