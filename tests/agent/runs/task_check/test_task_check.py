"""`candor task check`: each way to get a task wrong is one line with advice, and an exit code."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from candor.agent.cli import main as cli
from candor.agent.runs.task_check.findings import KINDS
from candor.agent.runs.task_check.model import of_memory
from candor.agent.runs.task_check.training import advised_deadline_s, of_time
from candor.topologies.cluster.file import TaskSettings
from tests.runs import write_cluster

HERE = Path(__file__).parent
OPTIONS = ("--batch-size", "8")


@dataclass
class Done:
    """What a check printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def findings(self) -> list[str]:
        return [line for line in self.out.splitlines() if line.split(":")[0] in KINDS]


Check = Callable[..., Done]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Check:
    """Check one of `wrong_tasks`, as somebody does who stands beside it."""

    def run(task: str, *options: str) -> Done:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", list(sys.path))
            patch.chdir(HERE)
            patch.delenv("CANDOR_DATA_ROOT", raising=False)
            code = cli.run(["task", "check", f"wrong_tasks:{task}", *(options or OPTIONS)])
        return Done(code, *capsys.readouterr())

    return run


REFUSED = {
    "NoEvaluate": ("lacks the method evaluate()", "a task has build_model"),
    "OtherGenerator": ("builds another model each time (0.weight)", "default generator"),
    "OneModel": ("gave the very same 0.weight twice", "deepcopy"),
    "OneBackbone": ("gave the very same 0.weight twice", "deepcopy"),
    "AllFrozen": ("no parameter that requires a gradient", "leave requires_grad"),
    "NoSuchShared": ("shared names 'lora_*'", "there are 0.weight"),
    "NoBuffers": ("buffers is 'shared'", "neither 'local' nor 'averaged'"),
    "LabelsFromOne": ("loss() failed (IndexError: Target 3", "labels are whole numbers from 0"),
    "WrongWidth": ("loss() failed", "another shape than the model's first layer"),
    "DoubleData": ("loss() failed", "x.float()"),
    "EmptyShard": ("length above 0, for shard 2 of 4", "use fewer agents"),
    "NaNInOne": ("sample 3 of agent a1", "mend that sample"),
    "UnequalShapes": ("data differ in shape", "one shape"),
    "MetaData": ("tensor 0 on the meta device", "which has no numbers"),
    "Generated": ("must give a tuple of tensors", "return x, y"),
    "Listed": ("must give a tuple of tensors", "return x, y"),
    "MissingFile": ("load_data() failed (FileNotFoundError", "--data-root"),
    "Detached": ("does not depend on a trainable parameter", "is there a detach()"),
    "LossOfEach": ("not a scalar", ".mean()"),
    "NumberLoss": ("gave a float, not a tensor", "without .item()"),
    "KeptGraph": ("a second time", "is kept between steps"),
    "TwoMetrics": ("the metrics top1, top5", 'metric = "…"'),
    "Unnamed": ("37.2, which is not from 0 to 1", "higher_is_better = False"),
    "MetricFails": ("its metric failed (KeyError: 'best')", "call it by itself"),
    "NoNumber": ("evaluate() failed", "a dict of numbers by name"),
    "EvaluateSteps": ("evaluate() failed", "torch.enable_grad()"),
    "EvaluatePrunes": ("evaluate() changed what the model is made of", "deepcopy"),
    "OneSample": ("more than 1 value per channel", "larger --batch-size"),
    "Lazy": ("lazy module", "give the sizes"),
    "Meta": ("meta device", "build it on the processor"),
    "SparseParameter": ("parameter weight is sparse", "use a dense one"),
    "Complex": ("parameter codes is complex64", "known: float32"),
    "ViewOfAnother": ("1.weight lies in the memory of another", "clone()"),
    "Expanded": ("bias lies in the memory of another, or of itself", "clone()"),
    "Uninitialised": ("a model that is not finite (0.weight)", "give every parameter a number"),
    "TrainOfItsOwn": ("build_model() failed (TypeError", "docs/howto/tasks.md"),
    "StateOfItsOwn": ("build_model() failed (RuntimeError: nothing here)", "call it by itself"),
    "NoModule": ("gave a function, not a Module", ""),
    "Exits": ("load_data() failed (SystemExit: 0)", "call it by itself"),
    "TakesThree": ("missing 1 required positional argument", "docs/howto/tasks.md"),
    "TrainFails": ("train() failed (KeyError: 'loss') at wrong_tasks.py:", "call it by itself"),
    "TrainGivesText": ("train() failed (ValueError", "the mean loss as a number"),
    "TrainRebuilds": ("train() took 2.weight out of the model", "deepcopy"),
    "TrainReshapes": ("changed the shape of the model's 2.weight", "deepcopy"),
    "TrainMoves": ("moved the model's 0.weight to meta", "in place"),
    "SavesObjects": ("history holds more than numbers", "context.keep"),
    "Thaws": ("train() changed a frozen parameter", "require a gradient in build_model()"),
    "NoDataRoot": ("prepare() failed (TypeError", "neither --data-root"),
    "OptimiserMisspelt": ("keyword argument 'momentumm') at wrong_tasks.py:", "call it by itself"),
    "TooFewForABatch": ("the loader gives no batch", "drop_last=False"),
    "MissingOnThisHost": ("prepare() failed (FileNotFoundError", "--data-root"),
}
FOUND = {
    "NaNGradient": (1, "error: the model is not finite after 2 steps", "log(0)"),
    "NaNLoss": (1, "error: train() gives the loss nan at once", "log(0)"),
    "TrainsACopy": (1, "error: train() moves nothing", "the very model that it is given"),
    "Replaces": (1, "error: train() replaced parameters of the model (0.weight)", "in place"),
    "EvaluateTrains": (1, "error: evaluate() changes the model (1.running_mean", "mode"),
    "Large": (1, "error: values of 2.bias are more than float16 can hold", "--codec float32"),
    "RmseUp": (0, "warning: the metric rmse sounds like an error", "higher_is_better = False"),
    "AccuracyDown": (0, "warning: the metric accuracy counts as better where it is lower", "leave"),
    "Misspelt": (0, "warning: the class has higher_is_beter", "call it higher_is_better"),
    "Hidden": (0, "warning: the model's layers is a plain list", "nn.ModuleList"),
    "Cached": (0, "warning: the model's norm was computed from parameters", "in forward()"),
    "OneLabel": (0, "warning: all labels are 0", "look at the data"),
    "LacksAClass": (0, "warning: of 3 classes some agents lack some: a1 (2)", "dirichlet"),
    "Unused": (0, "warning: training does not move 1.spare.weight", "requires_grad_(False)"),
    "AnewEachRound": (0, "warning: train() builds its Adam anew in every round", "context.keep("),
    "AtRandom": (0, "warning: evaluate() gives accuracy", "the same part of it each time"),
    "Slow": (0, "warning: a round takes about", "use --deadline-s 10"),
    "NaNMetric": (0, "warning: evaluate() gives nan as accuracy", "give a number"),
    "SameForAll": (0, "note: all agents have the very same samples", "shard.select("),
    "AsksNobody": (0, "note: train() does not ask which agent it trains", "context.shard"),
    "AsLongAsItLikes": (0, "note: train() takes no notice of --local-steps", "context.batches("),
    "Both": (0, "note: the class has train() and loss()", "leave one of them out"),
    "Statistics": (0, "note: the statistics of BatchNorm (1) stay with each agent", '"averaged"'),
    "Workers": (0, "note: a DataLoader has 1 workers", "num_workers=0"),
    "Half": (0, "note: the model is float16", "GradScaler"),
}
SPECIAL = {
    "OneSample": ("--batch-size", "1"),
    "Large": (*OPTIONS, "--codec", "float16"),
    "Slow": (*OPTIONS, "--deadline-s", "0.01"),
}
SOUND = (
    *("Sound", "SoundLoop", "Lock", "OpenFile", "KeptIterator", "Tied", "FlatMemory"),
    *("Frozen", "OneCycle", "WeightNormed", "Recurrent", "Hooked", "FromAGraph", "MeasuresItsOwn"),
    *("CopiesItsContext", "GivesItsLoss"),
)


