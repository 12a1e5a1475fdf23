"""The documentation, held against the code: links, paths, commands, codes, and what it computes."""

import ast
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from candor.agent.cli import main as cli
from candor.agent.studies.games.estimation_rows import mean_rows
from candor.agent.studies.games.sgd_rows import sgd_rows
from candor.mechanisms.evidence.sketch import SignSketch, signs_seed
from candor.mechanisms.strategies.attacks import ATTACKS, SIMULATED_ATTACKS
from candor.mechanisms.strategies.lies import SIMULATED, STRATEGIES
from candor.mechanisms.strategies.mixes import MIXES
from candor.mechanisms.strategies.specs import attacks, marked, parse_strategy
from candor.network.wire import Kind
from candor.topologies.encoding.canonical import pack
from candor.topologies.graphs import formats as graph_files
from candor.topologies.graphs.families import FAMILIES
from candor.topologies.mixing import rules as mixing
from candor.topologies.schedules.schedules import SCHEDULES
from candor.topologies.specs.specs import parse_spec
from tests.docs.module_map import ARCHITECTURE, PACKAGES, brought_up_to_date
from tests.docs.pages import (
    DOCS,
    PAGES,
    ROOT,
    all_fences,
    anchors,
    fenced_commands,
    fences,
    inline_commands,
    prose,
    spans,
    tables,
)
from tests.independent import wire
from tests.runs import write_cluster

# A backticked path that starts with one of these is a path in the project.
FOLDERS = (*PACKAGES, "tests", "docs", "deploy", "examples")
DOTTED = re.compile(rf"(candor\.)?({'|'.join(PACKAGES)})(\.(?!py$)\w+)+")
PROTOCOL = DOCS / "protocol.md"
TOPOLOGIES = DOCS / "topologies.md"
GAMES = DOCS / "games.md"
ROBUST = DOCS / "howto" / "robust.md"
PAYMENTS = DOCS / "payments.md"
VECTORS = ROOT / "tests" / "vectors"

# Which argument of a call is a code of the protocol.
CODE_ARGUMENT = {
    "BillError": 0,
    "EvidenceError": 0,
    "PayloadError": 0,
    "RemoteProtocolError": 0,
    "LedgerViolation": 0,
    "Ignored": 0,
    "_freeze": 0,
    "ExportError": 1,
    "add": 1,  # of the audit's report
    "Finding": 3,
}
CODE_CONSTANT = re.compile(r"CODE_[A-Z]+|UNACKNOWLEDGED")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


# --- links and paths ----------------------------------------------------------------------------


def _links(page: Path) -> Iterator[str]:
    """The targets of its links to other pages and headings."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            yield target


@each_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in _links(page):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(linked), f"{target}: no such heading"


@each_page
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    for span in spans(prose(page)):
        if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./@*-]*", span):
            assert list(ROOT.glob(span.rstrip("/"))), f"there is no {span}"
        elif DOTTED.fullmatch(span):
            assert _resolves(span.removeprefix("candor.")), f"there is no {span}"


@each_page
def test_what_is_not_run_is_tested_where_the_page_says(page: Path) -> None:
    for path in re.findall(r"\btests/[\w/.]+", " ".join(f.note for f in all_fences(page))):
        assert (ROOT / path).exists(), f"there is no {path}"


def test_modules_that_the_code_names_exist() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    named = [(path, span) for path in files for span in spans(path.read_text())]
    told = [(path, span) for path, span in named if DOTTED.fullmatch(span)]
    assert len(told) > 10
    for path, span in told:
        assert _resolves(span.removeprefix("candor.")), f"{path.relative_to(ROOT)}: no {span}"


@each_page
def test_functions_that_are_named_with_their_file_exist(page: Path) -> None:
    named = re.findall(rf"((?:{'|'.join(PACKAGES)})/[\w/]+\.py): ([\w.]+)", page.read_text())
    assert named or page != ARCHITECTURE
    for path, dotted in named:
        found: ast.AST | None = ast.parse((ROOT / path).read_text())
        for name in dotted.split("."):
            found = found and _definition(found, name)
        assert found is not None, f"there is no {dotted} in {path}"


def _definition(where: ast.AST, name: str) -> ast.AST | None:
    """The class or function of this name in the body of a module or class."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (node for node in ast.iter_child_nodes(where) if isinstance(node, kinds))
    return next((node for node in found if node.name == name), None)


