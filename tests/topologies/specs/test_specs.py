"""The grammar of specs: what it accepts, and one line for everything else."""

import runpy
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.specs.specs import (
    ConfigurationError,
    Spec,
    is_import_path,
    load_object,
    parse_spec,
    users_errors,
)

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
KEYS = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
SCALARS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from("xyz")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ring", Spec("ring")),
        ("  ring ", Spec("ring")),
        ("peer-prediction2", Spec("peer-prediction2")),
        ("scale:2", Spec("scale", 2)),
        ("scale:2.0", Spec("scale", 2.0)),
        ("scale:-1e-3", Spec("scale", -0.001)),
        ("file:a b.toml", Spec("file", "a b.toml")),
        ("er:p=0.4,seed=3", Spec("er", options={"p": 0.4, "seed": 3})),
        ("er: p=0.4 , seed=3", Spec("er", options={"p": 0.4, "seed": 3})),
        ("x:path=a=b", Spec("x", options={"path": "a=b"})),
    ],
)
def test_a_spec_is_a_name_a_value_or_options(text: str, expected: Spec) -> None:
    spec = parse_spec(text)
    assert spec == expected
    assert type(spec.value) is type(expected.value)
    assert {k: type(v) for k, v in spec.options.items()} == {
        k: type(v) for k, v in expected.options.items()
    }


@given(NAMES, SCALARS)
def test_a_written_value_reads_back(name: str, value: int | float | str) -> None:
    assert parse_spec(f"{name}:{value}") == Spec(name, value)


@given(NAMES, st.dictionaries(KEYS, SCALARS, min_size=1, max_size=4))
def test_written_options_read_back(name: str, options: dict[str, int | float | str]) -> None:
    text = ",".join(f"{key}={value}" for key, value in options.items())
    assert parse_spec(f"{name}:{text}") == Spec(name, options=options)


@given(st.text(max_size=30) | st.from_regex(r"[a-z]{1,3}:[a-z=,.0-9]{0,9}", fullmatch=True))
def test_any_text_is_a_spec_or_one_line_of_complaint(text: str) -> None:
    complaint = ""
    try:
        assert parse_spec(text).name
    except ConfigurationError as exc:
        complaint = str(exc)
    assert "\n" not in complaint
    assert not complaint or repr(text) in complaint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "lower-case name"),
        ("Ring", "lower-case name"),
        ("2x", "lower-case name"),
        ("my_ring", "lower-case name"),
        (":2", "lower-case name"),
        ("ring:", "nothing after the colon"),
        ("er:p=0.4,seed", "'seed' is not key=value"),
        ("er:p=", "'p=' is not key=value"),
        ("er:=3", "'=3' is not key=value"),
        ("er:p=1,", "'' is not key=value"),
        ("er:p=1,p=2", "p is given twice"),
    ],
)
def test_what_is_no_spec_is_told(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match="spec") as caught:
        parse_spec(text)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("module:Class", True),
        ("pack.module_2:Class", True),
        ("module:function", False),
        ("scale:2", False),
        ("module:", False),
        (":Class", False),
        ("module:Class:Other", False),
        ("a..b:Class", False),
        ("er:p=A", False),
    ],
)
def test_a_capital_tells_a_users_class(text: str, expected: bool) -> None:
    assert is_import_path(text) is expected


USERS_MODULE = """
class Mine:
    pass
"""


def test_a_users_object_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("users")
    (folder / "users_own.py").write_text(USERS_MODULE)
    (folder / "users_broken.py").write_text("raise KeyError('plan')")
    monkeypatch.syspath_prepend(folder)
    assert load_object("users_own:Mine", "task") is sys.modules["users_own"].Mine
    with pytest.raises(ConfigurationError, match=r"task 'users_own:Other'.*has no 'Other'"):
        load_object("users_own:Other", "task")
    with pytest.raises(ConfigurationError, match=r"'users_broken' \(KeyError: 'plan'"):
        load_object("users_broken:Mine", "task")


@pytest.mark.parametrize("path", ["no_such_module:X", ":X", ".relative:X", "", "no_colon"])
def test_a_path_that_does_not_import_is_one_line(path: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot import"):
        load_object(path, "strategy")


def test_where_in_a_users_own_file_something_went_wrong_is_told(tmp_path: Path) -> None:
    path = tmp_path / "my_model.py"
    path.write_text("import json\n\n\ndef train():\n    return json.loads('{')\n")
    train = runpy.run_path(str(path))["train"]
    where = r"failed \(JSON.*\) at my_model.py:5$"
    with pytest.raises(ConfigurationError, match=where), users_errors("task: train() failed"):
        train()
