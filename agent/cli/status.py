"""`candor status`: what the daemon of a data directory, or every daemon of a run, is doing."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import click

from candor.agent.cli.options import ABOVE_0, PATH, json_option
from candor.agent.daemon.status import FILE_NAME, Status, data_dirs, is_running, read_status
from candor.agent.daemon.status import as_json as as_object
from candor.topologies.specs.specs import ConfigurationError


@click.command("status")
@click.argument("directory", type=PATH, default=".")
@json_option
@click.option(
    "--max-age",
    "age_max_s",
    type=ABOVE_0,
    metavar="SECONDS",
    help="Exit 1 unless every daemon runs and said so within SECONDS, or is done.",
)
@click.pass_context
def command(
    context: click.Context, directory: Path, as_json: bool, age_max_s: float | None
) -> None:
    """Show what an agent, or every agent of a run, is doing.

    DIRECTORY is the data directory of one daemon, a folder of such, or the directory of a run; by
    default the current one. The status stays behind when a daemon ends; whether it still runs is
    told by the lock it holds.

    \b
    Example:
      candor status runs/demo
      candor status /var/lib/candor/a3 --json
      candor status /var/lib/candor/a3 --max-age 300    # for a health check
    """
    known = data_dirs(directory)
    if not known:
        raise ConfigurationError(
            f"{directory}: no status here; name the --data-dir of an agent, a folder of such or "
            "the directory of a run"
        )
    found = {data_dir: read_status(data_dir) for data_dir in known}
    running = {data_dir: is_running(data_dir) for data_dir in known}
    if as_json:
        shown = {path: {**as_object(found[path]), "running": running[path]} for path in known}
        alone = known == [directory]
        agents = {found[path].agent: value for path, value in shown.items()}
        click.echo(json.dumps(shown[directory] if alone else {"agents": agents}, indent=2))
    else:
        _print(directory, found, running)
    if age_max_s is not None and not all(
        _healthy(path, found[path], running[path], age_max_s) for path in known
    ):
        context.exit(1)


def _healthy(data_dir: Path, status: Status, running: bool, age_max_s: float) -> bool:
    if status.state == "done":
        return True
    age_s = time.time() - (data_dir / FILE_NAME).stat().st_mtime
    return running and status.state != "failed" and age_s <= age_max_s


def _print(directory: Path, found: Mapping[Path, Status], running: Mapping[Path, bool]) -> None:
    from rich.console import Console

    from candor.agent.reports.terminal import literal, status_view

    statuses = list(found.values())
    alive = {status.agent: running[path] for path, status in found.items()}
    console = Console()
    console.print(status_view(statuses, alive, f"run {statuses[0].run_id}"))
    silent = sorted(path.name for path in directory.glob("agents/*") if path not in found)
    if silent:
        console.print(literal(f"no status yet: {', '.join(silent)}"))
