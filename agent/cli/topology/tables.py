"""What `candor topology` tells a person: the description of one topology, the table of several."""

from typing import TYPE_CHECKING, Any, TypeAlias

import click
from rich.console import Console

from candor.agent.reports.terminal import format_bytes, plain_table
from candor.topologies.mixing import consensus
from candor.topologies.schedules import costs as analysis

if TYPE_CHECKING:
    from candor.topologies.schedules.schedules import RoundGraph

Facts: TypeAlias = dict[str, Any]  # the JSON of a topology

LISTED_MAX = 64  # agents whose neighbours are listed for a person; --json lists all
NAMED_MAX = 12  # neighbours that are named of each
COLUMNS_MIN = 120  # of a table, wherever it goes


def described(found: Facts) -> list[str]:
    """The lines that describe one topology, a fact each."""
    rounds, weak = found["consensus_rounds"], found["articulation_points"]
    rows = [
        ("topology", named(found)),
        ("agents", len(found["agents"])),
        ("edges", len(found["edges"])),
        *([("rounds", _period(found["period"]))] if "period" in found else []),
        ("neighbours", _span(found)),
        ("diameter", f"{_across(found)} (90 % of pairs within {found['effective_diameter']})"),
        ("mixing", found["mixing"]),
        *([("weights", _shares(found))] if "shares" in found else []),
        ("spectral gap", f"{found['spectral_gap']:.4g}"),
        ("consensus", _rounds(rounds)),
        (
            "a round",
            f"{format_bytes(found['bytes_per_round_max'])} of updates by the busiest agent",
        ),
        ("weak points", _few(weak) if weak else "none: no agent holds the graph together"),
    ]
    return [f"{name:<14}{value}" for name, value in rows]


def named(found: Facts) -> str:
    """The spec, with the graph that its edges are of where it does not say so itself."""
    spec = str(found["topology"])
    return f"{spec} (edges of {found['base']})" if "base" in found and "base=" not in spec else spec


def neighbours(graph: "RoundGraph") -> list[str]:
    """A line an agent with its neighbours, or with whom it gives to where the graph is directed."""
    position = {agent: i for i, agent in enumerate(graph)}
    listed = list(graph)[:LISTED_MAX]
    width = max(len(agent) for agent in listed)
    arrow = "->" if graph.is_directed() else "--"
    lines = []
    for agent in listed:
        names = sorted(graph[agent], key=position.__getitem__)
        more = [f"… and {len(names) - NAMED_MAX:,} more"] if len(names) > NAMED_MAX else []
        lines.append(f"{agent:>{width}} {arrow} {' '.join(names[:NAMED_MAX] + more)}")
    if len(graph) > len(listed):
        lines.append(f"… and {len(graph) - len(listed)} more agents (--json lists all)")
    return lines


def _period(period: int | None) -> str:
    return "by chance, measured" if period is None else f"{period} in turns"


def compared(rows: list[Facts], parameters: int, *, mixings: bool, measured: bool) -> None:
    """The table of `compare`: with `measured`, rates stand where bytes would."""
    last = ("#predicted", "#measured") if measured else ("#bytes/round", "#bytes")
    names = ("topology", "mixing") if mixings else ("topology",)
    columns = (*names, "#agents", "#degree", "#across", "#gap", "#rounds", *last)
    cells = (
        (
            named(row),
            *(row[name] for name in names[1:]),
            str(len(row["agents"])),
            _span(row),
            _across(row),
            f"{row['spectral_gap']:.3g}",
            "never" if row["consensus_rounds"] is None else str(row["consensus_rounds"]),
            *(_rates(row) if measured else _bytes(row)),
        )
        for row in rows
    )
    table = plain_table("" if measured else f"{parameters:,} parameters", columns, cells, "")
    # Rather lines that a narrow terminal wraps than numbers that are cut.
    Console(width=max(Console().width, COLUMNS_MIN)).print(table)
    click.echo(
        "\ndegree: neighbours of an agent; across: hops between the farthest two; gap: spectral, "
        "more averages faster"
    )
    click.echo(
        f"rounds: until disagreement is {analysis.CONSENSUS_ERROR:g} of what it was, less is better"
    )
    click.echo(
        f"predicted, measured: the factor by which it shrinks a round, less is better; over "
        f"{consensus.MEASURED_ROUNDS} rounds, of a schedule {analysis.MEASURED_ROUNDS}"
        if measured
        else "bytes: of updates that the busiest agent sends, in a round and until then, less is "
        "better"
    )


def _rates(row: Facts) -> tuple[str, str]:
    predicted = row["predicted_rate"]  # None where chance decides
    return "–" if predicted is None else f"{predicted:.6f}", f"{row['measured_rate']:.6f}"


def _bytes(row: Facts) -> tuple[str, str]:
    rounds, count = row["consensus_rounds"], row["bytes_per_round_max"]
    return format_bytes(count), "–" if rounds is None else format_bytes(count * rounds)


def _span(found: Facts) -> str:
    low, high = found["degree_min"], found["degree_max"]
    return str(low) if low == high else f"{low} to {high}"


def _shares(found: Facts) -> str:
    """Who counts least and most in the mean that all tend to, which sizes decide."""
    pairs = sorted(zip(found["shares"], found["agents"], strict=True))
    (low, who), (high, whose) = pairs[0], pairs[-1]
    return f"{who} counts {low:.3g} of the mean that all tend to, {whose} {high:.3g}"


def _rounds(rounds: int | None) -> str:
    error = f"{analysis.CONSENSUS_ERROR:g} of the disagreement"
    return f"{rounds} rounds to {error}" if rounds is not None else "never"


def _across(found: Facts) -> str:
    return f"{'' if found['diameter_exact'] else '≥ '}{found['diameter']}"


def _few(names: "tuple[str, ...]") -> str:
    return " ".join(names[:8]) + (f" … ({len(names)} in all)" if len(names) > 8 else "")
