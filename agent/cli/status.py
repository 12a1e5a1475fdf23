"""`candor status`: what the daemon of a data directory, or every agent of a run or of a cluster
file, is doing."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from candor.agent.cli.options import ABOVE_0, FOLDER, PATH, json_option
from candor.agent.daemon.participation import seen_in
from candor.agent.daemon.status import FILE_NAME, Status, data_dirs, is_running, read_status
from candor.agent.runs.directory import SIMULATION_NAME
from candor.topologies.specs.files import json_text
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    from candor.agent.runs.cluster_status import ClusterStatus

_NO_STATUS = (
    "no status here; name the --data-dir of an agent, a folder of such or the directory of a run"
)
SHOWN_MAX = 64  # agents of a simulated run that a person is shown; --json has all


@dataclass(frozen=True, slots=True)
class _Seen:
    """A status, whether its process lives, and when it was written, in seconds since 1970."""

    status: Status
    running: bool
    written_s: float


@click.command("status")
@click.argument("paths", metavar="[CLUSTER] [DIRECTORY]...", type=PATH, nargs=-1)
@click.option(
    "--keys",
    "keys_dir",
    type=FOLDER,
    help="Of a cluster file: the keys of an agent, which greet its neighbours that are not here.",
)
@click.option(
    "--timeout-s",
    type=ABOVE_0,
    default=5.0,
    help="Of a cluster file: longest wait for all endpoints together, seconds.",
)
@click.option("--no-dial", is_flag=True, help="Of a cluster file: connect to nobody.")
@json_option
@click.option(
    "--max-age",
    "age_max_s",
    type=ABOVE_0,
    metavar="SECONDS",
    help="Exit 1 unless every daemon here runs and said so within SECONDS, or is done, and nobody "
    "who was dialled is silent.",
)
@click.pass_context
def command(
    context: click.Context,
    paths: tuple[Path, ...],
    keys_dir: Path | None,
    timeout_s: float,
    no_dial: bool,
    as_json: bool,
    age_max_s: float | None,
) -> None:
    """Show what an agent, or every agent of a run or of a cluster file, is doing.

    DIRECTORY is the data directory of one daemon, a folder of such, or the directory of a run; by
    default the current one. The status stays behind when a daemon ends; whether it still runs is
    told by the lock it holds. Of a simulated run it is what was saved last.

    With a CLUSTER file before them it is all agents: those whose data directories are named, or lie
    where the file does, by their status; the others by what these last saw of them, and by whether
    they answer at their address. No status travels between hosts.

    \b
    Example:
      candor status runs/demo
      candor status /var/lib/candor/a3 --json
      candor status cluster.toml data/alice --keys keys/alice
      candor status /var/lib/candor/a3 --max-age 300    # for a health check
    """
    if paths and not paths[0].exists():
        raise ConfigurationError(f"{paths[0]}: no such file or directory")
    if paths and paths[0].is_file():
        place = None if no_dial else timeout_s
        found = _cluster(paths[0], paths[1:], keys_dir, place)
        if as_json:
            click.echo(json_text(found.document(), indent=2))
        else:
            _print_cluster(found)
        here = [_daemon(one.data_dir) for one in found.members if one.data_dir is not None]
        if age_max_s is not None and (found.unreachable or not _all_healthy(here, age_max_s)):
            context.exit(1)
        return
    if len(paths) > 1 or keys_dir is not None or no_dial:
        raise click.UsageError("name the CLUSTER file first, for several agents' status.", context)
    directory = paths[0] if paths else Path()
    simulated = (directory / SIMULATION_NAME).exists()
    known = data_dirs(directory)
    seen = _simulated(directory) if simulated else [_daemon(data_dir) for data_dir in known]
    if not seen:
        raise ConfigurationError(f"{directory}: {_NO_STATUS}")
    if as_json:
        shown = {one.status.agent: asdict(one.status) | {"running": one.running} for one in seen}
        alone = known == [directory] and not simulated
        parts = {agent: asdict(part) for agent, part in seen_in(s.status for s in seen).items()}
        run = {"agents": shown, **({"participation": parts} if parts else {})}
        click.echo(json_text(next(iter(shown.values())) if alone else run, indent=2))
    elif simulated:
        _print_simulated(directory, seen)
    else:
        _print(directory, seen)
    if age_max_s is not None and not _all_healthy(seen, age_max_s):
        context.exit(1)


def _cluster(
    file: Path, named: Sequence[Path], keys_dir: Path | None, timeout_s: float | None
) -> "ClusterStatus":
    """What is known of a cluster here; a place that is named must have a status.

    Raises:
        ConfigurationError: it has none, or file or keys are not right.
    """
    from candor.agent.daemon import keys
    from candor.agent.runs.cluster_status import cluster_status
    from candor.topologies.cluster.file import load_cluster

    cluster = load_cluster(file)
    known = {place: data_dirs(place) for place in named or (file.parent,)}
    for place in named:
        if not known[place]:
            raise ConfigurationError(f"{place}: {_NO_STATUS}")
    identity = None if keys_dir is None else keys.load(keys_dir)
    return cluster_status(cluster, [*chain(*known.values())], identity, timeout_s)


def _daemon(data_dir: Path) -> _Seen:
    status, running = read_status(data_dir), is_running(data_dir)
    return _Seen(status, running, (data_dir / FILE_NAME).stat().st_mtime)


def _simulated(run_dir: Path) -> list[_Seen]:
    from candor.agent.runs import simulation_file  # imports torch
    from candor.topologies.cluster.file import load_cluster

    path, running = run_dir / SIMULATION_NAME, is_running(run_dir)
    cluster = load_cluster(run_dir / "cluster.toml")
    statuses = simulation_file.statuses(path, cluster, running=running)
    return [_Seen(status, running, path.stat().st_mtime) for status in statuses]


def _all_healthy(seen: Iterable[_Seen], age_max_s: float) -> bool:
    return all(_healthy(one, age_max_s) for one in seen)


def _healthy(seen: _Seen, age_max_s: float) -> bool:
    if seen.status.state == "done":
        return True
    fresh = time.time() - seen.written_s <= age_max_s
    return seen.running and seen.status.state != "failed" and fresh


def _print(directory: Path, seen: Sequence[_Seen]) -> None:
    from rich.console import Console

    from candor.agent.reports.terminal import literal, status_view

    statuses = [one.status for one in seen]
    alive = {one.status.agent: one.running for one in seen}
    console = Console()
    console.print(status_view(statuses, alive, f"run {statuses[0].run_id}"))
    known = data_dirs(directory)
    silent = sorted(path.name for path in directory.glob("agents/*") if path not in known)
    if silent:
        console.print(literal(f"no status yet: {', '.join(silent)}"))


def _print_cluster(found: "ClusterStatus") -> None:
    from rich.console import Console

    from candor.agent.reports.terminal_cluster import cluster_view

    Console().print(cluster_view(found))


def _print_simulated(run_dir: Path, seen: Sequence[_Seen]) -> None:
    from rich.console import Console

    from candor.agent.reports.terminal import literal, live_table

    first, console = seen[0], Console()
    shown = [one.status for one in seen[:SHOWN_MAX]]
    console.print(live_table(shown, f"simulated run {first.status.run_id}"))
    if len(seen) > SHOWN_MAX:
        console.print(f"and {len(seen) - SHOWN_MAX} more agents", highlight=False)
    if first.status.state == "interrupted":
        words = f"stopped after round {first.status.round}; candor simulate --resume {run_dir}"
        console.print(literal(f"{words} goes on"))
