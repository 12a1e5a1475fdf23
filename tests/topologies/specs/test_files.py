"""Files: what TOML may hold, what would take too long to read, and JSON."""

import json
import math
import os
import re
import time
from pathlib import Path

import pytest

from candor.topologies.specs import files
from candor.topologies.specs.files import (
    json_text,
    read_toml,
    replace_file,
    replacing,
    system_errors,
    write_text,
)
from candor.topologies.specs.specs import ConfigurationError


def write(directory: Path, text: str) -> Path:
    path = directory / "t.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "a.b.c = 1",
        ".".join("a" * 33) + " = 1",
        f'x = "{"a." * 100}"  # {"b." * 100}',
        f"x = '{'a.' * 100}'",
        f"x = [{'0.25, ' * 100}]",
        f"x = [{'[0.5, 0.5],' * 100}]",
        f'x = "{"a." * 100}"\ny = "#"',
    ],
)
def test_dots_of_strings_numbers_and_comments_are_no_keys(text: str, tmp_path: Path) -> None:
    assert read_toml(write(tmp_path, text), "file")


MANY = "a." * 60_000 + "a"


@pytest.mark.parametrize(
    "text",
    [
        f"{MANY} = 1",
        f"[{MANY}]",
        f"x = {{ {MANY} = 1 }}",
        '"a".' * 60_000 + "b = 1",
        " . ".join("a" * 60_000) + " = 1",
        f"x = [{{ y = 'a', {MANY} = 1, z = 'a' }}]",
        f'x = [{{ y = "\\"", {MANY} = 1, z = "" }}]',
        f'x = [{{ y = """a"""" , {MANY} = 1, z = " " }}]',
        f'x = [{{ y = """\n\' """, {MANY} = 1, z = \' \' }}]',
    ],
)
def test_a_key_of_many_parts_is_refused_at_once(text: str, tmp_path: Path) -> None:
    path, start = write(tmp_path, text), time.process_time()
    with pytest.raises(ConfigurationError, match="33 parts|write the string in one line"):
        read_toml(path, "file")
    assert time.process_time() - start < 1


def test_a_number_of_thousands_of_digits_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the file is not TOML: .*digits") as caught:
        read_toml(write(tmp_path, f"x = {'9' * 5000}"), "file")
    assert "\n" not in str(caught.value)


def test_a_file_may_be_bounded_below_the_largest(tmp_path: Path) -> None:
    path = write(tmp_path, "x = 1")
    assert read_toml(path, "file", 5) == {"x": 1}
    with pytest.raises(ConfigurationError, match="is larger than 0 KiB"):
        read_toml(path, "file", 4)
    assert files.FILE_BYTES_MAX > 2**20


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_whole_or_not_at_all(durable: bool, tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    replace_file(path, b"old", durable=durable)
    with pytest.raises(IsADirectoryError), replacing(path, durable=durable) as draft:
        Path(draft).parent.write_bytes(b"")
    assert path.read_bytes() == b"old"
    replace_file(path, b"new", durable=durable)
    assert path.read_bytes() == b"new"
    assert [found.name for found in tmp_path.iterdir()] == ["t.toml"]


def test_what_the_system_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "file"
    with pytest.raises(ConfigurationError) as refused, system_errors(f"{path}: cannot write it"):
        replace_file(path, b"")
    assert str(refused.value) == f"{path}: cannot write it: No such file or directory"


def test_a_bound_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert files.read_bytes(path, "file", 2**60) == b"abc"
    assert files.read_bytes(path, "file", 3) == b"abc"
    with pytest.raises(ConfigurationError, match="larger than"):
        files.read_bytes(path, "file", 2)


def test_json_has_null_for_what_is_not_finite_and_all_else_as_it_is() -> None:
    value = {"a": [math.nan, 1.5, (math.inf, -math.inf)], "b": {"c": math.nan}, "d": "é", "e": True}
    text = json_text(value)
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert found == {"a": [None, 1.5, [None, None]], "b": {"c": None}, "d": "é", "e": True}
    assert json.loads(json_text(value, indent=2)) == found


def test_all_json_is_written_by_one_writer() -> None:
    root = Path(__file__).parents[3]
    packages = ("agent", "mechanisms", "network", "topologies")
    writers = {
        str(path.relative_to(root))
        for package in packages
        for path in (root / package).rglob("*.py")
        if re.search(r"json\.dumps?\b|JSONEncoder|model_dump_json", path.read_text())
    }
    assert writers == {
        "topologies/specs/files.py",
        "mechanisms/ledger/export.py",  # bytes that are agreed on, and nothing that is not finite
        "agent/testbed/nursery.py",  # words and numbers of processes, to its own child
    }


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="Not a regular file"):
        replace_file(path, b"new")
    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_written_over_is_kept_beside_it(tmp_path: Path) -> None:
    place, kept = tmp_path / "c.toml", tmp_path / "c.toml~"
    write_text(place, "first", keeping=True)
    write_text(place, "first", keeping=True)
    assert not kept.exists()
    write_text(place, "second", keeping=True)
    assert (place.read_text(), kept.read_text()) == ("second", "first")
    assert sorted(tmp_path.iterdir()) == [place, kept]


def test_a_link_that_is_written_over_stays_one(tmp_path: Path) -> None:
    place, link = tmp_path / "c.toml", tmp_path / "link.toml"
    place.write_text("first")
    link.symlink_to(place)
    write_text(link, "second", keeping=True)
    assert link.is_symlink()
    assert (place.read_text(), (tmp_path / "link.toml~").read_text()) == ("second", "first")


def test_where_nothing_can_be_kept_nothing_is_written(tmp_path: Path) -> None:
    place = tmp_path / "c.toml"
    place.write_text("first")
    (tmp_path / "c.toml~").mkdir()
    with pytest.raises(ConfigurationError, match="cannot write it"):
        write_text(place, "second", keeping=True)
    assert place.read_text() == "first"
