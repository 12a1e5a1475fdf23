"""`candor audit` on the smallest runs that learn: gains, prices, search, report, exit codes."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from candor.agent.cli import main as cli
from candor.topologies.specs.own import import_name
from tests.drawn import empty
from tests.paced import until

RUN = (
    "audit", "--agents", "4", "--topology", "ring", "--task", "digits:model=logistic",
    "--rounds", "32", "--local-steps", "1", "--step-size", "0.3", "--step-decay", "0",
    "--rule", "band:1 + variance:1", "--jobs", "1", "--reward", "training",
)  # fmt: skip
COOPERATING = (*RUN[:-2], "--topology", "star", "--rounds", "16", "--seeds", "2", "--no-search")


LIE = """
class Lie:
    def report(self, gradient, context):
        return {factor} * gradient
"""
NO_AMOUNT = """
import numpy as np


class NoAmount:
    edge_local = True

    def charges(self, neighbourhood):
        energies = neighbourhood.energies
        high = energies > 2.5 * np.median(energies, axis=-1, keepdims=True)
        return np.where(high, np.nan, 0.0)
"""


STEEP = """
import torch
from torch import nn


class Task:
    def build_model(self):
        return nn.Linear(2, 1)

    def load_data(self, shard, seed):
        return (torch.ones(40, 2),)

    def loss(self, model, batch):
        return (model(batch[0]) ** 2).mean()

    def evaluate(self, model):
        return 0.5