def _resolves(dotted: str) -> bool:
    """Whether a dotted name is a module of ours, or a name at the top of one."""
    base, *rest = dotted.split(".")
    path = ROOT / base
    while rest and ((path / rest[0]).is_dir() or (path / f"{rest[0]}.py").exists()):
        path = path / rest.pop(0)
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return not rest or (len(rest) == 1 and rest[0] in _names(source))


def _names(source: Path) -> set[str]:
    """What a module defines or imports at its top."""
    names: set[str] = set()
    for node in ast.parse(source.read_text()).body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name for alias in aliases}
    return names


def test_the_rooms_and_modules_on_the_page_are_those_of_the_code() -> None:
    page = ARCHITECTURE.read_text()
    for section in ("rooms", "modules"):
        assert f"<!-- made by tests/docs/module_map.py: {section} -->" in page
    assert page == brought_up_to_date(page), "run: python -m tests.docs.module_map --write"


@pytest.mark.parametrize(
    ("page", "folder"), [(ROOT / "README.md", DOCS), (DOCS / "howto" / "README.md", DOCS / "howto")]
)
def test_every_page_can_be_found_from_the_one_above_it(page: Path, folder: Path) -> None:
    linked = {(page.parent / path).resolve() for path in _links(page)}
    assert set(folder.glob("*.md")) - {page} <= linked


# --- commands -----------------------------------------------------------------------------------


def _walk(words: Sequence[str]) -> tuple[click.Command, list[str]]:
    """The command that a line names, and its own words."""
    command: click.Command = cli.command
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name == "…":
            break
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"candor has no {' '.join(words)!r}"
        command = found
    return command, rest


@each_page
def test_commands_and_their_flags_exist(page: Path) -> None:
    for words in [*fenced_commands(page), *inline_commands(page)]:
        command, rest = _walk(words)
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert used <= known | {"--help", "-h"}, f"candor {' '.join(words)}: {used - known}"


@each_page
def test_command_lines_in_blocks_are_complete(page: Path) -> None:
    for words in fenced_commands(page):
        command, rest = _walk(words)
        line = f"candor {' '.join(words)}"
        parser = command.make_parser(click.Context(command))
        given, left, _ = parser.parse_args(list(rest))  # refuses options without their value
        assert not left, f"{line}: {left} too much"
        for param in command.params:
            missing = param.required and not _is_given(given.get(param.name or ""))
            assert not missing, f"{line}: no {param.human_readable_name}"


def _is_given(value: object) -> bool:
    """Whether click's parser found a value; what it puts in place of none has no length."""
    return bool(value) if isinstance(value, tuple | list | str) else False


