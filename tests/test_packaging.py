"""What is installed: one name, with the files of the four folders that are linked under it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import candor

ROOT = Path(__file__).parent.parent
FOLDERS = ("agent", "mechanisms", "network", "topologies")


def _ran(*words: object, path: str = os.environ.get("PYTHONPATH", "")) -> str:
    """What Python prints, run at the top of the project with this PYTHONPATH."""
    return subprocess.run(
        [sys.executable, "-P", *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
    ).stdout


def _wheel_of(source: Path, folder: Path) -> zipfile.ZipFile:
    """What pip makes of a folder or an archive, with the backend of this environment."""
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet")
    _ran("-m", "pip", "wheel", *offline, "--wheel-dir", folder, source)
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return _wheel_of(ROOT, tmp_path_factory.mktemp("wheel"))


def _contents(wheel: zipfile.ZipFile) -> dict[str, bytes]:
    """File by file, but for what an installer reads."""
    names = (name for name in wheel.namelist() if ".dist-info/" not in name)
    return {name: wheel.read(name) for name in names}


def test_the_tests_run_the_code_beside_them() -> None:
    assert (ROOT / "src" / "candor" / "__init__.py").samefile(candor.__file__)


def test_a_wheel_holds_every_file_under_one_name(wheel: zipfile.ZipFile) -> None:
    there = [*(ROOT / "src" / "candor").glob("*.py")]
    expected = {f"candor/{path.name}": path.read_bytes() for path in there}
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            expected[f"candor/{path.relative_to(ROOT)}"] = path.read_bytes()
    assert _contents(wheel) == expected
    assert "candor/topologies/graphs/examples/two-teams.toml" in expected


def test_the_source_archive_makes_the_same_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    _ran("-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path)
    [archive] = tmp_path.glob("*.tar.gz")
    assert _contents(_wheel_of(archive, tmp_path)) == _contents(wheel)


def test_the_command_of_a_wheel_runs_without_the_checkout(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    [entry] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert wheel.read(entry).decode() == "[console_scripts]\ncandor = candor.__main__:main\n"
    wheel.extractall(tmp_path)
    code = "import candor.topologies; print(candor.topologies.__file__)"
    assert _ran("-c", code, path=str(tmp_path)) == f"{tmp_path}/candor/topologies/__init__.py\n"
    example = tmp_path / "candor" / "topologies" / "graphs" / "examples" / "two-teams.toml"
    shown = _ran("-m", "candor", "topology", "show", example, path=str(tmp_path))
    assert "two-teams" in shown


def test_a_daemon_imports_nothing_that_draws() -> None:
    """Charts are an extra, which a host without it does not miss."""
    code = (
        "import sys\n"
        "from candor.agent.cli.main import run\n"
        "sys.modules['matplotlib'] = None\n"
        "assert run(['--help']) == run(['agent', '--help']) == 0\n"
        "import candor.agent.daemon.host, candor.agent.cli.ledger, candor.agent.runs.charges\n"
    )
    _ran("-c", code)
    told = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-c", "import candor.agent.daemon.host"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=ROOT,
    ).stderr
    assert "candor.agent.core" in told
    assert "matplotlib" not in told
    assert "candor.agent.reports" not in told
