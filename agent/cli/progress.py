"""How far a long command is: a bar on a terminal, elsewhere a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PROGRESS_S: Final = 5.0
Told: TypeAlias = Callable[[str, int, int], None]  # what is done, how many of it, of how many


@contextmanager
def progress(console: Console) -> Iterator[Told]:
    """Whoever works tells what is done; a person sees it."""
    if not console.is_terminal:
        say = now_and_then(console)
        yield lambda what, done, of: say(f"{what}: {done:,} of {of:,}")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        bar = bars.add_task("", total=None)
        yield lambda what, done, of: bars.update(bar, completed=done, total=of, description=what)


def now_and_then(console: Console) -> Callable[[str], None]:
    """Prints a line that it is given, at most every `PROGRESS_S` seconds."""
    told_s = time.monotonic()

    def say(line: str) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= PROGRESS_S:
            told_s = time.monotonic()
            console.print(line, highlight=False)

    return say
