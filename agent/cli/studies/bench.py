"""`candor bench`: what rounds, lies, large topologies and simulated runs cost."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from candor.agent.cli.options import (
    COUNT,
    FiniteRange,
    data_root_option,
    device_option,
    json_option,
)
from candor.agent.exits import VERIFICATION_FAILED
from candor.agent.reports.terminal import plain_table
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.specs.files import json_text, validated


@click.group("bench")
def command() -> None:
    """Measure what rounds, large topologies and simulations cost on this machine, and lies under
    each rule.

    \b
    Examples:
      candor bench round --agents 8 --topology ring --parameters 1000000 --rounds 30
      candor bench payments --agents 10 --rounds 320 --seeds 4
      candor bench topologies
      candor bench simulate
      candor bench rows
    """


@command.command("round")
@click.option("--agents", type=click.IntRange(min=2), default=8, help="How many daemons.")
@click.option("--topology", default="ring", metavar="SPEC", help="Who is whose neighbour.")
@click.option(
    "--parameters", type=COUNT, default=1_000_000, help="Float32 parameters of the model."
)
@click.option(
    "--rounds", type=click.IntRange(min=3), default=30, help="Rounds to take the median of."
)
@click.option(
    "--aggregator",
    metavar="SPEC",
    help="Time rounds by this aggregator next to rounds by the graph's weights instead.",
)
@click.option(
    "--max-byzantine",
    type=click.IntRange(min=0),
    default=0,
    help="Byzantine neighbours that the aggregator is to withstand.",
)
@click.option(
    "--rewards",
    metavar="SPEC",
    help="Time rounds in which neighbours trade models by this rule next to others instead.",
)
@click.option(
    "--influence",
    type=FiniteRange(min=1),
    metavar="C",
    help="Time rounds in which influence is bounded next to others instead.",
)
@json_option
def measure_command(
    agents: int,
    topology: str,
    parameters: int,
    rounds: int,
    aggregator: str | None,
    max_byzantine: int,
    rewards: str | None,
    influence: float | None,
    as_json: bool,
) -> None:
    """Time rounds of real daemons that do not train, next to the raw exchange of the same bytes.

    The raw exchange is plain pyzmq between as many processes, measured in the same run, once in
    plain text and once with CURVE.

    \b
    Example:
      candor bench round --agents 8 --topology ring --parameters 1000000 --rounds 30 --json
      candor bench round --agents 8 --topology random-regular:degree=6 --aggregator rfa
    """
    from candor.agent.studies.bench.rounds import measure_round  # imports torch

    others = {"aggregator": aggregator, "rewards": rewards, "influence": influence}
    if any(value is not None for value in others.values()):
        byzantine = None if aggregator is None else max_byzantine
        fields = {**others, "max_byzantine": byzantine}
        robust = validated(AlgorithmSettings, fields, "algorithm")
        _robust_round(agents, topology, parameters, rounds, robust, as_json)
        return
    cost = measure_round(agents, topology, parameters, rounds)
    if as_json:
        click.echo(json_text(asdict(cost), indent=2))
        return
    seconds = {
        "daemons, everything on: the slowest agent, median": cost.seconds_per_round,
        "raw pyzmq, plain: median": cost.floor_seconds_per_round,
        "raw pyzmq, CURVE: median": cost.floor_curve_seconds_per_round,
        "an agent, mean": cost.mean_seconds_per_round,
        **{f"  {phase}": seconds for phase, seconds in cost.phases.items()},
        **{f"beside it: {part}": seconds for part, seconds in cost.beside.items()},
        **{f"processor, once: {what}": seconds for what, seconds in cost.operations.items()},
        "processor, all of an agent": cost.processor_seconds_per_round,
    }
    rows = [
        *((what, f"{1e3 * spent:.2f}") for what, spent in seconds.items()),
        ("  of it evidence", f"{cost.evidence_share:.1%}"),
        ("  of it settlement", f"{cost.settlement_share:.1%}"),
        ("a checkpoint", f"{1e3 * cost.checkpoint_seconds:.2f}"),
        ("  of the time", f"{cost.checkpoint_share:.2%}"),
        ("memory of an agent, MiB", f"{cost.memory_mib_per_agent:.0f}"),
    ]
    title = f"{agents} agents, {topology}, {parameters:,} parameters"
    caption = (
        "Less is better. The indented phases add up to the mean above them; rest: what none of "
        "them is. What is beside them runs at the same time."
    )
    _print(title, ("what a round takes", "#ms"), rows, caption)


def _robust_round(
    agents: int,
    topology: str,
    parameters: int,
    rounds: int,
    robust_settings: AlgorithmSettings,
    as_json: bool,
) -> None:
    from candor.agent.studies.bench.rounds import measure_robust_round

    cost = measure_robust_round(agents, topology, parameters, rounds, robust_settings)
    if as_json:
        click.echo(json_text(asdict(cost), indent=2))
        return
    bound = f"influence {cost.influence:g}" if cost.influence is not None else ""
    other = cost.aggregator or bound or f"rewards {cost.rewards}"
    plain, robust = cost.plain_seconds_per_round, cost.robust_seconds_per_round
    rows = [
        ("the slowest agent, median", f"{1e3 * plain:.2f}", f"{1e3 * robust:.2f}"),
        *(
            (f"  an agent's {phase}, mean", f"{1e3 * spent:.2f}", f"{1e3 * beside:.2f}")
            for (phase, spent), beside in zip(
                cost.plain_phases.items(), cost.robust_phases.values(), strict=True
            )
        ),
        ("ratio", "1.00", f"{cost.ratio:.2f}"),
        (
            "processor, an agent's mean",
            f"{1e3 * cost.plain_processor_seconds:.2f}",
            f"{1e3 * cost.robust_processor_seconds:.2f}",
        ),
        ("ratio", "1.00", f"{cost.processor_ratio:.2f}"),
    ]
    columns = ("what a round takes", "#ms by the graph's weights", f"#ms by {other}")
    title = f"{agents} agents, {topology}, {parameters:,} parameters"
    _print(title, columns, rows, "Less is better. Both are measured in turns.")


def _print(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> None:
    Console().print(plain_table(title, columns, rows, caption))


@command.command("payments")
@click.option("--agents", type=click.IntRange(min=3), default=10)
@click.option("--rounds", type=click.IntRange(min=16), default=320)
@click.option("--seeds", type=COUNT, default=4)
@json_option
def payments_command(agents: int, rounds: int, seeds: int, as_json: bool) -> None:
    """Measure what lies cost under each payment rule, and what they gain.

    One of the agents deviates, on digits, over graphs and partitions; a row shows what it pays in
    units of the price and, in brackets, the most that any honest agent of the run pays. --json also
    has what it pays beyond what it would pay if it were honest.

    \b
    Example:
      candor bench payments --agents 10 --rounds 320 --seeds 4
    """
    from candor.agent.studies.bench.payments import IDLING, RULES, measure_payments  # imports torch

    with Console(stderr=True).status("runs") as status:
        cells = measure_payments(agents, rounds, seeds, progress=status.update)
    if as_json:
        click.echo(json_text([asdict(cell) for cell in cells], indent=2))
        return
    named = ("#these three" if rule == IDLING else f"#{rule}" for rule in RULES)
    columns = ("what a0 does", "#a0 gains", *named)
    caption = (
        "a0 gains: training loss that it saves itself, above 0 the lie wins. Under a rule: what a0 "
        "pays, net, over the rule's price, and in brackets the most that an honest agent pays; the "
        "rule sees the lie where the first is far above the second. Below 0: receives."
    )
    for setting in dict.fromkeys((cell.topology, cell.partition) for cell in cells):
        rows = [
            (
                cell.strategy,
                f"{cell.gain:+.3f}",
                *(f"{cell.pays[rule]:.0f} ({cell.honest_pays[rule]:.0f})" for rule in RULES),
            )
            for cell in cells
            if (cell.topology, cell.partition) == setting
        ]
        _print(f"{', '.join(setting)}: what lies gain and pay", columns, rows, caption)


@command.command("hidden")
@click.option("--runs", type=COUNT, default=100, help="Runs for every kind and size of poison.")
@click.option("--task", default="digits:hidden=32", help="What they train, as of `simulate`.")
@data_root_option
@json_option
def hidden_command(runs: int, task: str, data_root: Path | None, as_json: bool) -> None:
    """Try poisons that sketches do not show on agents that train, and count who refuses them.

    In each run, a round of training, one of seven agents adds a poison from the null
    space of the sketch, as long as its largest distance to a receiver times the size. Exit code 3:
    an honest vector was refused, or a poison beyond the bound was not.

    \b
    Example:
      candor bench hidden --runs 100
    """
    from candor.agent.studies.bench.hidden import BOUND, measure_hidden  # imports torch

    with Console(stderr=True).status("runs") as status:
        cells, honest = measure_hidden(runs, status.update, task, data_root)
    missed = [cell for cell in cells if cell.size >= BOUND and cell.by_all < cell.runs]
    if as_json:
        told = {"poisons": [asdict(cell) for cell in cells], "honest": asdict(honest)}
        click.echo(json_text(told, indent=2))
    else:
        rows = (
            (
                cell.kind,
                f"{cell.size:g}",
                f"{cell.by_all} of {cell.runs}",
                f"{cell.by_none} of {cell.runs}",
                f"{cell.farthest:.2f}" if cell.farthest else "",
            )
            for cell in cells
        )
        columns = ("poison", "#size", "#refused by all", "#by none", "#farthest accepted")
        caption = (
            f"Farthest: times as far as its sketch says. Honest: {honest.refused} of "
            f"{honest.pairs} refused; of a squared distance {honest.hidden:.2f} at most was "
            f"hidden, chance explains {honest.explained:.2f}, allowed is {honest.cap:.2f} at most. "
            f"In effect a sketch has {honest.effective:.0f} values."
        )
        _print("Poisons that the sketch does not show", columns, rows, caption)
    if honest.refused or missed:
        raise click.exceptions.Exit(VERIFICATION_FAILED)


@command.command("topologies")
@click.option(
    "--agents", type=click.IntRange(min=16), default=1000, help="Agents of the mixing matrices."
)
@click.option(
    "--analysed", type=click.IntRange(min=16), default=10_000, help="Agents of the analyses."
)
@click.option("--calls", type=COUNT, default=3, help="Calls to take the median of.")
@json_option
def topologies_command(agents: int, analysed: int, calls: int, as_json: bool) -> None:
    """Time mixing matrices and analyses of large topologies.

    \b
    Example:
      candor bench topologies --agents 1000 --analysed 10000
    """
    from candor.agent.studies.bench.topologies import measure_topologies

    with Console(stderr=True).status("topologies") as status:
        costs = measure_topologies(agents, analysed, calls, progress=status.update)
    if as_json:
        click.echo(json_text([asdict(cost) for cost in costs], indent=2))
        return
    rows = [(cost.topology, f"{cost.agents:,}", cost.what, f"{cost.seconds:.3f}") for cost in costs]
    caption = f"Median of {calls} calls; less is better."
    _print("Graphs", ("topology", "#agents", "what is computed", "#seconds"), rows, caption)


@command.command("simulate")
@click.option(
    "--agents",
    type=click.IntRange(min=6),
    multiple=True,
    default=(100, 1000, 4096),
    help="How many agents; once for each number.",
)
@click.option("--rounds", type=COUNT, default=64, help="Rounds to time, after two that are not.")
@device_option
@json_option
def simulate_command(agents: tuple[int, ...], rounds: int, device: str, as_json: bool) -> None:
    """Time simulated rounds: agents times rounds a second, and peak memory.

    One local step a round on batches of 32, each agent with four neighbours; with and without the
    default payment rule.

    \b
    Example:
      candor bench simulate --agents 100 --agents 4096 --rounds 64
    """
    from candor.agent.studies.bench.simulation import measure_simulations  # imports torch

    with Console(stderr=True).status("simulations") as status:
        costs = list(measure_simulations(agents, rounds, device, progress=status.update))
    if as_json:
        click.echo(json_text([asdict(cost) for cost in costs], indent=2))
        return
    columns = ("task", "#parameters", "#agents", "payments", "#a second", "#a processor\nsecond")
    rows = (
        (
            cost.task,
            f"{cost.parameters:,}",
            f"{cost.agents:,}",
            "none" if cost.rule == "none" else "default",
            f"{cost.agent_rounds_per_s:,.0f}",
            f"{cost.agent_rounds_per_processor_s:,.0f}",
            f"{cost.memory_mib:,.0f}",
        )
        for cost in costs
    )
    caption = (
        "Agents times rounds, by the clock and by processor time: more is better. MiB: peak memory "
        "of the process, less is better."
    )
    _print(f"{rounds} rounds on {device}", (*columns, "#MiB"), rows, caption)


@command.command("rows")
@click.option(
    "--trials", type=click.IntRange(min=1), default=100, help="Neighbourhoods of each kind."
)
@json_option
def rows_command(trials: int, as_json: bool) -> None:
    """How far rows of sketches are from those of whole vectors, and how long a row takes.

    \b
    Example:
      candor bench rows --trials 20
    """
    from candor.agent.studies.bench import rows  # imports torch

    console = Console(stderr=True)
    with console.status("") as status:
        errors = rows.measure_errors(trials, status.update)
        costs = rows.measure_costs(trials, status.update)
    if as_json:
        both = {"errors": [asdict(e) for e in errors], "costs": [asdict(c) for c in costs]}
        click.echo(json_text(both, indent=2))
        return
    found = [
        (
            e.vectors,
            e.aggregator,
            f"{e.mean_weight_error:.3f}",
            f"{e.largest_weight_error:.3f}",
            f"{e.mean_distance:.3f}",
        )
        for e in errors
    ]
    columns = ("vectors", "aggregator", "#weights apart", "#at most", "#result apart")
    Console().print(
        plain_table(
            "Rows of sketches beside those of whole vectors",
            columns,
            found,
            "Sum of |w - w'|; and the result's distance over that between honest vectors.",
        )
    )
    counts = sorted({cost.neighbours for cost in costs})
    by_place = {(c.aggregator, c.neighbours): f"{c.milliseconds:.2f}" for c in costs}
    lines = [(spec, *(by_place[spec, count] for count in counts)) for spec in rows.RULES]
    names = ("aggregator", *(f"#{count} neighbours" for count in counts))
    Console().print(plain_table("A row", names, lines, "Milliseconds of processor time, median."))
