"""Keys on disk: written whole or not at all, never overwritten, never read where others can."""

import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from candor.agent.cli.keygen import command
from candor.agent.daemon import keys
from candor.network.identity import Identity
from candor.topologies.specs.specs import ConfigurationError

FILES = (keys.IDENTITY_FILE, keys.CURVE_FILE, keys.PUBLIC_FILE)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o000, 0o077], ids=lambda mask: f"umask-{mask:03o}")
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_what_is_generated_can_be_loaded(tmp_path: Path) -> None:
    made = keys.generate(tmp_path / "new" / "a0")
    read = keys.load(tmp_path / "new" / "a0")
    assert read.public == made.public
    assert read.curve_secret == made.curve_secret
    assert read.signing_key.sign("d", b"x") == made.signing_key.sign("d", b"x")


@pytest.mark.usefixtures("umask")
def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    directory = tmp_path / "keys" / "a0"
    keys.generate(directory)
    assert mode(directory) == mode(directory.parent) == 0o700
    assert [mode(directory / name) for name in FILES] == [0o600, 0o600, 0o644]


def test_a_secret_is_one_line_of_text(tmp_path: Path) -> None:
    made = keys.generate(tmp_path)
    seed_line, curve_line = ((tmp_path / name).read_text() for name in FILES[:2])
    assert Identity.from_seeds(bytes.fromhex(seed_line[:-1]), b"c" * 32).public.identity == (
        made.public.identity
    )
    assert curve_line == made.curve_secret + "\n"


def test_two_agents_never_get_the_same_keys(tmp_path: Path) -> None:
    first, second = keys.generate(tmp_path / "a").public, keys.generate(tmp_path / "b").public
    assert first.identity != second.identity
    assert first.curve != second.curve


def test_an_existing_directory_keeps_its_mode_and_files(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "notes.txt").write_text("mine")
    keys.generate(tmp_path)
    assert mode(tmp_path) == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "notes.txt"])


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overwritten_and_nothing_half_written(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(ConfigurationError, match="is there already") as caught:
        keys.generate(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_a_second_generation_leaves_the_first(tmp_path: Path) -> None:
    first = keys.generate(tmp_path).public
    with pytest.raises(ConfigurationError):
        keys.generate(tmp_path)
    assert keys.load(tmp_path).public == first


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system itself refuses longer files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 10, 64, 65, 100])  # identity.key has 65, public.toml 136 bytes
def test_a_failing_disk_leaves_nothing(size: int, tmp_path: Path) -> None:
    with files_of_at_most(size), pytest.raises(ConfigurationError, match="File too large"):
        keys.generate(tmp_path / "a0")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_directorys_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "a0").write_text("")
    with pytest.raises(ConfigurationError, match="a0"):
        keys.generate(tmp_path / "a0")
    with pytest.raises(ConfigurationError, match="a0"):
        keys.generate(tmp_path / "a0" / "deeper")


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("open_mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o666])
def test_a_secret_that_others_can_touch_is_refused(
    name: str, open_mode: int, tmp_path: Path
) -> None:
    keys.generate(tmp_path)
    (tmp_path / name).chmod(open_mode)
    with pytest.raises(ConfigurationError) as caught:
        keys.load(tmp_path)
    assert f"{tmp_path / name}: mode {open_mode:04o}" in str(caught.value)
    assert f"chmod 600 {tmp_path / name}" in str(caught.value)


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("strict_mode", [0o400, 0o600, 0o700])
def test_a_secret_of_the_owner_alone_is_read(name: str, strict_mode: int, tmp_path: Path) -> None:
    keys.generate(tmp_path)
    (tmp_path / name).chmod(strict_mode)
    keys.load(tmp_path)


def test_a_secret_behind_a_link_is_read_with_its_own_mode(tmp_path: Path) -> None:
    keys.generate(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    for name in FILES:
        (tmp_path / "linked" / name).symlink_to(tmp_path / "real" / name)
    assert keys.load(tmp_path / "linked").public == keys.load(tmp_path / "real").public
    (tmp_path / "real" / keys.CURVE_FILE).chmod(0o644)
    with pytest.raises(ConfigurationError, match="mode 0644"):
        keys.load(tmp_path / "linked")


@pytest.mark.parametrize("name", FILES[:2])
def test_a_missing_secret_is_told(name: str, tmp_path: Path) -> None:
    keys.generate(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigurationError, match=f"{name}: cannot read the key: No such file"):
        keys.load(tmp_path)


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize(
    "data", [b"", b"\n", b"ab" * 31, b"ab" * 33, b"zz" * 32, b"~" * 40, b"\xff" * 40, b"a" * 10_000]
)
def test_a_malformed_secret_is_told_and_not_shown(name: str, data: bytes, tmp_path: Path) -> None:
    keys.generate(tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigurationError) as caught:
        keys.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}: is not one line of")
    assert len(data) < 10 or data[:10].decode("latin-1") not in str(caught.value)


@pytest.mark.parametrize("name", FILES[:2])
def test_a_secret_of_another_agent_is_noticed(name: str, tmp_path: Path) -> None:
    keys.generate(tmp_path / "a")
    keys.generate(tmp_path / "b")
    (tmp_path / "a" / name).write_text((tmp_path / "b" / name).read_text())
    with pytest.raises(ConfigurationError, match="is not the public half of the keys beside it"):
        keys.load(tmp_path / "a")


def test_secrets_alone_suffice(tmp_path: Path) -> None:
    made = keys.generate(tmp_path).public
    (tmp_path / keys.PUBLIC_FILE).unlink()
    assert keys.load(tmp_path).public == made


def test_public_halves_come_from_a_directory_or_a_file(tmp_path: Path) -> None:
    made = keys.generate(tmp_path).public
    assert keys.load_public(tmp_path) == keys.load_public(tmp_path / keys.PUBLIC_FILE) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "identity is missing; add it"),
        ('identity = "ab"\n', "64 lower-case hexadecimal digits"),
        ("identity = 5\n", "identity: input should be a valid string"),
        ("{", "is not TOML"),
    ],
)
def test_malformed_public_keys_are_told(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / keys.PUBLIC_FILE).write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        keys.load_public(tmp_path)
    with pytest.raises(ConfigurationError, match="No such file"):
        keys.load_public(tmp_path / "none.toml")


def test_the_command_prints_public_halves_alone(tmp_path: Path) -> None:
    shown = CliRunner().invoke(command, [str(tmp_path / "a0")])
    assert shown.exit_code == 0, shown.output
    made = keys.load(tmp_path / "a0")
    assert made.public.identity.hex() in shown.output
    assert made.curve_public in shown.output
    assert "candor cluster request" in shown.output
    for name in FILES[:2]:
        assert (tmp_path / "a0" / name).read_text().strip() not in shown.output


def test_the_command_speaks_json(tmp_path: Path) -> None:
    shown = json.loads(CliRunner().invoke(command, [str(tmp_path / "a0"), "--json"]).output)
    public = keys.load(tmp_path / "a0").public
    assert shown == {
        "directory": str(tmp_path / "a0"),
        "identity": public.identity.hex(),
        "curve": public.curve,
        "public": str(tmp_path / "a0" / keys.PUBLIC_FILE),
    }


def test_the_command_refuses_to_overwrite(tmp_path: Path) -> None:
    keys.generate(tmp_path)
    assert isinstance(
        CliRunner().invoke(command, [str(tmp_path)]).exception,
        ConfigurationError,
    )
