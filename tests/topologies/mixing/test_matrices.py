"""A matrix of the user's own is used as it is, or refused in one line."""

from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from candor.topologies.graphs import graphs
from candor.topologies.mixing import matrices
from candor.topologies.mixing import rules as mixing
from candor.topologies.mixing.matrices import check_matrix, resolve
from candor.topologies.specs.specs import ConfigurationError

RING = graphs.build("ring", 4)
GOOD = mixing.matrix("metropolis-hastings", RING, list(RING))


def changed(*entries: tuple[int, int, float]) -> np.ndarray:
    matrix = GOOD.copy()
    for i, j, by in entries:
        matrix[i, j] += by
    return matrix


@given(st.sampled_from([".csv", ".npy"]), st.integers(2, 12), st.integers(0, 100))
def test_a_written_matrix_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, ending: str, agents: int, seed: int
) -> None:
    graph = graphs.build("erdos-renyi:p=0.6", agents, seed)
    matrix = mixing.matrix("metropolis-hastings", graph, list(graph))
    path = tmp_path_factory.mktemp("matrix") / f"w{ending}"
    if ending == ".npy":
        np.save(path, matrix)
    else:
        np.savetxt(path, matrix, delimiter=",", fmt="%.17g")
    assert np.array_equal(resolve(str(path), graph).toarray(), matrix)


def test_a_rule_is_resolved_by_name() -> None:
    assert np.array_equal(resolve("metropolis-hastings", RING).toarray(), GOOD)
    with pytest.raises(ConfigurationError, match="unknown mixing 'uniform'"):
        resolve("uniform", RING)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "is 3 x 3, but the graph has 4 agents"),
        (np.ones((4, 3)), "is 4 x 3"),
        (changed((0, 1, np.nan)), "the weight of 'a1' for 'a0' is nan"),
        (changed((0, 1, np.inf)), "is inf; weights are finite and 0 or above"),
        (changed((0, 1, -0.5), (0, 0, 0.5)), "the weight of 'a1' for 'a0' is -0.166667"),
        (changed((0, 0, 1e-8)), "the weights of row 0 ('a0') sum to 1.00000001, not 1"),
        (changed((1, 0, 0.1), (1, 1, -0.1)), "the weights of column 0 ('a0') sum to 1.1, not 1"),
        (
            changed((0, 2, 0.1), (0, 0, -0.1), (2, 0, 0.1), (2, 2, -0.1)),
            "'a0' weighs 'a2', but there is no edge between them",
        ),
        (np.eye(4), "do not connect all agents"),
        (
            np.array([[0, 0.5, 0, 0.5], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0.5, 0, 0.5, 0]]),
            "the matrix is periodic",
        ),
    ],
)
def test_a_matrix_that_does_not_average_is_refused(matrix: np.ndarray, message: str) -> None:
    for form in (matrix, csr_array(matrix)):
        with pytest.raises(ConfigurationError) as caught:
            check_matrix(form, RING)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_sums_may_be_off_by_what_printing_loses() -> None:
    check_matrix(changed((0, 0, 9e-10)), RING)


def test_without_loops_an_odd_cycle_still_averages() -> None:
    triangle = graphs.build("ring", 3)
    check_matrix((np.ones((3, 3)) - np.eye(3)) / 2, triangle)


def test_push_sum_needs_columns_alone_and_arcs_in_their_direction() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph([("x", "y"), ("y", "z"), ("z", "x"), ("x", "z")])
    matrix = np.array([[1, 0, 1.5], [1, 1.5, 0], [1, 1.5, 1.5]]) / 3
    check_matrix(matrix, graph, rows=False)
    with pytest.raises(ConfigurationError, match="row 2"):
        check_matrix(matrix, graph)
    with pytest.raises(ConfigurationError, match="'x' weighs 'y'"):
        check_matrix(matrix.T, graph, columns=False)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("w.csv", b"", "not a matrix: no rows"),
        ("w.csv", b"1,0\n1\n", "of several lengths"),
        ("w.csv", b"1,0\n0,x\n", "not a matrix of numbers: could not convert"),
        ("w.csv", b"\xff", "not UTF-8"),
        ("w.csv", b"1,0\n0,1\n", "is 2 x 2, but the graph has 4 agents"),
        ("w.npy", b"", "not a .npy file of numbers"),
        ("w.npy", b"\x93NUMPY\x01\x00", "not a .npy file of numbers"),
        ("none.npy", None, "No such file"),
    ],
)
def test_a_bad_file_is_one_line(
    name: str, data: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigurationError) as caught:
        resolve(str(path), RING)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_named_rows_go_to_their_agents(tmp_path: Path) -> None:
    graph = graphs.make_graph(["carol", "alice", "bob"], [("alice", "bob"), ("bob", "carol")])
    path = tmp_path / "w.csv"
    path.write_text(
        ",alice,bob,carol\nalice,0.9,0.1,0\nbob,0.1,0.7,0.2\ncarol,0,0.2,0.8\n"  # as pandas writes
    )
    found = resolve(str(path), graph).toarray()
    assert np.array_equal(found, [[0.8, 0, 0.2], [0, 0.9, 0.1], [0.2, 0.1, 0.7]])
    assert np.array_equal(matrices.load(path, list(graph)), found)
    assert matrices.load(path)[0, 0] == 0.9
    for text, message in (
        (",alice,bob,dave\nalice,1,0,0\nbob,0,1,0\ndave,0,0,1\n", "'carol' is missing"),
        ("alice,bob,carol,dave\n1,0,0,0\n", "'dave' is no agent"),
        ("alice,bob,carol\n1,0,0\n", "3 names, but the matrix is 1 x 3"),
        (",alice,bob,carol\nalice,1,0,0\ncarol,0,1,0\nbob,0,0,1\n", "order of the columns"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=message):
            resolve(str(path), graph)


@pytest.mark.parametrize(
    "array", [np.array([[None]]), np.array(["x"]), np.zeros(3), np.zeros((2, 2), dtype=complex)]
)
def test_a_npy_of_anything_else_is_refused(array: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "w.npy"
    np.save(path, array)
    with pytest.raises(ConfigurationError, match="not a"):
        matrices.load(path)


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


@pytest.mark.parametrize(
    "data",
    [
        npy("{'descr':'<f8','fortran_order':False,'shape':(%s,3)}" % ("9" * 4000)),
        npy("{'descr':'<f8','fortran_order':False,'shape':(True,9)}", bytes(72)),
        npy("{'descr':'<f8','fortran_order':False,'shape':(0,%s)}" % (10**24)),
        npy("(" * 9000),
        npy("-" * 9000 + "1"),
        npy("{'descr'\n  '''\n  (\n\n"),
        npy("{'a': 1L\n    b\n  c"),
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_whatever_numpy_trips_over_is_one_line_with_a_reason(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.npy"
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"not a \.npy file of numbers: \w+") as caught:
        matrices.load(path)
    assert "\n" not in str(caught.value)


def test_a_npy_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.npy"
    np.save(path, GOOD)
    path.write_bytes(path.read_bytes().replace(b"(4, 4)", b"(99999999999, 99999)")[:400])
    with pytest.raises(ConfigurationError, match=r"not a \.npy file"):
        matrices.load(path)
