"""Graphs in files of lines: lists of edges, lists of neighbours, Pajek, and CSV tables."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from candor.topologies.graphs.generators import EDGES_MAX
from candor.topologies.graphs.listings import (
    NODES_MAX,
    Listing,
    by_label,
    check_weight,
    ends,
    listed,
)
from candor.topologies.specs.fields import Edge
from candor.topologies.specs.specs import ConfigurationError, shown
from candor.topologies.specs.tables import csv_rows, without_names

# What programs call the two ends of an edge at the head of their columns.
_ENDS = {"from": "source", "src": "source", "to": "target", "dst": "target"}
_WORD = re.compile(r'"([^"]*)"|([^\s,;"]+)')
_Line = tuple[int, list[str]]  # its number, and its words


def _words(line: str) -> list[str]:
    return [quoted or bare for quoted, bare in _WORD.findall(line)]


def _lines(text: str) -> Iterator[_Line]:
    """Lines that hold something; `#` begins a comment, at the head of a line `%`, too; attributes
    in `{…}`, as networkx writes them, are left out.

    Raises:
        ConfigurationError: more lines than there may be edges, before they fill the memory.
    """
    count = 0
    for number, line in enumerate(text.splitlines(), start=1):
        words = _words("" if line.startswith("%") else line.partition("#")[0].partition("{")[0])
        if words:
            count += 1
            if count > EDGES_MAX + NODES_MAX:
                raise ConfigurationError(f"line {number}: more than {EDGES_MAX} edges")
            yield number, words


def edge_list(text: str) -> Listing:
    """Two names a line and, if at all, a weight behind them, parted by blanks, commas or
    semicolons. A first line may be a header: of the columns, of how many agents or edges follow,
    or of both numbers.

    Raises:
        ConfigurationError: another line, a header that counts wrong, or what may be an adjacency
            list as well.
    """
    lines, notes = _without_header(list(_lines(text)))
    for number, words in lines:
        if len(words) not in (2, 3):
            raise ConfigurationError(
                f"line {number}: expected two names and perhaps a weight, not "
                f"{shown(' '.join(words))}; an adjacency list ends in .adjlist"
            )
    _refuse_neighbours(lines)
    for number, words in lines:
        if len(words) == 3:
            check_weight(words[2], f"line {number}")
    return Listing(_nodes(lines), tuple((u, v) for _, (u, v, *_) in lines), notes=notes)


def _nodes(lines: Sequence[_Line]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for _, words in lines for word in words[:2]))


def _without_header(lines: list[_Line]) -> tuple[list[_Line], tuple[str, ...]]:
    """The lines of edges, and what the user should know of the line before them."""
    if len(lines) < 2:
        return lines, ()
    (number, head), rest = lines[0], lines[1:]
    agents, edges = len(_nodes(rest)), len(rest)
    if {_ENDS.get(word.lower(), word.lower()) for word in head[:2]} == {"source", "target"}:
        return rest, ()
    if len(head) == 1 and head[0].isdecimal():
        if head[0] not in (str(agents), str(edges)):
            raise ConfigurationError(
                f"line {number}: {head[0]:.20} agents or edges should follow, but {agents} "
                f"agents and {edges} edges do; an agent without edges has no place in a graph"
            )
        return rest, ()
    if head == [str(agents), str(edges)]:
        note = f"line {number} taken for a header: {agents} agents, {edges} edges"
        return rest, (note,)
    return lines, ()


def _refuse_neighbours(lines: list[_Line]) -> None:
    """Refuse what may be an adjacency list with at most two neighbours a line: every line is
    another agent's, and every third word is an agent, too."""
    nodes = set(_nodes(lines))
    thirds = [(number, words) for number, words in lines if len(words) == 3]
    if len({words[0] for _, words in lines}) < len(lines) or not thirds:
        return
    if all(words[2] in nodes - set(words[:2]) for _, words in thirds):
        number, words = thirds[0]
        raise ConfigurationError(
            f"line {number}: {words[2]!r} may be a weight or a neighbour; write weights as "
            "2.0, and let an adjacency list end in .adjlist"
        )


