"""`candor agent`: the daemon of one agent, from its start to the end of the run."""

import logging
from pathlib import Path

import click

from candor.agent.cli.options import data_root_option, initial_option
from candor.agent.daemon.status import read_status
from candor.agent.exits import INTERRUPTED
from candor.agent.reports.terminal import format_credits, format_share

LEVELS = ("debug", "info", "warning", "error")


@click.command("agent")
@click.option(
    "--cluster",
    "cluster_path",
    required=True,
    type=click.Path(path_type=Path),
    help="The cluster file that all agents share.",
)
@click.option("--id", "agent", required=True, help="Which agent of the cluster file this is.")
@click.option(
    "--keys",
    required=True,
    type=click.Path(path_type=Path),
    help="The directory that `candor keygen` made.",
)
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where this agent keeps its ledger, metrics, status and model.",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ENDPOINT",
    help="Bind here instead of where the cluster file says, such as tcp://*:7000; may be repeated.",
)
@click.option(
    "--organiser",
    metavar="KEY|FILE",
    help="Take only a file that this organiser signed: an identity in hex, or a public.toml.  "
    "[default: one that the keys have asked, if any]",
)
@click.option(
    "--strategy",
    default="honest",
    show_default=True,
    help="How the gradient becomes a report: honest, scale:A … (docs/payments.md), module:Class.",
)
@initial_option
@data_root_option
@click.option(
    "--evaluate-every",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Measure the test metric every this many rounds; 0 never.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.  [default: its own]")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="What goes to standard error; log.jsonl always has info and above.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the last status as JSON at the end.")
@click.option("--record-sketches", is_flag=True, hidden=True)
@click.option("--exit-with-parent", is_flag=True, hidden=True)
@click.pass_context
def command(
    context: click.Context,
    cluster_path: Path,
    agent: str,
    keys: Path,
    data_dir: Path,
    listen: tuple[str, ...],
    organiser: str | None,
    strategy: str,
    initial: Path | None,
    data_root: Path | None,
    evaluate_every: int,
    threads: int | None,
    log_level: str,
    as_json: bool,
    record_sketches: bool,
    exit_with_parent: bool,
) -> None:
    """Run one agent: train on this host's data, gossip, witness and settle until the run is over.

    Stop it with Ctrl-C or SIGTERM; started again on the same data directory it keeps its ledger and
    enters the run again from a neighbour's model.

    \b
    Example:
      candor agent --cluster cluster.toml --id a3 --keys keys/a3 --data-dir data/a3
    """
    from candor.agent.daemon.host import HostSettings, run_agent  # imports torch

    settings = HostSettings(
        agent=agent,
        keys=keys,
        data_dir=data_dir,
        listen=listen,
        organiser=organiser,
        strategy=strategy,
        initial=initial,
        data_root=data_root,
        evaluate_every=evaluate_every,
        threads=threads,
        log_level=getattr(logging, log_level.upper()),
        record_sketches=record_sketches,
        exit_with_parent=exit_with_parent,
    )
    failure, code = run_agent(cluster_path, settings)
    if as_json:
        click.echo((data_dir / "status.json").read_text(encoding="utf-8"), nl=False)
    if failure is not None:
        word = "" if code == INTERRUPTED else "error: "
        click.echo(f"candor: {word}{agent}: {failure}", err=True)
    elif not as_json:
        click.echo(_last_word(data_dir), err=True)
    context.exit(code)


def _last_word(data_dir: Path) -> str:
    """One line on how it went and where everything is."""
    status = read_status(data_dir)
    accuracy = format_share(status.test_accuracy)
    return (
        f"candor: {status.agent}: done after round {status.round}, accuracy {accuracy}, balance "
        f"{format_credits(status.balance)} credits; model, metrics and ledger in {data_dir}"
    )