@pytest.mark.parametrize("task", REFUSED)
def test_what_no_run_would_begin_with_is_one_line_with_advice(check: Check, task: str) -> None:
    what, advice = REFUSED[task]
    done = check(task, *SPECIAL.get(task, OPTIONS))
    (line,) = done.err.splitlines()
    assert (done.code, done.out) == (2, "")
    assert line.startswith("candor: error: task")
    assert what in line
    assert advice in line


@pytest.mark.parametrize("task", FOUND)
def test_what_is_wrong_or_odd_in_a_run_is_one_line_with_advice(check: Check, task: str) -> None:
    code, what, advice = FOUND[task]
    done = check(task, *SPECIAL.get(task, OPTIONS))
    (line,) = done.findings
    assert (done.code, done.err) == (code, "")
    assert line.startswith(what)
    assert advice in line.partition(";")[2]


@pytest.mark.parametrize("task", SOUND)
def test_odd_and_sound_tasks_pass(check: Check, task: str) -> None:
    done = check(task)
    assert (done.code, done.findings, done.err) == (0, [], "")


def masked(text: str) -> str:
    """A report without the numbers that differ from host to host."""
    text = re.sub(r"digest [0-9a-f]+", "digest #", text)
    return re.sub(r"\d+(\.\d+)?(e-\d+)?", "#", text.replace("float32", "float").replace(",", ""))