"""


def audited(capsys: pytest.CaptureFixture[str], tmp_path: Path, *more: str) -> tuple[int, dict]:
    code = cli.run([*RUN, "--run-dir", str(tmp_path / "audit"), *more, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("drawn")
def test_prices_are_found_at_which_no_lie_pays(capsys, tmp_path):
    code, found = audited(
        capsys, tmp_path, "--seeds", "2", "--strategies", "scale:3,zero,label-flip", "--no-search"
    )
    # In the mean none is left; two seeds prove nothing.
    assert (code, found["answer"], found["profitable"]) == (4, "undecided", [])
    assert found["profitable_without_payments"] == ["scale:3"]
    assert "quality" not in found  # without rewards
    assert (found["rounds"], found["marks"][0], found["marks"][-1]) == (32, 0, 32)
    assert found["window"]["low"] <= 1
    assert found["window"]["high"] is None or found["window"]["high"] >= 1
    for row in found["strategies"].values():
        assert row["net_gain"][0] <= 0.01
        assert row["net_gain"][0] == pytest.approx(row["gain"][0] - row["charge"])
        assert row["cumulative_net_gain"][0] == 0.0  # before the first round
        assert row["cumulative_net_gain"][-1] == pytest.approx(row["net_gain"][0])
        assert row["first_half"] + row["second_half"] == pytest.approx(row["gain"][0])
    # Who trains on false labels is judged by what its model makes of the true ones.
    assert found["strategies"]["label-flip"]["gain"][0] < 0
    assert found["strategies"]["zero"]["gain"][0] < 0
    honest = found["honest_pays"]["all"]
    assert len(honest) == 8
    # What some pay, others receive; each share is of what training is worth to that very agent.
    assert sum(one["credits"] for one in honest) == pytest.approx(0.0, abs=1e-4)
    assert all(one["share"] == pytest.approx(one["credits"] / one["worth"]) for one in honest)
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "fewer than 5 seeds tell nothing" in page
    assert 'class="tile open"' in page
    assert page.count("<img") == 5
    assert empty(page) == 0
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == found


def test_the_prices_found_can_be_given_as_the_rule(capsys, tmp_path):
    strategies = ("--seeds", "1", "--strategies", "scale:3,zero", "--no-search")
    _, found = audited(capsys, tmp_path, *strategies)
    _, again = audited(capsys, tmp_path, *strategies, "--rule", found["rule"], "--price", "1")
    for name, row in found["strategies"].items():
        # Another rule is another run, whose sketches are drawn anew; its training is the same.
        assert again["strategies"][name]["gain"] == row["gain"]
        assert again["strategies"][name]["charge"] == pytest.approx(
            row["charge"], rel=0.2, abs=0.01
        )


def test_a_lie_that_pays_is_named(capsys, tmp_path):
    more = ("--seeds", "5", "--strategies", "scale:3", "--price", "0", "--no-search")
    code, found = audited(capsys, tmp_path, *more)
    assert (code, found["rule"], found["answer"]) == (1, "none", "a lie pays")
    assert found["profitable"] == ["scale:3"]
    assert found["strategies"]["scale:3"]["gain"][0] > 0.01
    assert cli.run([*RUN, "--run-dir", str(tmp_path / "audit"), *more]) == 1
    told = capsys.readouterr().out
    assert f"no lie would gain more than 1 % with {found['stopping']['rule']}, and no" in told
    assert "a lie pays: scale:3" in told
    assert found["stopping"]["honest_max"] >= 0


def test_the_search_finds_a_lie_that_gains_more_where_nothing_is_charged(capsys, tmp_path):
    more = ("--seeds", "1", "--rounds", "16", "--strategies", "scale:1.25", "--price", "0")
    code, found = audited(capsys, tmp_path, *more)
    assert code == 4
    library, *searched = sorted(found["strategies"].values(), key=lambda row: row["searched"])
    assert not library["searched"]
    assert searched[0]["gain"][0] > library["gain"][0]


def test_runs_that_are_there_are_not_run_again(capsys, tmp_path):
    more = ("--seeds", "1", "--rounds", "16", "--strategies", "scale:3", "--no-search")
    first = audited(capsys, tmp_path, *more)
    runs = tmp_path / "audit" / "runs"
    kept = {path: path.stat().st_mtime_ns for path in runs.iterdir()}
    assert len(kept) == 2
    assert audited(capsys, tmp_path, *more) == first
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    # One that a crash cut short is run again.
    cut, other = kept
    cut.write_bytes(cut.read_bytes()[:100])
    other.write_bytes(b"")
    assert audited(capsys, tmp_path, *more) == first
    audited(capsys, tmp_path, *more, "--seed", "7")
    assert len(list(runs.iterdir())) == 4


@pytest.mark.parametrize("module", ["my_lie", "cmd"])  # the standard library has a cmd
def test_another_lie_of_the_same_name_is_another_run(capsys, tmp_path, monkeypatch, module):
    monkeypatch.chdir(tmp_path)
    more = ("--seeds", "1", "--rounds", "16", "--strategies", f"{module}:Lie", "--no-search")
    gains = []
    for factor in (2, 0):
        (tmp_path / f"{module}.py").write_text(LIE.format(factor=factor))
        importlib.invalidate_caches()
        sys.modules.pop(import_name(module), None)
        _, found = audited(capsys, tmp_path, *more)
        gains.append(found["strategies"][f"{module}:Lie"]["gain"][0])
    assert gains[0] > 0 > gains[1]


def test_a_lie_that_ruins_the_model_gains_nothing(capsys, tmp_path):
    more = ("--rounds", "16", "--strategies", "scale:1e30", "--no-search", "--seeds")
    for seeds, expected in (("1", 4), ("5", 0)):
        code, found = audited(capsys, tmp_path, *more, seeds)
        assert code == expected
        assert found["strategies"]["scale:1e+30"]["gain"][0] is None
        assert not found["profitable"]


def test_two_seeds_are_undecided_and_this_is_said_before_the_run(capsys, tmp_path):
    more = ("--rounds", "16", "--strategies", "scale:0.5", "--no-search", "--seeds", "2")
    assert cli.run([*RUN, "--run-dir", str(tmp_path / "audit"), *more]) == 4
    told = capsys.readouterr()
    assert told.err.splitlines()[0] == (
        "candor: this will be undecided whatever 2 --seeds show: it takes 5"
    )
    assert (
        "undecided: scale:0.5 may gain more than 1 %; fewer than 5 seeds tell nothing" in told.out
    )
    assert "no lie pays" not in told.out


def test_enough_seeds_and_a_lie_that_loses_are_an_answer(capsys, tmp_path):
    more = ("--rounds", "16", "--strategies", "sign-flip", "--no-search", "--seeds", "5")
    code, found = audited(capsys, tmp_path, *more)
    assert (code, found["answer"], found["undecided"]) == (0, "no lie pays", [])
    assert found["strategies"]["sign-flip"]["net_gain"][2] < 0.01
    cli.run([*RUN, "--run-dir", str(tmp_path / "audit"), *more])
    told = capsys.readouterr()
    assert "no lie pays: none gains more than 1 %, by its 95% interval" in told.out
    assert told.err == ""
    assert 'class="tile good"' in (tmp_path / "audit" / "report.html").read_text()


def test_an_honest_run_that_diverges_is_named_and_no_answer(capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "steep.py").write_text(STEEP)
    words = [*RUN, "--run-dir", str(tmp_path / "audit"), "--seeds", "1", "--strategies", "zero"]
    assert cli.run([*words, "--task", "steep:Task", "--step-size", "1e30", "--no-search"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "all are honest, seed 0: training diverged: the model of a0 in round" in error


def test_a_rule_without_amounts_for_a_lie_is_no_verdict(capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_rule.py").write_text(NO_AMOUNT)
    more = ("--seeds", "1", "--rounds", "16", "--strategies", "scale:2", "--no-search")
    more = (*more, "--partition", "iid")
    words = [*RUN, "--run-dir", str(tmp_path / "a"), *more, "--rule", "my_rule:NoAmount@1"]
    assert cli.run(words) == 2
    assert "gives no amounts for the updates of strategy scale:2" in capsys.readouterr().err
    assert not (tmp_path / "a" / "audit.json").exists()


def test_a_lie_that_the_rule_cannot_bill_is_named_and_the_others_are_judged(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_rule.py").write_text(NO_AMOUNT)
    words = [*RUN, "--run-dir", str(tmp_path / "audit"), "--seeds", "2", "--rounds", "16"]
    words += ["--partition", "iid", "--rule", "my_rule:NoAmount@1", "--no-search", "--strategies"]
    assert cli.run([*words, "scale:2,zero,averaged:1", "--json"]) == 2
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert (found["unbilled"], list(found["strategies"])) == (["scale:2"], ["zero"])
    error = told.err.splitlines()[-1]
    assert error.startswith("candor: error: strategy scale:2 is not judged: the rule")
    assert cli.run([*words, "scale:2,zero"]) == 2
    assert "not judged: scale:2; the rule gives no amounts" in capsys.readouterr().out
    assert "not judged: scale:2" in (tmp_path / "audit" / "report.html").read_text()
    assert cli.run([*words, "scale:2,scale:1.25"]) == 2
    words[words.index("--seeds") + 1] = "5"
    assert cli.run([*words, "scale:2,scale:1.25"]) == 1  # it pays, whatever of the other


REWARDED = (
    "audit", "--agents", "4", "--topology", "complete", "--task", "digits:model=logistic",
    "--partition", "iid", "--rounds", "16", "--rewards", "cgsv:beta=1", "--price", "0", "--jobs",
    "1", "--no-search", "--reward", "training",
)  # fmt: skip


@pytest.mark.usefixtures("drawn")
def test_under_rewards_a_lie_is_judged_by_model_quality_too(capsys, tmp_path):
    place = tmp_path / "audit"
    words = [*REWARDED, "--run-dir", str(place), "--seeds", "5", "--strategies", "zero,few:0.1"]
    code = cli.run([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    quality, row = found["quality"], found["strategies"]["zero"]
    assert (code, found["answer"]) == (0, "no lie pays")
    assert (quality["metric"], quality["better"]) == ("accuracy", "higher")
    assert (quality["profitable"], quality["undecided"]) == ([], [])
    assert 0 < quality["epsilon"] < 0.01 < quality["honest"] < 1
    mean, low, high = row["quality_gain"]
    assert low <= mean <= high < 0
    assert mean >= -1
    assert row["pays_in_quality"] == "no"
    kept = {path: path.stat().st_mtime_ns for path in (place / "runs").iterdir()}
    assert cli.run(words) == 0
    told = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "no lie pays: none gains more than 1 %, nor in accuracy, by its 95% interval" in told
    assert f"honest, the agent reaches accuracy {100 * quality['honest']:.1f} %; of 2 lies" in told
    assert f"{100 * mean:+.2f} ± {100 * (high - mean):.2f}" in told
    page = (place / "report.html").read_text()
    assert "Model quality" in page
    assert page.count("<img") == 6
    assert empty(page) == 0


def test_a_lie_whose_model_ends_better_pays_whatever_it_is_charged(capsys, tmp_path):
    # Steps this small leave all to learn: whoever exaggerates learns more.
    words = [*REWARDED, "--run-dir", str(tmp_path / "audit"), "--seeds", "5"]
    words += ["--step-size", "0.001", "--strategies", "scale:30", "--price", "1"]
    words += ["--rule", "norm:1000000"]
    assert cli.run([*words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["answer"], found["profitable"]) == ("a lie pays", [])
    assert found["strategies"]["scale:30"]["pays_in_quality"] == "yes"
    assert found["quality"]["profitable"] == ["scale:30"]
    assert cli.run(words) == 1
    told = capsys.readouterr().out
    assert "a lie pays: scale:30 (in accuracy)" in told
    assert re.search(r"^ *scale:30 .*\+\d.* yes *$", told, re.MULTILINE)


def test_a_run_of_one_window_has_no_half(capsys, tmp_path):
    more = ("--seeds", "1", "--rounds", "16", "--strategies", "scale:3", "--no-search")
    _, found = audited(capsys, tmp_path, *more)
    assert found["marks"] == [0, 16]
    assert found["strategies"]["scale:3"]["first_half"] is None
    cli.run([*RUN, "--run-dir", str(tmp_path / "audit"), *more])
    assert "until" not in capsys.readouterr().out
    assert "without, until" not in (tmp_path / "audit" / "report.html").read_text()


def test_commas_within_a_strategy_do_not_part_it(capsys, tmp_path):
    more = ("--seeds", "1", "--rounds", "16", "--no-search")
    _, found = audited(
        capsys, tmp_path, *more, "--strategies", "label-flip:from=1,to=7,scale:2 @ 1-9,every=2"
    )
    assert list(found["strategies"]) == ["label-flip:from=1,to=7", "scale:2 @ 1-9,every=2"]


def test_theory_has_a_price_to_start_from_for_who_competes(capsys, tmp_path):
    more = ("--seeds", "1", "--rounds", "16", "--strategies", "noise:1", "--no-search")
    alone, rival, fierce = (
        audited(capsys, tmp_path, *more, "--competition", weight)[1] for weight in ("0", "1", "2")
    )
    assert alone["theory"]["peer-prediction"] is None  # noise wins nothing for oneself
    assert rival["theory"]["peer-prediction"] > 0.0
    assert fierce["theory"]["peer-prediction"] == pytest.approx(
        2 * rival["theory"]["peer-prediction"]
    )
    # The rivals' losses are in the reward: noise that gained nothing now gains something.
    gains = [one["strategies"]["noise:1"]["gain"][0] for one in (alone, rival, fierce)]
    assert gains[2] > gains[1] > gains[0]


def test_colluders_are_judged_as_a_pair(capsys, tmp_path):
    more = ("--seeds", "1", "--rounds", "16", "--strategies", "colluding:3", "--no-search")
    _, found = audited(capsys, tmp_path, *more)
    assert found["strategies"]["colluding:3"]["gain"][0] != 0.0


def test_several_processes_find_the_same(capsys, tmp_path):
    more = ("--seeds", "1", "--rounds", "16", "--strategies", "scale:3", "--no-search")
    one = audited(capsys, tmp_path / "one", *more)
    assert audited(capsys, tmp_path / "two", *more, "--jobs", "2") == one


def test_cooperation_is_judged_on_held_out_samples_before_any_lie(capsys, tmp_path):
    """By default: one agent of each degree lies, gains are shares of what cooperation is worth to
    it, and the audit says first whom it pays and whether more training would help all."""
    place = tmp_path / "audit"
    words = [*COOPERATING, "--run-dir", str(place), "--strategies", "scale:3,zero"]
    assert cli.run([*words, "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert (found["reward"], found["held_out"], found["fine_tune"]) == ("cooperation", 0.25, 50)
    worth, honest = found["worth"], found["honest_pays"]
    gaining = [one["worth"] for one in honest["all"] if one["worth"] > 0]
    assert (worth["agents"], worth["gaining"]) == (8, len(gaining))
    assert worth["usual"] == pytest.approx(sum(gaining) / len(gaining))
    assert worth["accuracy_alone"] < worth["accuracy"] < 1
    assert [one["what"] for one in worth["more"]] == ["twice the step", "twice the rounds"]
    assert all(one["helps"] for one in worth["more"])  # sixteen rounds are few
    assert [liar["degree"] for liar in found["liars"]] == [1, 3]
    leaf, hub = (liar["agent"] for liar in found["liars"])
    assert set(found["strategies"]) == {
        f"{one} by {agent}" for one in ("scale:3", "zero") for agent in (leaf, hub)
    }
    by_degree = [one for one in honest["groups"] if one["by"] == "degree"]
    assert [(one["from"], one["agents"]) for one in by_degree] == [(1, 6), (3, 2)]
    assert {one["by"] for one in honest["groups"]} == {"degree", "samples", "classes"}
    kept = set((place / "runs").iterdir())
    assert len(kept) == 2 * (1 + 1 + 2 + 2 * 2)  # honest, alone, with more training, and the lies

    # What computing costs is told afterwards: no run is performed again, and idling gains by it.
    assert cli.run([*words, "--json", "--cost", "0.01"]) == 4
    dearer = json.loads(capsys.readouterr().out)
    assert set((place / "runs").iterdir()) == kept
    idle, idle_saving = (
        one["strategies"][f"zero by {leaf}"]["gain"][0] * one["liars"][0]["reward"]
        for one in (found, dearer)
    )
    assert idle_saving == pytest.approx(idle + 16 * 0.01, abs=0.01 * 50)
    assert idle_saving > idle
    assert cli.run(words) == 4
    told = capsys.readouterr().out
    assert told.startswith(f"cooperation pays {len(gaining)} of 8 agents (of all seeds): ")
    assert "this run is undertrained" in told
    assert f"{leaf}, {hub} lie in turn" in told
    assert "Who pays" in (place / "report.html").read_text()


def test_agents_that_lie_are_named_one_by_one_or_in_a_list(capsys, tmp_path):
    more = ("--seeds", "1", "--rounds", "16", "--strategies", "zero", "--no-search")
    _, found = audited(capsys, tmp_path, *more, "--agent", "a1,a3", "--agent", "a1")
    assert list(found["strategies"]) == ["zero by a1", "zero by a3"]


def test_where_rounds_are_done_again_a_bond_stops_what_shows_and_costs_honest_agents_nothing(
    capsys, tmp_path
):
    place, named = tmp_path / "audit", "scale:3,scale:20 @ 16,label-flip,few:0.5,zero @ 999"
    words = [*RUN, "--run-dir", str(place), "--seeds", "5", "--strategies", named, "--no-search"]
    words += ["--replay"]
    assert cli.run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    replay, rows = found["replay"], found["strategies"]
    assert (found["answer"], found["rule"]) == ("no lie pays", "none")
    assert replay["blind"] == ["label-flip", "few:0.5"]
    assert replay["never_acted"] == ["zero @ 999"]
    assert found["honest_pays"]["max"] == 0.0
    assert replay["honest_pays_stated"]["max"] > 0.0
    steady, once = rows["scale:3"], rows["scale:20 @ 16"]
    assert (steady["found"], steady["windows_until_found"]) == (1.0, 1.0)
    assert (once["found"], once["false_rounds"]) == (1 / 16, 1 / 32)
    assert steady["gain"][0] > 0.01 < once["gain"][0]
    assert steady["bond_asked"] < once["bond_asked"] == replay["bond"]
    assert replay["bond_by"] == "scale:20 @ 16"
    for row in (steady, once):
        lost = row["found"] * replay["bond"] / found["liars"][0]["reward"]
        assert row["net_gain"][0] == pytest.approx(row["gain"][0] - lost)
    assert rows["few:0.5"]["net_gain"] == rows["few:0.5"]["gain"]
    kept = set((place / "runs").iterdir())

    # With half of the rounds done again, one false round is found half as often; no run is new.
    assert cli.run([*words, "--json", "--audit-rate", "0.5"]) == 0
    seldom = json.loads(capsys.readouterr().out)
    assert set((place / "runs").iterdir()) == kept
    assert seldom["replay"]["bond"] == pytest.approx(2 * replay["bond"])
    assert seldom["strategies"]["scale:3"]["found"] == 0.75
    assert cli.run(words) == 0
    told = capsys.readouterr().out
    assert f"bond: {replay['bond']:.4g} credits" in told
    assert "no round done again shows label-flip, few:0.5: no prices are needed" in told
    assert re.search(r"^ *label-flip .* blind ", told, re.MULTILINE)
    assert re.search(r"^ *zero @ 999 .* never ", told, re.MULTILINE)
    assert "never acted in runs this short: zero @ 999" in told


@pytest.mark.e2e
def test_the_workers_of_a_killed_audit_end_too(tmp_path):
    words = (*RUN, "--seeds", "4", "--rounds", "4000", "--run-dir", str(tmp_path / "audit"))
    audit = subprocess.Popen(
        [sys.executable, "-m", "candor", *words, "--jobs", "2"], stderr=subprocess.DEVNULL
    )
    try:
        workers = until(lambda: [pid for pid in children(audit.pid) if "spawn_main" in line(pid)])
    finally:
        audit.kill()
        audit.wait()
    until(lambda: not any(line(pid) for pid in workers))


def children(pid: int) -> list[int]:
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(word) for word in words]


def line(pid: int) -> str:
    """The command of a process; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.parametrize(
    "more",
    [
        ("--price", "much"),
        ("--price", "1e308"),
        ("--strategies", "label-flip:from=1,to=99"),
        ("--step-size", "1e308"),
        ("--seed", "99999999999999999999999"),
        ("--run-dir", "/proc/none"),
        ("--strategies", "scal:3"),
        ("--strategies", ""),
        ("--strategies", "honest"),
        ("--epsilon", "inf"),
        ("--epsilon", "nan"),
        ("--competition", "nan"),
        ("--agents", "1"),
        ("--agent", "x"),
        ("--agent", "a0,x"),
        ("--cost", "-1"),
        ("--fine-tune", "5"),  # of the other reward
        ("--audit-rate", "0.5"),  # without --replay
        ("--replay", "--audit-rate", "0"),
        ("--rule", "none"),
        ("--run-dir", "."),
    ],
)
def test_mistakes_get_one_line(capsys, tmp_path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").write_text("")
    assert cli.run([*RUN, "--seeds", "5", *more]) == 2
    told = capsys.readouterr().err.splitlines()
    (line,) = (line for line in told if not line.startswith("runs: "))  # of a slow machine
    assert line.startswith("candor: error: ")
