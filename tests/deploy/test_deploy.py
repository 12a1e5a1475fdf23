"""The deployment files, against the real commands and the tools that judge them.

Without systemd-analyze, of Debian's systemd package, its tests are skipped and say so. hadolint is
there: it comes with the development extra of this project.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "candor@.service"
EXPOSURE_MAX = 2.0

# What the image may copy from the project, and so what .dockerignore lets in.
COPIED = {
    "pyproject.toml",
    "deploy/requirements.txt",
    "README.md",
    "LICENSE",
    "agent",
    "mechanisms",
    "network",
    "topologies",
    "src",
}


def _unit() -> dict[str, list[str]]:
    """Every value of the unit by key; keys may repeat and repeated ones add up."""
    values: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, equals, value = line.partition("=")
            assert equals, f"{line!r} is neither section, comment nor assignment"
            values.setdefault(key, []).append(value)
    return values


def _instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word]


def _exec_form(argument: str) -> list[str]:
    """The words of an exec form: the shell form would put a shell between us and the signals."""
    words: list[str] = json.loads(argument)
    return words


def _assert_accepted(words: Sequence[str], command: click.Command) -> None:
    """Every flag used is one that the command has, and every one that it requires is used."""
    known = {option for parameter in command.params for option in parameter.opts}
    required = {p.opts[0] for p in command.params if p.required and isinstance(p, click.Option)}
    used = {word for word in words if word.startswith("--")}
    assert used <= known, f"candor {command.name} has no {sorted(used - known)}"
    assert required <= used, f"candor {command.name} needs {sorted(required - used)}"


def _agent_command() -> click.Command:
    from candor.agent.cli.agent import command

    return command


def test_the_unit_starts_the_agent_with_flags_it_has() -> None:
    [start] = _unit()["ExecStart"]
    program, command, *words = start.split()
    assert program.startswith("/")
    assert program.endswith("/candor")
    assert command == "agent"
    _assert_accepted(words, _agent_command())
    flags = dict(zip(words[::2], words[1::2], strict=False))
    assert flags["--id"] == "%i"
    assert flags["--data-dir"] == f"/var/lib/{_unit()['StateDirectory'][0]}"
    assert flags["--keys"].endswith("/%i"), "two agents must not share keys"


def test_the_unit_does_not_retry_what_trying_again_cannot_mend() -> None:
    unit = _unit()
    assert unit["Restart"] == ["on-failure"]
    assert set(unit["RestartPreventExitStatus"][0].split()) == {"2", "3", "5"}
    assert int(unit["StartLimitBurst"][0]) * int(unit["RestartSec"][0]) < int(
        unit["StartLimitIntervalSec"][0]
    ), "the burst could never be reached within the interval"


def test_a_stopped_agent_has_time_for_its_farewell_and_did_not_fail() -> None:
    from candor.agent.daemon.daemon import DRAIN_S
    from candor.agent.exits import INTERRUPTED

    assert _unit()["KillSignal"] == ["SIGTERM"]
    assert int(_unit()["TimeoutStopSec"][0]) >= 5 * DRAIN_S
    assert _unit()["SuccessExitStatus"] == [str(INTERRUPTED)]


def test_the_unit_lets_libzmq_list_interfaces_without_which_it_aborts() -> None:
    assert "AF_NETLINK" in _unit()["RestrictAddressFamilies"][0].split()


def _systemd_analyze(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze on the unit, with a program that exists in place of the installed one."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed (Debian package: systemd)")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/candor/.venv/bin/candor", sys.executable))
    return subprocess.run(
        [tool, *arguments, str(copy)], capture_output=True, text=True, check=False, timeout=60
    )


def test_systemd_accepts_the_unit_without_a_remark(tmp_path: Path) -> None:
    verified = _systemd_analyze(tmp_path, "verify", "--man=no")
    remarks = [line for line in verified.stderr.splitlines() if UNIT.name[:7] in line]
    assert remarks == []
    assert verified.returncode == 0, verified.stderr


def test_the_unit_leaves_little_exposed(tmp_path: Path) -> None:
    judged = _systemd_analyze(tmp_path, "security", "--offline=true", "--no-pager")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", judged.stdout)
    assert found, judged.stderr
    assert float(found[1]) < EXPOSURE_MAX


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    beside_python = Path(sys.executable).with_name("hadolint")
    tool = str(beside_python) if beside_python.exists() else shutil.which("hadolint")
    assert tool is not None, "hadolint is not installed: it comes with the development extra"
    linted = subprocess.run(
        [tool, "--no-color", str(DEPLOY / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert linted.stdout + linted.stderr == ""
    assert linted.returncode == 0


def test_the_image_is_built_from_pinned_python_and_keeps_only_the_program() -> None:
    instructions = _instructions()
    bases = [argument.split()[0] for word, argument in instructions if word == "FROM"]
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.11-slim-[a-z]+", base) for base in bases)
    assert "ADD" not in {word for word, _ in instructions}
    copies = [argument.split() for word, argument in instructions if word == "COPY"]
    sources = {source for copy in copies if copy[0] != "--from=build" for source in copy[:-1]}
    assert sources == COPIED


def test_the_image_is_made_of_files_with_known_hashes() -> None:
    """All that the project needs, in versions that it takes; torch as everywhere."""
    lines = (DEPLOY / "requirements.txt").read_text().splitlines()[1:]
    pins = {}
    for line in lines:
        found = re.fullmatch(r"([\w.-]+)==([\w.]+) --hash=sha256:[0-9a-f]{64}", line)
        assert found, line
        pins[canonicalize_name(found[1])] = found[2]
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for need in map(Requirement, needed):
        assert need.specifier.contains(pins[canonicalize_name(need.name)]), need
    assert "matplotlib" not in pins  # of the extra `report`: a daemon draws nothing
    assert f"torch=={pins['torch']}" in (DEPLOY.parent / "constraints.txt").read_text().split("\n")
    installs = [argument for word, argument in _instructions() if "pip install" in argument]
    assert all("--require-hashes" in one or "--no-deps" in one for one in installs)


def test_pins_are_what_pip_reports_but_the_project_itself() -> None:
    torch = {"metadata": {"name": "Torch", "version": "2.13.0+cpu"}}
    hashed = {"archive_info": {"hashes": {"sha256": "ab" * 32}}}
    project = {"metadata": {"name": "candor", "version": "0"}, "download_info": {"dir_info": {}}}
    report = {"install": [project, {**torch, "download_info": hashed}]}
    made = subprocess.run(
        [sys.executable, str(DEPLOY / "pins.py")],
        input=json.dumps(report), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert made.stdout.splitlines()[1:] == [f"torch==2.13.0 --hash=sha256:{'ab' * 32}"]


def test_the_build_context_is_a_list_of_what_may_enter() -> None:
    lines = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:].rstrip("/") for rule in rules if rule.startswith("!")} == COPIED


def test_the_image_runs_as_a_user_by_number_who_is_not_root() -> None:
    words = [word for word, _ in _instructions()]
    [user] = [argument for word, argument in _instructions() if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert "RUN" not in words[words.index("USER") :]


def test_the_image_starts_the_agent_with_flags_it_has() -> None:
    [entry] = [_exec_form(argument) for word, argument in _instructions() if word == "ENTRYPOINT"]
    assert entry[:2] == ["candor", "agent"]
    _assert_accepted([*entry[2:], "--id"], _agent_command())
    [volumes] = [_exec_form(argument) for word, argument in _instructions() if word == "VOLUME"]
    assert entry[entry.index("--data-dir") + 1] in volumes


def test_the_health_check_asks_about_the_volume_with_flags_that_status_has() -> None:
    from candor.agent.cli.status import command

    [check] = [argument for word, argument in _instructions() if word == "HEALTHCHECK"]
    words = _exec_form(check[check.index("[") :])
    assert words[:2] == ["candor", "status"]
    _assert_accepted(words[2:], command)
    assert words[-1] == "/var/lib/candor"
