"""All runs of the study, several at a time, in a directory to resume from."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from candor.agent.studies.fairness.runs import Run, Setting, keep, kept, run
from candor.agent.studies.workers import performed

Progress = Callable[[str, int, int], None]


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
    missing = [setting for setting in settings if setting not in found]
    perform = partial(_perform, data_root=data_root, device=device)
    for done in _runs(missing, perform, directory, workers, len(settings), progress):
        found[done.setting] = done
    return [found[setting] for setting in settings]


def _runs(
    settings: Sequence[Setting],
    perform: Callable[[Setting, Callable[[int], None]], Run],
    directory: Path,
    workers: int,
    of_all: int,
    progress: Progress,
) -> Iterator[Run]:
    """Perform runs; each is kept as soon as it has ended."""
    before = of_all - len(settings)
    rounds = settings[0].rounds if settings else 0

    def told(ended: int, done: int) -> None:
        what = f"{before + ended} of {of_all} runs done; rounds"
        progress(what, before * rounds + done, of_all * rounds)

    for done in performed(settings, perform, workers, told):
        keep(directory, done)
        yield done


def _perform(
    setting: Setting, told: Callable[[int], None], *, data_root: Path | None, device: str
) -> Run:
    return run(setting, data_root, device, told)
