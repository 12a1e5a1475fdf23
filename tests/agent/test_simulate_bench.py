"""The benchmark of simulated runs trains what it says it does."""

import json

import pytest

from agent import cli


def test_every_task_is_timed_with_and_without_payments(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "simulate", "--agents", "8", "--rounds", "16", "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert [(cost["parameters"], cost["rule"] == "none") for cost in costs] == [
        *((650, True), (650, False)),
        *((2762, True), (2762, False)),
    ]
    for cost in costs:
        assert cost["agents"] == 8
        assert cost["agent_rounds_per_s"] > 1
        assert cost["memory_mib"] > 50


def test_a_device_that_is_not_there_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.run(["bench", "simulate", "--device", "cuda"]) == 2
    assert "torch finds none here" in capsys.readouterr().err
