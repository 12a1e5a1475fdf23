"""All runs of the study, several at a time, in a directory to resume from."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from candor.agent.studies.fairness.runs import Run, Setting, keep, kept, run
from candor.agent.studies.workers import Progress, resumed


def experiment(
    settings: Sequence[Setting],
    directory: Path,
    workers: int,
    data_root: Path | None = None,
    device: str = "cpu",
    progress: Progress = lambda _what, _done, _of: None,
) -> list[Run]:
    """Run what the directory does not have yet: all runs, in the order of their settings.

    Args:
        settings: what to run, all of one number of rounds.
        directory: made if it is not there.
        workers: processes, of a thread each.
        data_root: where data sets lie.
        device: where models are trained.
        progress: told what is run, rounds done, and of how many.

    Raises:
        ConfigurationError: a setting is refused, or a file of the directory is damaged.
    """
    directory.mkdir(parents=True, exist_ok=True)
    found = {setting: done for setting in settings if (done := kept(directory, setting))}
    steps = "rounds", settings[0].rounds if settings else 0
    perform = partial(_perform, data_root=data_root, device=device)
    for done in resumed(found, settings, perform, workers, steps, progress):
        keep(directory, done)
        found[done.setting] = done
    return [found[setting] for setting in settings]


def _perform(
    setting: Setting, told: Callable[[int], None], *, data_root: Path | None, device: str
) -> Run:
    return run(setting, data_root, device, told)
