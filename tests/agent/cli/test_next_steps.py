"""What commands say to do next works when it is pasted; defaults agree, or help says that not."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import torch
from safetensors.torch import save_file

from candor.agent.cli import main as cli
from candor.agent.cli.options import ON_THIS_MACHINE
from candor.agent.tasks import resolve_task
from candor.agent.testbed.testbed import free_ports

HINT = re.compile(r"`(candor [^`]+)`")
Say = Callable[..., str]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Give a command that must end well, in an empty directory; what it prints."""
    monkeypatch.chdir(tmp_path)

    def given(*words: str) -> str:
        capsys.readouterr()
        code = cli.run(list(words))
        told = capsys.readouterr()
        assert code == 0, f"{words}: {told.err}"
        return told.out

    return given


def pasted(say: Say, told: str, **meant: str) -> list[str]:
    """Run the commands in what was told, with what the words in capitals stand for."""
    hints = HINT.findall(told)
    for hint in hints:
        say(*[meant.get(word, word) for word in shlex.split(hint)[1:]])
    return hints


def test_every_next_step_that_is_printed_works_when_it_is_pasted(say: Say, tmp_path: Path) -> None:
    ports = iter(free_ports(8))
    say("keygen", "keys/my organiser")
    organiser, sign = "keys/my organiser/public.toml", ("--sign-with", "keys/my organiser")
    for agent in ("alice", "bob", "carol", "dave"):
        place = f"tcp://127.0.0.1:{next(ports)}"
        told = say("keygen", f"keys/{agent}")
        meant = {"ID": agent, "FILE": organiser, "tcp://HOST:PORT": place}
        [hint] = pasted(say, told, **meant)
        assert hint.startswith("candor cluster request")
        (tmp_path / "request.toml").rename(f"{agent}.toml")
    settings = ("--topology", "ring", "--task", "digits", "--run-id", "r")
    model = resolve_task("digits").build_model()
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    save_file(dict(model.state_dict()), tmp_path / "my model.safetensors")
    initial = ("--initial", "my model.safetensors")
    steps: list[tuple[str, ...]] = [
        ("new", "alice.toml", "bob.toml", "carol.toml", *settings, "-o", "1.toml"),
        ("new", "alice.toml", "bob.toml", *settings, *initial, "-o", "with model.toml"),
        ("add", "1.toml", "dave.toml", "-o", "2.toml"),
        ("add", "1.toml", "dave.toml", *initial, "-o", "3.toml"),
        ("remove", "2.toml", "carol", *initial, "-o", "4.toml"),
        ("amend", "2.toml", "--rounds", "7", "-o", "5.toml"),
    ]
    for step in steps:
        told = say("cluster", *step, *sign)
        [hint] = pasted(say, told, ID="alice", KEYS="keys/alice")
        assert hint.startswith("candor cluster check")


# --- defaults -----------------------------------------------------------------------------------


def options(*path: str) -> dict[str, click.Option]:
    """The options of a command, by name."""
    command: click.Command = cli.command
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    return {str(p.name): p for p in command.params if isinstance(p, click.Option)}


@pytest.mark.parametrize("other", ["testbed", "simulate", "audit"])
def test_defaults_of_runs_here_are_those_of_a_cluster_file_or_help_says_so(other: str) -> None:
    new, here = options("cluster", "new"), options(other)
    shared = new.keys() & here.keys() - {"as_json", "agents", "topology", "task", "requests"}
    assert {"partition", "step_size", "local_steps", "window", "batch_size", "rule"} <= shared
    for name in shared:
        if name == "rounds":
            assert "100" in str(here[name].help)
            assert "must be told" in str(new[name].help)
        elif name in ON_THIS_MACHINE:
            assert here[name].default == ON_THIS_MACHINE[name] in str(new[name].help)
            assert str(new[name].default) in str(here[name].help).split("Default", 1)[1]
        else:
            assert here[name].default == new[name].default, name


# --- help ---------------------------------------------------------------------------------------


def test_help_has_every_command_once_under_who_it_is_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["--help"]) == 0
    told = capsys.readouterr().out
    for title, commands in cli.SECTIONS.items():
        assert title.startswith("For ")
        section = told.partition(f"{title}:\n")[2].partition("\n\n")[0]
        assert re.findall(r"^  (\w+)  ", section, re.MULTILINE) == list(commands)
    modules = [name for section in cli.SECTIONS.values() for name in section]
    assert sorted(modules) == sorted(set(modules)) == sorted(cli.COMMANDS)