@each_page
def test_what_make_is_asked_for_is_in_the_makefile(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    asked = [
        *spans(prose(page)),
        *(line for text in fences(page, "") for line in text.splitlines()),
    ]
    for words in (text.split() for text in asked if text.startswith("make ")):
        assert words[1] in targets, f"there is no `make {words[1]}`"


@each_page
def test_python_examples_are_python(page: Path) -> None:
    for block in fences(page, "python"):
        compile(block, page.name, "exec")


# --- topologies ---------------------------------------------------------------------------------


def test_the_examples_of_topologies_run() -> None:
    for block in fences(TOPOLOGIES, "python"):
        exec(compile(block, TOPOLOGIES.name, "exec"), {})


def test_every_family_format_rule_and_schedule_is_on_the_page() -> None:
    first = {
        header[0]: {span for row in rows for span in spans(row[0])}
        for header, rows in tables(TOPOLOGIES)
    }
    assert first["family"] == set(FAMILIES)
    assert first["ending"] == {".toml", *graph_files.FORMATS}
    assert first["rule"] - {".csv", ".npy"} == set(mixing.RULES)
    assert {spec.partition(":")[0] for spec in first["schedule"]} == set(SCHEDULES)


def test_the_parameters_of_families_on_the_page_are_the_codes() -> None:
    for header, rows in tables(TOPOLOGIES):
        for row in rows if header[:2] == ["family", "parameters"] else []:
            stated = re.findall(r"`(\w+)`(?: ([\d.]+))?", row[1])
            for name in spans(row[0]):
                known = [(p.name, p.default) for p in FAMILIES[name].parameters]
                assert [(key, float(value or 0)) for key, value in stated] == known, name


# --- strategies ---------------------------------------------------------------------------------


def test_the_strategies_on_the_page_are_those_of_the_code() -> None:
    [rows] = [rows for header, rows in tables(PAYMENTS) if header[-1] == "where"]
    names = {
        parse_spec(spec).name: where for spec, where in ((row[0][1:-1], row[-1]) for row in rows)
    }
    assert list(names) == [*STRATEGIES, *MIXES]
    assert {name for name, where in names.items() if where == "simulation"} == SIMULATED


def test_the_attacks_on_the_page_are_those_of_the_code() -> None:
    [rows] = [rows for header, rows in tables(ROBUST) if header[0] == "attack"]
    specs = [row[0][1:-1] for row in rows]
    assert [parse_spec(spec).name for spec in specs] == list(ATTACKS)
    for spec, row in zip(specs, rows, strict=True):
        assert attacks(parse_strategy(spec))
        assert marked(parse_strategy(spec), "overhears") == ("heard" in row[2]), spec
        assert ("only simulated" in row[1]) == (parse_spec(spec).name in SIMULATED_ATTACKS)


def test_the_strategies_that_the_pages_combine_can_be_parsed() -> None:
    told = [span for page in PAGES for span in spans(prose(page))]
    combined = [span for span in told if re.match(r"[a-z-]+(:\d+)? (@|\+ noise)", span)]
    assert len(combined) > 2
    for span in combined:
        parse_strategy(span)


# --- games --------------------------------------------------------------------------------------


def test_the_table_of_games_has_the_predictions_of_the_code() -> None:
    [told] = [rows for header, rows in tables(GAMES) if header[0] == "row"]
    rng = np.random.default_rng(0)
    rows = [*mean_rows(100, rng), *sgd_rows(2, rng)]
    assert [row[:3] for row in told] == [
        [row.source, row.what, f"{'<= ' * (row.relation == '<=')}{row.prediction:.4g}"]
        for row in rows
    ]


def test_the_price_on_the_page_of_games_is_the_codes(capsys: pytest.CaptureFixture[str]) -> None:
    [block] = fences(GAMES, "python")
    exec(compile(block, GAMES.name, "exec"), {})
    stated = re.findall(r"# ([\d.e-]+)", block)
    printed = [float(line) for line in capsys.readouterr().out.split()]
    assert [float(text) for text in stated] == pytest.approx(printed, rel=0.03)


# --- the protocol's codes, kinds and domains ----------------------------------------------------


@cache
def _sources() -> list[ast.Module]:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return [ast.parse(path.read_text()) for path in files]


def _nodes() -> Iterator[ast.AST]:
    return (node for source in _sources() for node in ast.walk(source))


def _raised_codes() -> Iterator[str]:
    """Every code that the code of this project gives a fault."""
    for node in _nodes():
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments):
                place = CODE_ARGUMENT.get(name, len(arguments))
                match arguments[place : place + 1]:
                    case [ast.Constant(value=str(code))]:
                        yield code
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(code))):
                if CODE_CONSTANT.fullmatch(name):
                    yield code


