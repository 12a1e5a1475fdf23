"""The how-to pages, followed: every command is given, page by page, as a reader would give it.

A page is read from top to bottom in an empty directory: what it says to save is saved, and each
command must end with the exit code that the page states. Addresses of hosts stand for free ports
of this one; daemons run beside each other until the next command that is none.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from glob import glob
from io import StringIO
from pathlib import Path

import click
import pytest

from candor.agent.cli import main as cli
from candor.agent.testbed.testbed import free_ports
from tests.docs.pages import HOWTO, Fence, all_fences, fenced_commands, tables
from tests.drawn import undrawn

CANDOR = [sys.executable, "-P", "-m", "candor"]
FOLLOWED = [page for page in HOWTO if any(fence.is_run for fence in all_fences(page))]
HOST = re.compile(r"(?:[\w-]+\.example|\[2001:db8:[:\w]+\]|10\.0\.0\.\d+):\d+")
DAEMON_S = 120

Follow = Callable[[Path], Path]


class Reader:
    """Somebody who does what a page says, in the current directory."""

    def __init__(self, page: Path) -> None:
        self._daemons: dict[str, subprocess.Popen[str]] = {}
        hosts = sorted(set(HOST.findall(page.read_text())))
        ports = free_ports(len(hosts)) if hosts else []
        self._addresses = {
            host: f"127.0.0.1:{port}" for host, port in zip(hosts, ports, strict=True)
        }

    def follow(self, fence: Fence) -> None:
        """Save the block, if the page says so, or give its commands."""
        if fence.file is not None:
            Path(fence.file).write_text(fence.text)
        elif fence.is_run:
            *others, last = fence.lines
            for line in others:
                self._give(line, 0)
            self._give(last, fence.exit_code)

    def _give(self, line: str, exit_code: int) -> None:
        line = HOST.sub(lambda match: self._addresses[match[0]], line)
        program, *words = shlex.split(line)
        if [program, *words[:1]] == ["candor", "agent"]:
            self._daemons[line] = subprocess.Popen(
                [*CANDOR, *words], stderr=subprocess.PIPE, text=True
            )
            return
        self.wait()
        if program != "candor":
            subprocess.run(["bash", "-ec", line], check=True)
            return
        expanded = [name for word in words for name in (sorted(glob(word)) or [word])]
        with undrawn(), redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            code = cli.run(expanded)
        assert code == exit_code, f"{line}: {code}\n{out.getvalue()}{err.getvalue()}"

    def wait(self) -> None:
        """For the daemons to end, all well."""
        for line, process in self._daemons.items():
            errors = process.communicate(timeout=DAEMON_S)[1]
            assert process.returncode == 0, f"{line}: {process.returncode}\n{errors}"
        self._daemons.clear()

    def leave(self) -> None:
        """Leave no daemon behind, whatever happened."""
        for process in self._daemons.values():
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def follow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Follow]:
    """Follows a page once, after the page that it goes on from; answers where."""
    followed: dict[str, Path] = {}
    patch = pytest.MonkeyPatch()

    def once(page: Path) -> Path:
        if page.name in followed:
            return followed[page.name]
        folder = tmp_path_factory.mktemp(page.stem)
        if earlier := re.search(r"<!-- goes on from ([\w.]+) -->", page.read_text()):
            shutil.copytree(once(page.with_name(earlier[1])), folder, dirs_exist_ok=True)
        patch.chdir(folder)
        reader = Reader(page)
        try:
            for fence in all_fences(page):
                reader.follow(fence)
            reader.wait()
        finally:
            reader.leave()
        followed[page.name] = folder
        return folder

    patch.delenv("CANDOR_DATA_ROOT", raising=False)
    patch.setattr(sys, "path", [*sys.path])  # the entry point adds where it is called
    yield once
    patch.undo()
    for folder in followed.values():
        for saved in folder.glob("*.py"):
            sys.modules.pop(saved.stem, None)


@pytest.mark.e2e
@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_every_command_of_the_page_does_what_the_page_says(page: Path, follow: Follow) -> None:
    follow(page)


@pytest.mark.parametrize("page", HOWTO, ids=lambda page: page.stem)
def test_every_block_of_the_page_is_for_the_reader_to_do(page: Path) -> None:
    for fence in all_fences(page):
        assert fence.language == "sh" or fence.file, fence.text


def test_every_command_there_is_has_its_line_on_a_page() -> None:
    shown = {tuple(words) for page in HOWTO for words in fenced_commands(page)}
    for path in _leaves(cli.command):
        assert any(words[: len(path)] == path for words in shown), f"candor {' '.join(path)}"


def test_the_table_of_commands_names_every_one() -> None:
    page = next(page for page in HOWTO if page.name == "README.md")
    rows = {
        row[0].strip("`"): row[1]
        for head, body in tables(page)
        if head[0] == "command"
        for row in body
    }
    for group, *names in _leaves(cli.command):
        whole = " ".join(["candor", group, *names])
        if whole in rows or names == ["random-regular"]:  # families are counted, not named
            continue
        assert f"`{names[-1]}`" in rows[f"candor {group}"], whole


def _leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of each command that is no group; families of graphs are one alike."""
    if not isinstance(command, click.Group):
        yield path
    elif path == ("topology",):
        yield from ((*path, name) for name in ("random-regular", "show", "compare", "schedule"))
    else:
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _leaves(found, (*path, name))
