"""`candor bench`: what rounds, lies, large topologies and simulated runs cost."""

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from candor.agent.cli.options import json_option


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
    """


@command.command("round")
@click.option(
    "--agents", type=click.IntRange(min=2), default=8, show_default=True, help="How many daemons."
)
@click.option(
    "--topology", default="ring", show_default=True, metavar="SPEC", help="Who is whose neighbour."
)
@click.option(
    "--parameters",
    type=click.IntRange(min=1),
    default=1_000_000,
    show_default=True,
    help="Float32 parameters of the model.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=3),
    default=30,
    show_default=True,
    help="Rounds to take the median of.",
)
@json_option
def measure_command(
    agents: int, topology: str, parameters: int, rounds: int, as_json: bool
) -> None:
    """Time rounds of real daemons that do not train, next to the raw exchange of the same bytes.

    The raw exchange is plain pyzmq between as many processes, measured in the same run, once in
    plain text and once with CURVE.

    \b
    Example:
      candor bench round --agents 8 --topology ring --parameters 1000000 --rounds 30 --json
    """
    from candor.agent.studies.bench.rounds import measure_round  # imports torch

    cost = measure_round(agents, topology, parameters, rounds)
    if as_json:
        click.echo(json.dumps(asdict(cost), indent=2))
        return
    table = Table(title=f"{agents} agents, {topology}, {parameters:,} parameters", box=None)
    table.add_column("a round, median of the slowest agent", style="bold")
    table.add_column("ms", justify="right")
    table.add_row("daemons, everything on", f"{1e3 * cost.seconds_per_round:.1f}")
    table.add_row("raw pyzmq, plain", f"{1e3 * cost.floor_seconds_per_round:.1f}")
    table.add_row("raw pyzmq, CURVE", f"{1e3 * cost.floor_curve_seconds_per_round:.1f}")
    for phase, seconds in cost.phases.items():
        table.add_row(f"  {phase} (an agent)", f"{1e3 * seconds:.2f}")
    table.add_row("processor time (an agent)", f"{1e3 * cost.processor_seconds_per_round:.1f}")
    table.add_row("  of it evidence", f"{cost.evidence_share:.1%}")
    table.add_row("  of it settlement", f"{cost.settlement_share:.1%}")
    table.add_row("memory of an agent, MiB", f"{cost.memory_mib_per_agent:.0f}")
    Console().print(table)


@command.command("payments")
@click.option("--agents", type=click.IntRange(min=3), default=10, show_default=True)
@click.option("--rounds", type=click.IntRange(min=16), default=320, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=4, show_default=True)
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

    console = Console(stderr=True)
    with console.status("runs") as status:
        cells = measure_payments(agents, rounds, seeds, progress=status.update)
    if as_json:
        click.echo(json.dumps([asdict(cell) for cell in cells], indent=2))
        return
    names = [cell.strategy for cell in cells]
    for setting in dict.fromkeys((cell.topology, cell.partition) for cell in cells):
        table = Table(title=f"{', '.join(setting)}: pays (most of an honest agent)", box=None)
        table.add_column("a0", style="bold", no_wrap=True, min_width=max(map(len, names)))
        table.add_column("gain", justify="right")
        for rule in RULES:
            table.add_column(
                "these three" if rule == IDLING else rule, justify="right", overflow="fold"
            )
        for cell in cells:
            if (cell.topology, cell.partition) == setting:
                amounts = [
                    f"{cell.pays[rule]:.0f} ({cell.honest_pays[rule]:.0f})" for rule in RULES
                ]
                table.add_row(cell.strategy, f"{cell.gain:+.3f}", *amounts)
        Console().print(table)


@command.command("topologies")
@click.option(
    "--agents",
    type=click.IntRange(min=16),
    default=1000,
    show_default=True,
    help="Agents of the mixing matrices.",
)
@click.option(
    "--analysed",
    type=click.IntRange(min=16),
    default=10_000,
    show_default=True,
    help="Agents of the analyses.",
)
@click.option(
    "--calls",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Calls to take the median of.",
)
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
        click.echo(json.dumps([asdict(cost) for cost in costs], indent=2))
        return
    table = Table(title=f"seconds, median of {calls}", box=None)
    for column in ("topology", "agents", "what", "seconds"):
        table.add_column(column, justify="right" if column in ("agents", "seconds") else "left")
    for cost in costs:
        table.add_row(cost.topology, f"{cost.agents:,}", cost.what, f"{cost.seconds:.3f}")
    Console().print(table)


@command.command("simulate")
@click.option(
    "--agents",
    type=click.IntRange(min=6),
    multiple=True,
    default=(100, 1000, 4096),
    show_default=True,
    help="How many agents; once for each number.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Rounds to time, after two that are not.",
)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where."
)
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
        click.echo(json.dumps([asdict(cost) for cost in costs], indent=2))
        return
    table = Table(title=f"{rounds} rounds on {device}", box=None)
    for column in (
        "task",
        "parameters",
        "agents",
        "payments",
        "agents x rounds / s",
        "/ cpu s",
        "MiB",
    ):
        table.add_column(column, justify="left" if column in ("task", "payments") else "right")
    for cost in costs:
        table.add_row(
            cost.task,
            f"{cost.parameters:,}",
            f"{cost.agents:,}",
            "none" if cost.rule == "none" else "default",
            f"{cost.agent_rounds_per_s:,.0f}",
            f"{cost.agent_rounds_per_processor_s:,.0f}",
            f"{cost.memory_mib:,.0f}",
        )
    Console().print(table)
