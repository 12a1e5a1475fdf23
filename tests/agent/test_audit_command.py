"""`candor audit` on the smallest runs that learn: gains, prices, exit codes."""

import json

import pytest

from agent import cli

RUN = (
    "audit", "--agents", "4", "--topology", "ring", "--task", "digits:model=logistic",
    "--rounds", "32", "--local-steps", "1", "--step-size", "0.3", "--step-decay", "0",
    "--jobs", "1",
)  # fmt: skip


def audited(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict]:
    code = cli.run([*RUN, *more, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_price_is_found_at_which_no_lie_pays(capsys):
    code, found = audited(capsys, "--seeds", "2", "--strategies", "scale:3,zero")
    assert code == 0
    assert not found["profitable"]
    low, high = found["window"]
    assert low <= found["price"]
    assert high is None or found["price"] <= high
    for row in found["strategies"].values():
        assert row["net_gain"][0] <= 0.01
        net = row["gain"][0] - found["price"] * row["charge"] / found["honest_reward"]
        assert row["net_gain"][0] == pytest.approx(net)
    assert found["strategies"]["zero"]["gain"][0] < 0


def test_a_lie_that_pays_is_named(capsys):
    code, found = audited(capsys, "--seeds", "2", "--strategies", "scale:3", "--price", "0")
    assert (code, found["price"]) == (1, 0.0)
    assert found["profitable"] == ["scale:3"]
    assert found["strategies"]["scale:3"]["gain"][0] > 0.01


@pytest.mark.parametrize(
    "more",
    [("--price", "much"), ("--strategies", "scal:3"), ("--strategy", "a0=zero"), ("--agent", "x")],
)
def test_mistakes_get_one_line(capsys, more):
    assert cli.run([*RUN, "--seeds", "1", *more]) == 2
    err = capsys.readouterr().err
    assert err.startswith("candor: error: ")
    assert err.count("\n") == 1
