"""Mixing matrices of the user's own: read from a file, and what any matrix must hold to average."""

import io
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from candor.topologies.mixing import rules as mixing
from candor.topologies.specs.files import FilePath, read_bytes, read_text
from candor.topologies.specs.specs import ConfigurationError, located, one_line, shown
from candor.topologies.specs.tables import csv_rows, suffix, without_names

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from candor.topologies.mixing.spectral import Matrix

ENDINGS = (".csv", ".npy")
SUM_TOLERANCE = 1e-9  # of a row or column: above what printing 12 digits loses
SYMMETRY_TOLERANCE = 1e-12  # of two weights: above what computing them loses


def resolve(mixing_spec: str, graph: "nx.Graph[str]") -> "csr_array[np.float64]":
    """The checked mixing matrix (agents, agents) of a rule's name or of a file, in graph order.

    Raises:
        ConfigurationError: an unknown rule, or a file whose matrix `check_matrix` refuses.
    """
    from scipy.sparse import csr_array

    if suffix(mixing_spec) not in ENDINGS:
        return mixing.sparse_matrix(mixing_spec, graph, list(graph))
    found, names = _read(mixing_spec)
    with located(mixing_spec):
        found = _in_order(found, names, list(graph))
        check_matrix(found, graph)
    return csr_array(found)


def load(path: FilePath, order: Sequence[str] | None = None) -> NDArray[np.float64]:
    """A matrix (rows, columns) of numbers from a .csv or .npy file, unchecked but for its form.

    Where the file names its rows, they are put into `order`, which must then have the same names.

    Raises:
        ConfigurationError: unreadable, too large, not numbers, not a rectangle of them, or of
            others than those of `order`.
    """
    found, names = _read(path)
    with located(str(path)):
        return found if order is None else _in_order(found, names, order)


def _read(path: FilePath) -> tuple[NDArray[np.float64], list[str]]:
    """The matrix of a file, and the names of its rows or none."""
    if suffix(str(path)) == ".npy":
        return _from_npy(path), []
    text = read_text(path, "mixing matrix")
    try:
        names, cells = without_names(csv_rows(text))
        rows = [[float(cell) for cell in row] for row in cells]
    except ValueError as exc:
        raise ConfigurationError(f"{path}: not a matrix of numbers: {exc}") from exc
    if not rows or len({len(row) for row in rows}) != 1:
        raise ConfigurationError(f"{path}: not a matrix: no rows, or of several lengths")
    return np.array(rows, dtype=np.float64), names


def _in_order(
    matrix: NDArray[np.float64], names: Sequence[str], order: Sequence[str]
) -> NDArray[np.float64]:
    """The matrix with its named rows and columns in `order`; without names, as it is."""
    if not names:
        return matrix
    odd = sorted(set(names).symmetric_difference(order))
    if odd or matrix.shape != (len(names), len(names)):
        raise ConfigurationError(
            f"the matrix is not one row and column for each agent; {shown(odd[0])} is "
            + ("no agent" if odd[0] in names else "missing")
            if odd
            else f"{len(names)} names, but the matrix is {' x '.join(map(str, matrix.shape))}"
        )
    places = [names.index(agent) for agent in order]
    return matrix[np.ix_(places, places)]


def _from_npy(path: FilePath) -> NDArray[np.float64]:
    data = read_bytes(path, "mixing matrix")
    try:
        with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 wrote
            # Never pickled objects: reading those runs whatever the file's author likes.
            found = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as exc:  # whatever numpy trips over in the user's file
        raise ConfigurationError(f"{path}: not a .npy file of numbers: {one_line(exc)}") from exc
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise ConfigurationError(f"{path}: not a matrix of real numbers")
    return found.astype(np.float64)


def check_matrix(
    matrix: "Matrix",
    graph: "nx.Graph[str] | nx.DiGraph[str]",
    *,
    rows: bool = True,
    columns: bool = True,
) -> None:
    """Check that mixing with `matrix`, in graph order, drives all agents to one vector.

    Entry (i, j) is the weight with which agent i takes the vector of j, so it needs the arc from
    j to i. `rows` that sum to one keep agreement, `columns` that do keep the mean; push-sum needs
    the latter alone. Primitive, that is some power has no zero, makes them agree.

    Raises:
        ConfigurationError: in this order: not square, of another size, entries that are not finite
            or negative, sums other than one, a weight without an edge, not primitive.
    """
    from scipy.sparse import csr_array

    order, agents = list(graph), len(graph)
    if matrix.shape != (agents, agents):
        raise ConfigurationError(
            f"the mixing matrix is {' x '.join(map(str, matrix.shape))}, "
            f"but the graph has {agents} agents"
        )
    entries = csr_array(matrix).tocoo()
    for i, j, weight in zip(entries.row, entries.col, entries.data, strict=True):
        if not np.isfinite(weight) or weight < 0:
            raise ConfigurationError(
                f"the weight of {order[j]!r} for {order[i]!r} is {weight:g}; "
                "weights are finite and 0 or above"
            )
    if rows:
        _check_sums("row", entries.sum(axis=1), order)
    if columns:
        _check_sums("column", entries.sum(axis=0), order)
    support = entries.data > 0
    arcs = [
        (order[j], order[i])
        for i, j in zip(entries.row[support].tolist(), entries.col[support].tolist(), strict=True)
    ]
    for giver, taker in arcs:
        if giver != taker and not graph.has_edge(giver, taker):
            raise ConfigurationError(
                f"{taker!r} weighs {giver!r}, but there is no edge between them"
            )
    _check_primitive(order, arcs)


def check_symmetric(
    matrix: "csr_array[np.float64]", order: Sequence[str]
) -> "csr_array[np.float64]":
    """`matrix` itself, which weighs the agents of each edge alike, as what is to be corrected for
    sizes must; raises ConfigurationError for another."""
    difference = (matrix - matrix.T).tocoo()
    worst = int(np.argmax(np.abs(difference.data))) if difference.nnz else 0
    if difference.nnz and abs(difference.data[worst]) > SYMMETRY_TOLERANCE:
        u, v = order[int(difference.row[worst])], order[int(difference.col[worst])]
        raise ConfigurationError(
            f"the mixing matrix: {u!r} and {v!r} weigh each other differently, and agents declare "
            "sizes, by which only a symmetric matrix can be corrected; use one"
        )
    return matrix


def _check_sums(what: str, sums: NDArray[np.float64], order: Sequence[str]) -> None:
    worst = int(np.argmax(np.abs(sums - 1)))
    if abs(sums[worst] - 1) > SUM_TOLERANCE:
        raise ConfigurationError(
            f"the weights of {what} {worst} ({order[worst]!r}) sum to {sums[worst]:.12g}, not 1"
        )


def _check_primitive(order: Sequence[str], arcs: Iterable[tuple[str, str]]) -> None:
    support: nx.DiGraph[str] = nx.DiGraph()
    support.add_nodes_from(order)
    support.add_edges_from(arcs)
    if not nx.is_strongly_connected(support):
        raise ConfigurationError(
            "the weights above 0 do not connect all agents: they would never agree"
        )
    # A weight on oneself is a cycle of length 1.
    if nx.number_of_selfloops(support) == 0 and not nx.is_aperiodic(support):
        raise ConfigurationError(
            "the matrix is periodic: agents would swap their vectors for ever; "
            "give somebody a weight on itself"
        )
