"""All runs of the study, several at a time, in a directory to resume from."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from candor.agent.studies.decbyzpg.figures import Cell
from candor.agent.studies.decbyzpg.runs import Run, Setting, keep, kept, run
from candor.agent.studies.workers import performed

Progress = Callable[[str, int, int], None]


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
    missing = [setting for setting in asked if setting not in found]
    for done in _runs(missing, directory, workers, len(asked), progress):
        found[done.setting] = done
    return {cell: [found[cell.setting(trajectories, seed)] for seed in seeds] for cell in cells}


def _runs(
    settings: Sequence[Setting],
    directory: Path,
    workers: int,
    of_all: int,
    progress: Progress,
) -> Iterator[Run]:
    """Perform runs; each is kept as soon as it has ended."""
    before = of_all - len(settings)
    each = settings[0].trajectories if settings else 0

    def told(ended: int, sampled: int) -> None:
        what = f"{before + ended} of {of_all} runs done; trajectories"
        progress(what, before * each + sampled, of_all * each)

    for done in performed(settings, _perform, workers, told):
        keep(directory, done)
        yield done


def _perform(setting: Setting, told: Callable[[int], None]) -> Run:
    return run(setting, lambda sampled: told(min(sampled, setting.trajectories)))
