"""`candor agent`: the daemon of one agent, from its start to the end of the run."""

import logging
import os
import signal
from pathlib import Path
from typing import Any

import click

from candor.agent.cli.options import (
    COUNT,
    FILE,
    FOLDER,
    PATH,
    answer_alone,
    cluster_option,
    data_root_option,
    device_option,
    initial_option,
    log_format_option,
    organiser_option,
    participation_option,
)
from candor.agent.daemon.journal import BYTES_MAX, KEPT
from candor.agent.daemon.participation import absence, participation_words, seen_in
from candor.agent.daemon.status import read_status
from candor.agent.exits import ABSENT, INTERRUPTED
from candor.agent.reports.metric import Metric
from candor.agent.reports.terminal import isolation
from candor.mechanisms.payments.credits import format_credits
from candor.topologies.specs.specs import ConfigurationError

PORT_MAX = 2**16 - 1
LEVELS = ("debug", "info", "warning", "error")


@click.command("agent")
@cluster_option
@click.option("--id", "agent", required=True, help="Which agent of the cluster file this is.")
@click.option("--keys", required=True, type=PATH, help="The directory that `candor keygen` made.")
@click.option(
    "--data-dir",
    required=True,
    type=FOLDER,
    help="Where this agent keeps its ledger, metrics, status and model.",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ENDPOINT",
    help="Bind here instead of where the cluster file says, such as tcp://*:7000; may be repeated.",
)
@click.option(
    "--dial",
    "dials",
    multiple=True,
    metavar="ID=ENDPOINT",
    callback=lambda _context, _option, texts: _addresses(texts),
    help="Dial this neighbour here instead of where the cluster file says: a tunnel or a relay.",
)
@click.option(
    "--bulk-port",
    default="0",
    metavar="PORT|off",
    callback=lambda _context, _option, text: _port(text),
    help="Take neighbours' models at this port, sealed for each. What cannot be sent there comes "
    "to the port of the cluster file; with off, everything; with 0, the default, it is any that "
    "is free.",
)
@organiser_option(
    "Take only a file that this organiser signed: an identity in hex, or a public.toml.  "
    "[default: one that the keys have asked, if any]"
)
@click.option(
    "--strategy",
    default="honest",
    help="How the gradient becomes a report: honest, scale:A … (docs/payments.md), module:Class.",
)
@initial_option
@data_root_option
@click.option(
    "--evaluate-every",
    type=click.IntRange(min=0),
    default=1,
    help="Measure the test metric every this many rounds; 0 never.",
)
@device_option
@click.option(
    "--tensorboard",
    type=FOLDER,
    metavar="DIR",
    help="Write TensorBoard event files of each round to DIR/ID.",
)
@click.option("--threads", type=COUNT, help="Threads of torch.  [default: its own]")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    help="What goes to standard error; log.jsonl always has info and above.",
)
@log_format_option
@click.option(
    "--log-file",
    type=FILE,
    callback=lambda _context, _option, path: path and path.absolute(),
    metavar="FILE",
    help="Where events go in place of log.jsonl in the data directory; opened anew at SIGHUP.",
)
@click.option(
    "--log-max-bytes",
    "log_bytes_max",
    type=click.IntRange(min=0),
    default=BYTES_MAX,
    help="The log becomes FILE.1, and begins anew, before it is larger; 0: it only grows.",
)
@click.option(
    "--log-keep", "log_kept", type=COUNT, default=KEPT, help="How many such older files to keep."
)
@participation_option
@click.option("--json", "as_json", is_flag=True, help="Print the last status as JSON at the end.")
@click.option("--record-sketches", is_flag=True, hidden=True)
@click.option("--exit-with-parent", is_flag=True, hidden=True)
@click.pass_context
def command(
    context: click.Context,
    /,
    cluster_path: Path,
    log_level: str,
    required_share: float | None,
    as_json: bool,
    agent: str,
    data_dir: Path,
    **options: Any,
) -> None:
    """Run one agent: train on this host's data, gossip, witness and settle until the run is over.

    Stop it with Ctrl-C or SIGTERM; SIGHUP only opens its log anew. Started again on the same data
    directory it keeps its ledger and enters the run again from a neighbour's model. Where its run
    is done it says so and ends with 0. A revision of the cluster file that goes on with the run is
    taken up when it is put in its place, or handed over by a neighbour. It counts in which rounds
    it mixed whom; with --require-participation it ends with 5 where the run is done and it, or a
    neighbour as it saw it, took part in fewer.

    \b
    Example:
      candor agent --cluster cluster.toml --id a3 --keys keys/a3 --data-dir data/a3
    """
    # Of a terminal that closes, or of whoever has moved the log away; the daemon minds it later.
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    context.call_on_close(lambda: signal.signal(signal.SIGHUP, before))
    from candor.agent.daemon.host import HostSettings, run_agent  # imports torch
    from candor.agent.learning.ranks import ranks_of

    level = getattr(logging, log_level.upper())
    # A task that goes to another directory while it trains does not take ours along.
    settings = HostSettings(agent=agent, data_dir=data_dir.absolute(), log_level=level, **options)
    with answer_alone(as_json):
        told, code = run_agent(cluster_path, settings)
    if told is None and not ranks_of(os.environ).leads:
        context.exit(code)  # rank 0 has the last word
    if as_json:
        click.echo((data_dir / "status.json").read_text(encoding="utf-8"), nl=False)
    if told is not None:
        word = "" if code in (0, INTERRUPTED) else "error: "
        click.echo(f"candor: {word}{agent}: {told}", err=True)
    elif not as_json and options["log_format"] == "text":
        _last_words(data_dir)
    absent = ""
    if code == 0 and required_share is not None:
        absent = absence(seen_in([read_status(settings.data_dir)]), required_share)
    if absent:
        click.echo(f"candor: error: as {agent} saw it, {absent}", err=True)
    context.exit(ABSENT if absent else code)


def _addresses(texts: tuple[str, ...]) -> dict[str, str]:
    """Endpoints by id, of `ID=ENDPOINT`."""
    pairs = [text.partition("=")[::2] for text in texts]
    if len(dict(pairs)) < len(pairs):
        raise ConfigurationError("--dial: a neighbour is named twice")
    return dict(pairs)


def _port(text: str) -> int | None:
    if text == "off":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > PORT_MAX:
        raise ConfigurationError(f"--bulk-port {text}: a port, 0 for any that is free, or off")
    return int(text)


def _last_words(data_dir: Path) -> None:
    """One line on how it went and where everything is, and one before it if it went alone."""
    status = read_status(data_dir)
    if warning := isolation(status.agent, status.alone_rounds, status.round):
        click.echo(f"candor: warning: {warning}", err=True)
    if words := participation_words(seen_in([status])):
        click.echo(f"candor: as {status.agent} saw it, {words}", err=True)
    metric = Metric.of({"metric": status.metric, "better": status.better})
    found = f"{metric.name} {metric.text(status.test_accuracy)}"
    if status.local_metric is not None:
        found += f", on own data {metric.text(status.local_metric)}"
    click.echo(
        f"candor: {status.agent}: done after round {status.round}, {found}, balance "
        f"{format_credits(status.balance)} credits; model, metrics and ledger in {data_dir}",
        err=True,
    )
