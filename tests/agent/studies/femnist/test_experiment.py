"""The experiment with competing writers: what is trained and kept, and what the command says."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from candor.agent.cli.studies.femnist import command
from candor.agent.learning.initial import initial_parameters
from candor.agent.studies.femnist.aggression import Rule, charges
from candor.agent.studies.femnist.experiment import Results, Setting, experiment
from candor.agent.studies.femnist.federated import Alphas, Diverged, Federation, Trained
from candor.agent.tasks import resolve_task
from candor.agent.tasks.classification import Classification
from candor.topologies.specs.specs import ConfigurationError
from tests.drawn import empty

MODEL = "femnist:model=logistic"
HONEST = Alphas(0.0, 0.0)


def write_writers(root: Path, writers: int = 3, *, alike: bool = False) -> None:
    """Writer w with 4 + 2 w images of noise, and two more for the test; or all with the same."""
    rng = np.random.default_rng(7)
    counts = 6 + 2 * np.arange(writers)
    writer = np.repeat(np.arange(writers), counts)
    first = np.concatenate([np.arange(count) for count in counts])
    images = rng.integers(0, 256, (counts.sum(), 28, 28), np.uint8)
    labels = rng.integers(0, 62, counts.sum()).astype(np.uint8)
    if alike:
        images, labels = np.full_like(images, 255), (first % 2).astype(np.uint8)
    np.savez(root / "femnist_105writers.npz", x=images, y=labels, writer=writer, is_test=first < 2)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    write_writers(tmp_path)
    return Federation(resolve_task(MODEL, tmp_path))


def paid(run: Trained) -> NDArray[np.float64]:
    """Net payments by the paper's rule at price 1 (writers,)."""
    return charges(Rule.DISTANCE, np.array(run.images), np.array(run.chosen), np.array(run.squared))


def trained(result: Trained | Diverged) -> Trained:
    assert isinstance(result, Trained)
    return result


# --- training ---------------------------------------------------------------------------------


def test_three_honest_writers_descend_on_all_their_images_together(federation: Federation) -> None:
    got = trained(federation.train(HONEST, seed=3, steps=4, step_size=0.06))
    task = federation.task
    assert isinstance(task, Classification)
    data, x = task.read(), initial_parameters(task, 3)
    model = task.build_model()
    for _ in range(4):
        torch.nn.utils.vector_to_parameters(x, model.parameters())
        gradients = torch.autograd.grad(
            task.loss(model, (data.inputs, data.labels)), list(model.parameters())
        )
        x = x - 0.06 * torch.cat([gradient.flatten() for gradient in gradients])
    torch.nn.utils.vector_to_parameters(x, model.parameters())
    with torch.no_grad():
        expected = float(task.loss(model, (data.test_inputs, data.test_labels)))
    assert got.loss == pytest.approx(expected, rel=1e-5)
    assert got.accuracy == task.evaluate(model)


def test_writers_pay_for_their_distance_from_the_weighted_average(federation: Federation) -> None:
    got = trained(federation.train(HONEST, seed=0, steps=1, step_size=0.06))
    task = federation.task
    assert isinstance(task, Classification)
    data, model = task.read(), task.build_model()
    torch.nn.utils.vector_to_parameters(initial_parameters(task, 0), model.parameters())

    def gradient(rows: Any) -> torch.Tensor:
        loss = task.loss(model, (data.inputs[rows], data.labels[rows]))
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])])

    mean = gradient(slice(None))
    assert data.parts is not None
    each = [float((gradient(data.parts == w) - mean).square().sum()) for w in range(3)]
    expected = [each[w] - (sum(each) - each[w]) / 2 for w in range(3)]
    assert paid(got) == pytest.approx(expected, rel=1e-3)


def test_noise_has_the_mean_square_of_alpha_in_each_tensor(federation: Federation) -> None:
    got = trained(federation.train(Alphas(100.0, 0.0), seed=0, steps=1, step_size=0.06))
    [liar] = np.flatnonzero(got.group)
    share = (4 + 2 * liar) / 18  # of the images
    noise = 2 * 100.0**2  # of the two tensors
    expected = noise * ((1 - share) ** 2 - share**2)  # less what the two others pay
    assert paid(got)[liar] == pytest.approx(expected, rel=0.15)