def _texts() -> set[str]:
    """Every piece of text in the code."""
    return {n.value for n in _nodes() if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def _page_codes() -> set[str]:
    return {
        code
        for header, rows in tables(PROTOCOL)
        if header[0] == "code"
        for row in rows
        for code in spans(row[0])
    }


def test_every_code_in_the_code_is_on_the_protocol_page() -> None:
    raised = set(_raised_codes())
    assert {"payload-digest", "sig-p", "hello", "bill-rows", "window-skipped"} <= raised
    assert raised <= _page_codes() | {"unacknowledged"}
    assert "`unacknowledged`" in PROTOCOL.read_text()


def test_every_code_on_the_protocol_page_is_in_the_code() -> None:
    assert _page_codes() <= _texts()


def test_the_message_kinds_are_those_of_the_code() -> None:
    [rows] = [rows for header, rows in tables(PROTOCOL) if header[:2] == ["kind", "name"]]
    known = {(str(int(kind)), kind.name) for kind in Kind}
    assert {(row[0], row[1]) for row in rows} == known | {("11", "EVIDENCE")}


def test_the_domains_are_those_of_the_code() -> None:
    domain = re.compile(r"candor/[a-z-]+/v1")
    assert set(domain.findall(PROTOCOL.read_text())) == set(filter(domain.fullmatch, _texts()))


# --- what the page computes ---------------------------------------------------------------------


def _page_function(name: str) -> Callable[..., Any]:
    """A function that the protocol page defines in Python."""
    [block] = [text for text in fences(PROTOCOL, "python") if f"def {name}(" in text]
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    function: Callable[..., Any] = namespace[name]
    return function


def test_the_examples_of_the_encoding_hold() -> None:
    [rows] = [rows for header, rows in tables(PROTOCOL) if header == ["value", "bytes"]]
    assert len(rows) > 5
    for value, data in rows:
        assert pack(ast.literal_eval(value.strip("`"))).hex() == data.strip("`")


@pytest.mark.parametrize("name", ["cluster.json", "revision.json"])
def test_the_page_computes_the_fingerprint_of_the_vector(name: str) -> None:
    vector = json.loads((VECTORS / name).read_text())
    assert _page_function("fingerprint")(vector["toml"]) == vector["fingerprint"]


@pytest.mark.parametrize(
    ("topology", "mixing_name"),
    [
        ("one-peer-exponential", None),
        ("directed-ring", None),
        ("ring", "best-constant"),
        ("failing:base=ring,p=0.2", "best-constant"),
    ],
)
def test_the_page_computes_the_fingerprint_of_any_graph(
    topology: str, mixing_name: str | None, tmp_path: Path
) -> None:
    cluster = write_cluster(tmp_path, topology, mixing_name=mixing_name)
    toml = (tmp_path / "cluster.toml").read_text()
    assert _page_function("fingerprint")(toml) == cluster.fingerprint
    assert wire.Cluster.parse(toml).run.hex() == cluster.fingerprint


def test_the_page_computes_the_sketches_of_the_vector() -> None:
    known = json.loads((VECTORS / "sketch.json").read_text())
    compute, run = _page_function("sketch"), bytes.fromhex(known["run"])
    for entry in known["windows"]:
        data = compute(run, entry["window"], known["vector"], known["sketch_size"])
        assert data.hex() == entry["sketch"]


@pytest.mark.parametrize(("dim", "size"), [(16, 16), (17, 16), (1000, 64)])
def test_the_page_computes_the_sketch_of_the_code(dim: int, size: int) -> None:
    run, window = bytes(range(32)), 3
    vector = np.random.default_rng(dim).standard_normal(dim, dtype=np.float32)
    expected = SignSketch(signs_seed(run, window), dim, size)(vector).astype("<f8").tobytes()
    assert _page_function("sketch")(run, window, vector.tolist(), size) == expected


def test_long_hexadecimals_on_the_protocol_page_are_from_the_vectors() -> None:
    vectors = "".join(path.read_text() for path in VECTORS.glob("*.json"))
    quoted = re.findall(r"\b[0-9a-f]{32,}\b", PROTOCOL.read_text())
    assert quoted
    assert [text for text in quoted if text not in vectors] == []