def adjacency_list(text: str) -> Listing:
    """An agent a line, with those of its neighbours behind it that no other line has; or all."""
    rows = [words for _, words in _lines(text)]
    edges = tuple((head, other) for head, *others in rows for other in others)
    return Listing(tuple(dict.fromkeys(word for words in rows for word in words)), edges)


# --- Pajek --------------------------------------------------------------------------------------

_LISTS = {"*arcs": True, "*edges": False, "*arcslist": True, "*edgeslist": False}


def pajek(text: str) -> Listing:
    """Vertices with their labels, then arcs and edges, or lists of neighbours, by number.

    Raises:
        ConfigurationError: another section, or a line that does not belong to its section.
    """
    section, count = "", 0
    labels: dict[str, str] = {}
    found: list[tuple[str, str, bool]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = _words("" if line.startswith("%") else line)
        if not words:
            continue
        where = f"line {number}"
        if words[0].startswith("*"):
            section = words[0].lower()
            if section == "*vertices":
                count = _count(words, where)
            elif section not in (*_LISTS, "*network"):
                raise ConfigurationError(f"{where}: {words[0]} is not read; write *arcs or *edges")
        elif section == "*vertices":
            labels[words[0]] = words[1] if len(words) > 1 else ""
        elif section not in _LISTS or len(words) < 2:
            raise ConfigurationError(f"{where}: expected a section, or two numbers of vertices")
        elif section.endswith("list"):
            found += [(words[0], other, _LISTS[section]) for other in words[1:]]
        else:
            if len(words) > 2:
                check_weight(words[2], where)
            found.append((words[0], words[1], _LISTS[section]))
    ids = [str(i) for i in range(1, count + 1)]
    names = by_label(ids, [labels.get(one) for one in ids])
    return listed(names.values(), [(ends(names, u, v), one_way) for u, v, one_way in found])


def _count(words: list[str], where: str) -> int:
    count = words[1] if len(words) > 1 else ""
    if not count.isdecimal() or len(count) > 9 or int(count) > NODES_MAX:
        raise ConfigurationError(f"{where}: expected *vertices and how many, at most {NODES_MAX}")
    return int(count)


# --- CSV ----------------------------------------------------------------------------------------


_EDGE_TABLE: Final = "a table of edges begins with the row Source,Target"


def table(text: str) -> Listing:
    """An edge table, as Gephi writes it, where the first row says so; else an adjacency matrix."""
    rows = csv_rows(text)
    header = [_ENDS.get(cell.lower(), cell.lower()) for cell in rows[0]] if rows else []
    return _edge_table(header, rows) if {"source", "target"} <= set(header) else _adjacency(rows)


def _edge_table(header: list[str], rows: list[list[str]]) -> Listing:
    """An edge a row, in the columns Source and Target; Type and Weight count, others do not."""
    found: list[tuple[Edge, bool]] = []
    for number, row in enumerate(rows[1:], start=2):
        cells = dict(zip(header, row, strict=False))
        for end in ("source", "target"):
            if not cells.get(end):
                raise ConfigurationError(f"row {number} has no {end}")
        if weight := cells.get("weight"):
            check_weight(weight, f"row {number}")
        one_way = cells.get("type", "").lower() == "directed"
        found.append(((cells["source"], cells["target"]), one_way))
    return listed(dict.fromkeys(node for edge, _ in found for node in edge), found)


def _adjacency(rows: list[list[str]]) -> Listing:
    """A square of numbers, one row an agent, 0 for no edge; names in a first row and column.

    Without them, agents are numbered from 0. Row i has the arcs that leave i.
    """
    names, rows = without_names(rows)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows):
            raise ConfigurationError(
                f"not square: {len(rows)} rows of numbers, but row {number} has {len(row)} "
                f"columns; {_EDGE_TABLE}"
            )
    names = names or [str(i) for i in range(len(rows))]
    if len(names) != len(rows):
        raise ConfigurationError(f"{len(names)} names for {len(rows)} rows")
    try:
        arcs = tuple(
            (names[i], names[j])
            for i, row in enumerate(rows)
            for j, cell in enumerate(row)
            if cell != "0" and check_weight(cell, f"row {i + 1}, column {j + 1}", zero=True)
        )
    except ConfigurationError as exc:
        raise ConfigurationError(f"{exc}; {_EDGE_TABLE}") from exc
    return Listing(tuple(names), arcs, directed=True)
