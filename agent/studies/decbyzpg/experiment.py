"""All runs of the study, several at a time, in a directory to resume from."""

from collections.abc import Callable, Sequence
from pathlib import Path

from candor.agent.studies.decbyzpg.figures import Cell
from candor.agent.studies.decbyzpg.runs import Run, Setting, keep, kept, run
from candor.agent.studies.workers import Progress, resumed


def experiment(
    cells: Sequence[Cell],
    trajectories: int,
    seeds: Sequence[int],
    directory: Path,
    workers: int,
    progress: Progress = lambda _what, _done, _of: None,
) -> dict[Cell, list[Run]]:
    """Run what the directory does not have yet.

    Args:
        cells: what to run, each with every seed.
        trajectories: of an agent, in each run.
        seeds: of the runs.
        directory: made if it is not there.
        workers: processes, of a thread each.
        progress: told what is run, trajectories of an agent done, and of how many.

    Raises:
        ConfigurationError: a setting is refused, or a file of the directory is damaged.
    """
    directory.mkdir(parents=True, exist_ok=True)
    asked = [cell.setting(trajectories, seed) for seed in seeds for cell in cells]
    found = {setting: done for setting in asked if (done := kept(directory, setting)) is not None}
    steps = "trajectories", trajectories
    for done in resumed(found, asked, _perform, workers, steps, progress):
        keep(directory, done)
        found[done.setting] = done
    return {cell: [found[cell.setting(trajectories, seed)] for seed in seeds] for cell in cells}


def _perform(setting: Setting, told: Callable[[int], None]) -> Run:
    return run(setting, lambda sampled: told(min(sampled, setting.trajectories)))
