"""`candor audit`: does any lie pay, on this task, graph and rule, and at which price none does."""

import json
import os
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from agent.commands.plan import plan_of, plan_options
from agent.options import json_option
from mechanisms.incentives import interval
from topologies.specs import ConfigurationError

PAYS: Final = 1


@click.command("audit")
@plan_options(required=True)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Runs.")
@click.option("--agent", help="Who deviates.  [default: the first one]")
@click.option(
    "--strategies",
    "names",
    help="Which, separated by commas.  [default: a library of twelve]",
)
@click.option(
    "--price",
    default="auto",
    show_default=True,
    metavar="auto|NUMBER",
    help="Factor on the whole rule; auto takes one from the window found.",
)
@click.option(
    "--competition",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Weight of the others' losses in the reward; 0 for who minds its own model.",
)
@click.option(
    "--epsilon",
    type=click.FloatRange(min=0),
    default=0.01,
    show_default=True,
    help="Gains up to this share of the honest reward are let pass.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Processes.  [default: as many as there are cores]"
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    seeds: int,
    agent: str | None,
    names: str | None,
    price: str,
    competition: float,
    epsilon: float,
    jobs: int | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Simulate honest and lying runs on the same seeds, and say whether any lie pays.

    A gain is the loss that the liar saves itself, in per cent of what honest training saves it; a
    credit is worth one unit of loss. Exit code 0: no strategy gains more than epsilon at the price;
    1: one does, or no price stops all of them (named); 2: bad usage.

    \b
    Example:
      candor audit --agents 10 --topology erdos-renyi:p=0.4 --task digits --rounds 160 \\
          --local-steps 1 --step-size 0.1 --step-decay 0
    """
    from agent.runtimes.incentive_audit import STRATEGIES, audit  # imports torch
    from agent.runtimes.stand_ins import stand_in_entries
    from agent.runtimes.testbed import cluster_of

    if asked["strategies"]:
        raise ConfigurationError("--strategy is for a run; give --strategies A,B to audit them")
    factor = None if price == "auto" else _number(price)
    first = asked["seed"]
    plans = [plan_of({**asked, "seed": first + i}, 0, simulated=True) for i in range(seeds)]
    clusters = [cluster_of(plan, Path("audit"), stand_in_entries) for plan in plans]
    chosen = tuple(names.split(",")) if names else STRATEGIES
    with Console(stderr=True).status("runs") as status:
        verdict = audit(
            clusters,
            chosen,
            agent=agent,
            weight=competition,
            epsilon=epsilon,
            price=factor,
            data_root=asked["data_root"],
            jobs=jobs or os.cpu_count() or 1,
            progress=lambda done, of: status.update(f"{done} of {of} runs"),
        )
    profitable = verdict.profitable()
    scale, at = verdict.scale, verdict.price
    rows = []
    for one in verdict.judged:
        deviation = one.deviation
        free, net = interval(deviation.gains / scale), interval(deviation.net(at or 0.0) / scale)
        rows.append((deviation.strategy, free, net, float(deviation.charges.mean())))
    median, high = np.percentile(verdict.honest_paid, [50, 98]) * (at or 0.0) / scale
    if as_json:
        facts = {
            "agent": verdict.agent,
            "price": at,
            "window": [verdict.window.low, _finite(verdict.window.high)],
            "honest_reward": scale,
            "profitable": profitable,
            "honest_pays": {"median": median, "p98": high},
            "strategies": {
                name: {
                    "gain": [free.mean, free.low, free.high],
                    "net_gain": [net.mean, net.low, net.high],
                    "charge": charge,
                }
                for name, free, net, charge in rows
            },
        }
        click.echo(json.dumps(_clean(facts), indent=2))
    else:
        table = Table(title=f"{verdict.agent} lies, per cent of the honest reward", box=None)
        for column in ("strategy", "gain, free", "95 %", "gain, paid", "95 %", "pays more"):
            table.add_column(column, justify="left" if column == "strategy" else "right")
        for name, free, net, charge in rows:
            table.add_row(
                name,
                f"{100 * free.mean:+.2f}",
                f"{100 * free.low:+.2f} {100 * free.high:+.2f}",
                f"{100 * net.mean:+.2f}",
                f"{100 * net.low:+.2f} {100 * net.high:+.2f}",
                f"{charge:+.4f}",
            )
        Console().print(table)
        window = verdict.window
        upper = "any higher" if window.high == float("inf") else f"{window.high:.4g}"
        click.echo(
            "no price makes honesty the best response"
            if window.empty
            else f"honesty is the best response from {window.low:.4g} times the rule's prices "
            f"({window.by or 'nobody gains'}) to {upper} {window.against}".rstrip()
        )
        if at is not None:
            click.echo(f"at {at:.4g}: honest agents pay {100 * median:+.2f} % in the median, ")
            click.echo(f"{100 * high:+.2f} % at the 98th percentile, of the honest reward")
    if profitable or at is None:
        names_of = ", ".join(profitable) or window_name(verdict.window.by)
        click.echo(f"candor: a lie pays: {names_of}", err=True)
        context.exit(PAYS)


def window_name(name: str) -> str:
    """Who asks for a price that another one forbids."""
    return name or "no price stops all of them"


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigurationError(f"--price {text!r}: write auto, or a number from 0 on")
    return value


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _clean(value: Any) -> Any:
    """JSON has no infinity: null stands for what is not finite."""
    match value:
        case dict():
            return {key: _clean(one) for key, one in value.items()}
        case list():
            return [_clean(one) for one in value]
        case float():
            return _finite(value)
    return value