def test_a_third_of_the_writers_is_group_a_and_the_seed_says_who(tmp_path: Path) -> None:
    write_writers(tmp_path, 12)
    federation = Federation(resolve_task(MODEL, tmp_path))
    first, again, other = (
        trained(federation.train(HONEST, seed, steps=5, step_size=0.1)) for seed in (1, 1, 2)
    )
    assert first == again
    assert sum(first.group) == sum(other.group) == 4
    assert first.group != other.group


def test_noise_of_the_others_is_theirs(federation: Federation) -> None:
    a, b = (
        trained(federation.train(alphas, 0, steps=1, step_size=0.06))
        for alphas in (Alphas(5.0, 0.0), Alphas(0.0, 5.0))
    )
    liars, others = np.array(a.group), ~np.array(a.group)
    assert paid(a)[liars].mean() > 0 > paid(a)[others].mean()
    assert paid(b)[liars].mean() < 0 < paid(b)[others].mean()


def test_a_training_whose_numbers_overflow_has_diverged(federation: Federation) -> None:
    assert federation.train(Alphas(1e30, 0.0), 0, steps=3, step_size=0.06) == Diverged(1)


@pytest.mark.parametrize(
    ("task", "writers", "words"),
    [("digits", 3, "needs a task with writers"), (MODEL, 2, "2 writers are too few")],
)
def test_a_task_without_enough_writers_is_refused(
    tmp_path: Path, task: str, writers: int, words: str
) -> None:
    write_writers(tmp_path, writers)
    with pytest.raises(ConfigurationError, match=words):
        Federation(resolve_task(task, tmp_path))


# --- the directory ----------------------------------------------------------------------------


def play(
    root: Path,
    setting: Setting,
    alphas: tuple[float, ...] = (4.0,),
    alpha_b: float = 0.0,
    **asked: Any,
) -> Results:
    federation = Federation(resolve_task(setting.task, root))
    return experiment(federation, setting, alphas, alpha_b, [0, 1], root / "run", **asked)


def honest(results: Results) -> list[list[float]]:
    found: list[list[float]] = results.measured[Rule.DISTANCE].honest_charges.tolist()
    return found


def tried(results: Results) -> list[float]:
    return [one.alpha for one in results.measured[Rule.INFLUENCE].outcomes]


SETTING = Setting(MODEL, 3, 0.06)


def test_finished_trainings_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_writers(tmp_path)
    told: list[tuple[int, int]] = []
    first = play(tmp_path, SETTING, progress=lambda _what, done, of: told.append((done, of)))
    assert told[-1] == (12, 12)
    assert sorted(told) == told
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [f"a{a}-b0-seed{seed}.json" for a in (0, 4) for seed in (0, 1)]
    train = Federation.train
    ran: list[Alphas] = []

    def watched(self: Federation, alphas: Alphas, *rest: Any) -> Trained | Diverged:
        ran.append(alphas)
        return train(self, alphas, *rest)

    monkeypatch.setattr(Federation, "train", watched)
    again = play(tmp_path, SETTING)
    assert not ran
    assert honest(again) == honest(first)
    assert tried(play(tmp_path, SETTING, (4.0, 2.0))) == [0.0, 2.0, 4.0]
    assert ran == [Alphas(2.0, 0.0)] * 2


def test_trainings_of_another_setting_are_not_mixed_in(tmp_path: Path) -> None:
    write_writers(tmp_path)
    play(tmp_path, SETTING)
    with pytest.raises(ConfigurationError, match="3 steps of size 0.06; give the same, or another"):
        play(tmp_path, Setting(MODEL, 4, 0.06))
    (tmp_path / "run" / "a0-b0-seed0.json").write_text("{")
    with pytest.raises(ConfigurationError, match="a0-b0-seed0.json: damaged"):
        play(tmp_path, SETTING)


def test_diverged_trainings_are_named_and_left_out(tmp_path: Path) -> None:
    write_writers(tmp_path)
    for _ in range(2):  # trained, and read again
        results = play(tmp_path, SETTING, (4.0, 1e30))
        assert tried(results) == [0.0, 4.0]
        assert results.diverged == ((1e30, 0, 1), (1e30, 1, 1))
    with pytest.raises(ConfigurationError, match="diverges though group A is honest"):
        play(tmp_path, SETTING, (4.0,), 1e30)


def test_the_honest_are_those_of_runs_without_any_noise(tmp_path: Path) -> None:
    write_writers(tmp_path)
    alone, noisy = (play(tmp_path, SETTING, (4.0,), alpha_b) for alpha_b in (0.0, 1.0))
    assert honest(noisy) == honest(alone)
    losses = [each.measured[Rule.DISTANCE].outcomes[0].losses.tolist() for each in (alone, noisy)]
    assert losses[0] != losses[1]


