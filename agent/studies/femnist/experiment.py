"""The FeMNIST experiment of Dorner et al. 2023 (appendix B.3), in a directory to resume from.

Group A tries several sizes of noise while the others keep to theirs, each on the same seeds; what
was measured is billed at any price afterwards. Each training leaves one JSON file, written whole
when it has ended; a training whose file is there is not run again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from candor.agent.studies.femnist.aggression import Measured, Outcomes, Rule, charges
from candor.agent.studies.femnist.federated import Alphas, Diverged, Federation, Trained
from candor.topologies.specs.files import json_text, read_text, replace_file, system_errors
from candor.topologies.specs.specs import ConfigurationError

Progress = Callable[[str, int, int], None]

HONEST: Final = Alphas(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all trainings of a directory have in common; the task's spec names the data too."""

    task: str
    steps: int
    step_size: float


class _Record(BaseModel):
    """A training's file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    setting: Setting
    alphas: Alphas
    seed: int
    result: Trained | Diverged


@dataclass(frozen=True, slots=True)
class Results:
    """What the trainings measured.

    `measured`: under each rule, group A by its aggressiveness, without those of which all runs
    diverged, and the payments of runs in which all are honest. `diverged`: (alpha of A, seed,
    step). `writers`: how many there are.
    """

    setting: Setting
    alpha_b: float
    seeds: tuple[int, ...]
    writers: int
    measured: Mapping[Rule, Measured]
    diverged: tuple[tuple[float, int, int], ...]

    @property
    def holds(self) -> bool:
        """Whether under one of the rules some price does what it should."""
        return any(one.holds for one in self.measured.values())


def experiment(
    federation: Federation,
    setting: Setting,
    alphas: Sequence[float],
    alpha_b: float,
    seeds: Sequence[int],
    run_dir: Path,
    progress: Progress = lambda _what, _done, _of: None,
) -> Results:
    """Train what the directory does not have yet, and sum up.

    Args:
        federation: the writers of the setting's task.
        setting: of all trainings.
        alphas: the aggressiveness of group A to try; 0 is always among them.
        alpha_b: that of the others. Honest payments are those of runs in which all are honest.
        seeds: trainings of each aggressiveness.
        run_dir: made if it is not there.
        progress: told of what is being trained, steps done, and steps in all.

    Raises:
        ConfigurationError: no aggressiveness is above 0, the directory holds trainings of another
            setting, or training diverges though group A is honest.
    """
    if not any(alphas):
        raise ConfigurationError("there is nothing to compare: give an --alpha above 0")
    tried = [Alphas(a, alpha_b) for a in sorted({0.0, *alphas})]
    pairs = list(dict.fromkeys((HONEST, *tried)))
    run_dir.mkdir(parents=True, exist_ok=True)
    results: dict[tuple[Alphas, int], Trained | Diverged] = {}
    jobs = [(pair, seed) for seed in seeds for pair in pairs]  # whole curves first
    for at, (pair, seed) in enumerate(jobs):
        path = run_dir / f"a{pair.a:.15g}-b{pair.b:.15g}-seed{seed}.json"
        what = f"alpha {pair.a:g}, seed {seed}, steps"
        done = at * setting.steps
        found = _read(path, setting, pair, seed)
        if found is None:

            def tell(step: int, done: int = done, what: str = what) -> None:
                progress(what, done + step, len(jobs) * setting.steps)

            found = federation.train(pair, seed, setting.steps, setting.step_size, tell)
            record = _Record(setting=setting, alphas=pair, seed=seed, result=found)
            with system_errors(f"{path}: cannot write it"):
                replace_file(path, json_text(record.model_dump(mode="json")).encode())
        progress(what, done + setting.steps, len(jobs) * setting.steps)
        results[pair, seed] = found
    return _summed_up(setting, tried, seeds, results)


def _summed_up(
    setting: Setting,
    tried: Sequence[Alphas],
    seeds: Sequence[int],
    results: Mapping[tuple[Alphas, int], Trained | Diverged],
) -> Results:
    runs = {
        pair: [run for seed in seeds if isinstance(run := results[pair, seed], Trained)]
        for pair in (HONEST, *tried)
    }
    if not runs[HONEST] or not runs[tried[0]]:
        raise ConfigurationError(
            "training diverges though group A is honest; give a smaller --step-size or --alpha-b"
        )
    return Results(
        setting,
        tried[0].b,
        tuple(seeds),
        len(runs[HONEST][0].images),
        {
            rule: Measured(
                tuple(_outcomes(rule, pair.a, runs[pair]) for pair in tried if runs[pair]),
                np.array([_billed(rule, run) for run in runs[HONEST]]),
            )
            for rule in Rule
        },
        tuple(
            (pair.a, seed, result.step)
            for (pair, seed), result in results.items()
            if isinstance(result, Diverged) and pair in tried
        ),
    )


def _outcomes(rule: Rule, alpha: float, runs: Sequence[Trained]) -> Outcomes:
    return Outcomes(
        alpha,
        np.array([run.loss for run in runs]),
        np.array([run.accuracy for run in runs]),
        np.array([_billed(rule, run)[run.group].mean() for run in runs]),
    )


def _billed(rule: Rule, run: Trained) -> NDArray[np.float64]:
    """What each writer pays, net, at price 1 (writers,)."""
    return charges(rule, np.array(run.images), np.array(run.chosen), np.array(run.squared))


def _read(path: Path, setting: Setting, alphas: Alphas, seed: int) -> Trained | Diverged | None:
    """A training that has ended, None if it has not.

    Raises:
        ConfigurationError: the file is damaged, or of another setting.
    """
    if not path.exists():
        return None
    try:
        record = _Record.model_validate_json(read_text(path, "training"))
    except ValidationError as exc:
        raise ConfigurationError(f"{path}: damaged, it is no training; delete it") from exc
    if (record.setting, record.alphas, record.seed) != (setting, alphas, seed):
        other = record.setting
        raise ConfigurationError(
            f"{path}: is of task {other.task}, {other.steps} steps of size {other.step_size:g}; "
            "give the same, or another --run-dir"
        )
    return record.result
