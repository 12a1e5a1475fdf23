"""`candor games`: what theory says on when lies pay, next to the games as played."""

import json
from dataclasses import asdict

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from candor.agent.cli.options import json_option
from candor.agent.studies.games.estimation_rows import Row, mean_rows
from candor.agent.studies.games.sgd_rows import sgd_rows

SETTING = (
    "Mean estimation: 5 players, nu = 0.5, lambda = 1, noisy returns at price 0.1. SGD: 20 steps; "
    "10 players (quadratic), 5 (bounds), 4 to 16 and 800 steps (E.6). Where 0 is predicted, and "
    "for gains of which nothing may be left, off by is relative to what is at stake."
)


@click.command("games")
@click.option(
    "--trials",
    type=click.IntRange(min=1000, max=10_000_000),
    default=200_000,
    show_default=True,
    help="Games of mean estimation to average over; a 200th of it of SGD.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@json_option
@click.pass_context
def command(context: click.Context, trials: int, seed: int, as_json: bool) -> None:
    """Hold the theory of when lies pay among competitors against the games as played.

    Every row is a result of Dorner et al. 2023 with the number it predicts and the same number
    measured. Exit code 1: a row is off by more than a percent, or a bound does not hold, by more
    than chance explains.

    \b
    Example:
      candor games --seed 1
    """
    with Console(stderr=True).status("playing"):
        means, sgd = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
        rows = [*mean_rows(trials, means), *sgd_rows(trials // 200, sgd)]
    if as_json:
        shown = [asdict(row) | {"error": row.error, "holds": row.holds} for row in rows]
        click.echo(json.dumps({"ok": all(row.holds for row in rows), "rows": shown}, indent=2))
    else:
        Console().print(_table(rows))
    if not all(row.holds for row in rows):
        context.exit(1)


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, caption=SETTING, caption_justify="left")
    table.add_column("result", style="bold", no_wrap=True)
    table.add_column("what")
    for header in ("predicted", "measured", "± s.e.", "off by"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        at_most = row.relation == "<="
        verdict = ("within" if row.holds else "beyond") if at_most else f"{row.error:.2%}"
        table.add_row(
            row.source,
            row.what,
            f"{'<= ' if at_most else ''}{row.prediction:.4g}",
            f"{row.measured:.4g}",
            f"{row.standard_error:.0e}" if row.standard_error > 1e-12 * abs(row.measured) else "",
            verdict if row.holds else f"[red]{verdict}[/red]",
        )
    return table