# --- the command ------------------------------------------------------------------------------


def run(root: Path, *arguments: str) -> Result:
    fixed = ["--task", MODEL, "--data-root", str(root), "--run-dir", str(root / "run")]
    return CliRunner().invoke(command, [*fixed, *arguments])


@pytest.mark.usefixtures("drawn")
def test_json_and_page_tell_the_same_experiment(tmp_path: Path) -> None:
    write_writers(tmp_path, 6)
    asked = ("--steps", "3", "--alpha", "50", "--alpha", "1e30", "--price", "1e-4", "--seeds", "2")
    result = run(tmp_path, *asked, "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == (0 if told["ok"] else 1)
    assert {one["alpha"] for one in told["diverged"]} == {1e30}
    outcomes = told["rules"]["distance"]["outcomes"]
    assert [one["alpha"] for one in outcomes] == [0, 50]
    for one in outcomes:
        free, paid = one["rewards"]
        assert free["mean"] == pytest.approx(one["loss"])
        assert paid["mean"] == pytest.approx(one["loss"] - 1e-4 * one["charge_at_price_1"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count('src="data:image/svg+xml') == 4
    assert empty(page) == 0
    for words in (
        "3 steps",
        "2 runs of each",
        "Reward by aggressiveness",
        "98 % of honest",
        "Diverged",
    ):
        assert words in page
    shown = run(tmp_path, *asked)
    assert f"{outcomes[1]['loss']:.4f}" in shown.stdout
    assert "influence: what noise gains group A, by price" in shown.stdout
    assert "Noise pays where the reward is above that of" in " ".join(shown.stdout.split())
    assert "Diverged, and left out: aggressiveness 1e+30 (seed 0, step 1)" in shown.stdout


def test_a_training_has_three_steps_a_writer_unless_told(tmp_path: Path) -> None:
    write_writers(tmp_path, 4)
    assert json.loads(run(tmp_path, "--alpha", "5", "--json").stdout)["steps"] == 12


def test_the_exit_code_says_whether_a_price_does(tmp_path: Path) -> None:
    write_writers(tmp_path, alike=True)  # nobody is far from the average but who adds noise
    held = run(tmp_path, "--steps", "3", "--alpha", "300")
    assert held.exit_code == 0
    assert "98 % of honest writers pay less than" in held.stdout
    assert "there are prices at which both hold" in held.stdout
    failed = run(tmp_path, "--steps", "3", "--alpha", "1e30")
    assert failed.exit_code == 1
    assert "No training with noise ended in finite numbers" in failed.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--steps", "0"), "'--steps': 0"),
        (("--alpha", "-1"), "'--alpha': -1.0"),
        (("--price", "-1"), "'--price': -1.0"),
    ],
)
def test_bad_numbers_are_refused(tmp_path: Path, arguments: tuple[str, str], words: str) -> None:
    result = run(tmp_path, *arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_honesty_alone_is_no_experiment(tmp_path: Path) -> None:
    write_writers(tmp_path)
    with pytest.raises(ConfigurationError, match="give an --alpha above 0"):
        play(tmp_path, SETTING, (0.0,))


def test_missing_data_are_one_line(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert isinstance(result.exception, ConfigurationError)
    assert "--data-root or $CANDOR_DATA_ROOT" in str(result.exception)


# --- the real writers -------------------------------------------------------------------------


@pytest.mark.skipif(
    "CANDOR_DATA_ROOT" not in os.environ,
    reason="$CANDOR_DATA_ROOT, the directory of the real data sets, is not set",
)
def test_with_real_writers_noise_pays_without_penalties_and_costs_with_them(tmp_path: Path) -> None:
    federation = Federation(resolve_task(MODEL, Path(os.environ["CANDOR_DATA_ROOT"])))
    results = experiment(federation, Setting(MODEL, 315, 0.06), (3.0, 9.0), 0.0, [0], tmp_path)
    for measured in results.measured.values():
        outcomes = measured.outcomes
        losses, charges = [one.losses[0] for one in outcomes], [one.charges[0] for one in outcomes]
        assert losses == sorted(losses)
        assert charges == sorted(charges)
        assert 0.0 < measured.falls_from < math.inf
    # Writers with few images are far from the average, but do not move it.
    assert not results.measured[Rule.DISTANCE].holds
    assert results.measured[Rule.INFLUENCE].holds
    assert results.writers == 105