def test_a_sound_task_gives_a_short_report(check: Check) -> None:
    assert masked(check("Sound").out) == (
        "task      wrong_tasks:Sound\n"
        "model     Sequential digest #…; all of it travels\n"
        "travels   # numbers of # tensors # bytes a round to each neighbour (float)\n"
        "trains    many agents at a time in simulations\n"
        "data      # shards of # samples # classes; a sample is # float int#\n"
        "metric    accuracy higher is better: # after # steps #\n"
        "round     about # s here for # steps evaluate() # s; neighbours wait # s (--deadline-s)\n"
        "memory    # MiB at most in this check of Python torch the model and samples\n"
        "all is well\n"
    )


def test_a_loop_is_told_of_as_one(check: Check) -> None:
    lines = check("SoundLoop").out.splitlines()
    assert "trains    each agent by itself: it has a loop of its own" in lines
    assert not any(line.startswith("data ") for line in lines)


def test_json_says_all_of_it_and_no_nan(check: Check) -> None:
    found = json.loads(check("NaNGradient", *OPTIONS, "--json").out, parse_constant=pytest.fail)
    assert found["ok"] is False
    assert found["model"]["numbers"] == 83
    assert found["model"]["payload_bytes"] == 332
    assert found["data"]["shapes"] == [[6], []]
    assert found["data"]["types"] == ["float32", "int64"]
    assert [shard["samples"] for shard in found["data"]["shards"]] == [40] * 4
    assert [finding["kind"] for finding in found["findings"]] == ["error"]


def test_frozen_parameters_are_told_and_do_not_travel(check: Check) -> None:
    found = json.loads(check("Frozen", *OPTIONS, "--json").out)["model"]
    assert found["frozen"] == ["0.weight", "0.bias"]
    assert [tensor["name"] for tensor in found["travels"]] == ["2.weight", "2.bias"]


def test_a_check_agrees_with_itself(check: Check, tmp_path: Path) -> None:
    there = saved(tmp_path, json.loads(check("Sound", *OPTIONS, "--json").out))
    done = check("Sound", *OPTIONS, "--against", str(there))
    assert (done.code, done.findings) == (0, [])


@pytest.mark.parametrize(
    ("keys", "value", "code", "told"),
    [
        (("model", "digest"), "0" * 64, 1, "error: hosts differ in the initial model's digest"),
        (("model", "metric"), "f1", 1, "error: hosts differ in the metric that counts"),
        (("data", "shapes"), [[7], []], 1, "error: hosts differ in the shapes of a sample"),
        (("data", "classes"), [0, 1], 0, "warning: hosts differ in the classes there are"),
        (("host", "torch"), "1.0", 0, "warning: hosts differ in the version of torch"),
        (("host", "python"), "3.99", 0, "note: hosts differ in the version of Python"),
    ],
)
def test_what_differs_between_hosts_is_named(
    check: Check, tmp_path: Path, keys: tuple[str, str], value: Any, code: int, told: str
) -> None:
    theirs = json.loads(check("Sound", *OPTIONS, "--json").out)
    theirs[keys[0]][keys[1]] = value
    done = check("Sound", *OPTIONS, "--against", str(saved(tmp_path, theirs)))
    (line,) = done.findings
    assert done.code == code
    assert line.startswith(told)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 10_000, '{"model": 3}', "\x00"])
def test_what_is_no_check_is_refused(check: Check, tmp_path: Path, text: str) -> None:
    path = tmp_path / "there.json"
    path.write_text(text)
    done = check("Sound", *OPTIONS, "--against", str(path))
    assert done.code == 2
    assert len(done.err.splitlines()) == 1


def test_bad_usage_says_how(check: Check, tmp_path: Path) -> None:
    for options in (
        ("--id", "a0"),
        ("--agents", "1"),
        ("--partition", "thirds"),
        ("--codec", "float8"),
        ("--device", "abacus"),
        ("--cluster", str(tmp_path / "none.toml")),
        ("--cluster", "c.toml", "--seed", "3"),
        ("--against", str(tmp_path / "none.json")),
    ):
        done = check("Sound", *options)
        assert done.code == 2, options
        assert len(done.err.splitlines()) == 1


def test_a_host_is_held_against_the_cluster_file(check: Check, tmp_path: Path) -> None:
    facts = json.loads(check("Sound", "--seed", "3", "--json").out)["model"]
    stated = {"parameters": facts["numbers"], "model_digest": facts["digest"]}
    task = TaskSettings(name="wrong_tasks:Sound", **stated)
    write_cluster(tmp_path, "ring", 3, task=task)
    path = str(tmp_path / "cluster.toml")
    found = json.loads(check("Sound", "--cluster", path, "--id", "a1", "--json").out)
    assert found["ok"]
    assert [shard["agent"] for shard in found["data"]["shards"]] == ["a1"]
    other = check("SoundLoop", "--cluster", path)
    assert (other.code, "its task is 'wrong_tasks:Sound'" in other.err) == (2, True)
    write_cluster(tmp_path, "ring", 3, task=task.model_copy(update={"model_digest": "0" * 64}))
    done = check("Sound", "--cluster", path)
    assert (done.code, "builds another initial model" in done.err) == (2, True)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_schedule_is_not_trained_beyond_the_rounds_of_the_run(
    check: Check, tmp_path: Path, rounds: int
) -> None:
    facts = json.loads(check("OneCycle", *OPTIONS, "--seed", "3", "--json").out)["model"]
    stated = {"parameters": facts["numbers"], "model_digest": facts["digest"]}
    task = TaskSettings(name="wrong_tasks:OneCycle", batch_size=8, **stated)
    write_cluster(tmp_path, "ring", 3, task=task, rounds=rounds)
    done = check("OneCycle", "--cluster", str(tmp_path / "cluster.toml"))
    assert done.code == 0, done.err


def saved(folder: Path, check: dict[str, Any]) -> Path:
    """A check as another host would hand it over."""
    path = folder / "there.json"
    path.write_text(json.dumps(check))
    return path


def test_a_model_beyond_memory_is_warned_of() -> None:
    (finding,) = of_memory(needed_bytes=3 * 2**30, there_bytes=2**30)
    assert finding.line.startswith("warning: a daemon needs about 3.0 GiB")
    assert not list(of_memory(needed_bytes=2**30, there_bytes=2**30))


@pytest.mark.parametrize(("round_s", "deadline_s"), [(0.001, 10), (9.0, 30), (40.0, 120)])
def test_a_deadline_is_some_rounds_long(round_s: float, deadline_s: float) -> None:
    assert advised_deadline_s(round_s) == deadline_s
    assert not list(of_time(round_s, 0.0, deadline_s))


@pytest.mark.parametrize(
    ("task", "options", "steps"),
    [
        ("Sound", ("--local-steps", "7"), 7),
        ("Sound", ("--local-epochs", "3"), 15),
        ("SoundLoop", ("--local-epochs", "3"), 15),
        ("SoundLoop", ("--local-steps", "7"), 7),
        ("SoundLoop", ("--local-seconds", "2"), None),
        ("AsLongAsItLikes", ("--local-steps", "7"), None),
    ],
)
def test_a_round_is_told_by_its_steps(
    check: Check, task: str, options: tuple[str, str], steps: int | None
) -> None:
    time = json.loads(check(task, *OPTIONS, *options, "--json").out)["time"]
    assert time["steps"] == steps
    if steps is not None:
        assert time["round_s"] == pytest.approx(steps * time["step_s"])


def test_a_metric_of_an_agents_own_data_is_told(check: Check) -> None:
    assert ", on its own data 0." in check("MeasuresItsOwn").out


def test_what_a_task_prints_is_not_the_answer(check: Check) -> None:
    done = check("Prints", *OPTIONS, "--json")
    assert json.loads(done.out)["ok"]
    assert "hello" in done.err
