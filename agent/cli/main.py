"""`candor`: assembles the commands and turns failures into one line and a documented exit code.

Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 verification failed, 4 undecided, 5
somebody took part in fewer rounds than was asked for, 130 interrupted.
Commands are imported when they are used, so that `candor --help` and tab completion stay fast.
"""

import importlib
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from contextlib import suppress
from types import FrameType
from typing import Final, NoReturn, TextIO

import click

from candor import __version__
from candor.agent.exits import (
    BAD_CONFIGURATION,
    FAILED,
    FAULT,
    INTERRUPTED,
    VERIFICATION_FAILED,
    RunFailed,
)
from candor.network.errors import TransportError
from candor.topologies.specs.specs import (
    ConfigurationError,
    Note,
    SignatureError,
    Terminated,
    printable,
)

THREADS_END_S: Final = 30.0  # that a task has started, once all is done
SECTIONS: Final = {
    "For operators, who take part in a run": {
        "keygen": "Make the keys of an agent.",
        "cluster": "Make, check and show the cluster file that all agents share.",
        "agent": "Run the daemon of one agent.",
        "status": "Show what an agent, or every agent of a run, is doing.",
    },
    "For those who bring a model of their own": {
        "task": "Check a task before hours are spent on it.",
    },
    "For auditors, who check what was signed": {
        "ledger": "Show, verify, audit, export and repair signed ledgers.",
        "evidence": "Check a proof of misbehaviour with the cluster file alone.",
        "replay": "Do rounds of an agent again, on its host, and say whether it reported truly.",
    },
    "For researchers, who run all agents on this machine": {
        "topology": "Draw, describe and save graphs.",
        "testbed": "Run N real daemons on this machine and sum up.",
        "simulate": "Run thousands of agents in one process and sum up.",
        "report": "Make one HTML page of a run, or of one agent of it.",
    },
    "For researchers, who ask whether a lie pays": {
        "audit": "Say whether any lie pays, and at which price none does.",
        "study": "Run an experiment beside what theory or a paper says: games, attacks and more.",
    },
    "For developers of Candor": {
        "lockstep": "Run real cores through thousands of schedules of faults.",
        "bench": "Measure what a round costs and where the time goes.",
    },
}
COMMANDS: Final = {name: what for section in SECTIONS.values() for name, what in section.items()}
# Where a command's module lies, if not beside this one.
ROOMS: Final = {
    "cluster": "cluster.commands",
    "topology": "topology.commands",
    **{name: f"studies.{name}" for name in ("audit", "study", "bench")},
}
MOVED: Final = {"games": "study games", "femnist": "study femnist"}


class _LazyCommands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name in MOVED:
            moved = MOVED[cmd_name]
            raise ConfigurationError(f"`candor {cmd_name}` is `candor {moved}` now; call that")
        if cmd_name not in COMMANDS:
            return None
        room = ROOMS.get(cmd_name, cmd_name)
        module = importlib.import_module(f"candor.agent.cli.{room}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), what) for name, what in commands.items()])


_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(cls=_LazyCommands, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="candor")
def command() -> None:
    """Train one model among parties who do not trust each other, with no server in between.

    \b
    Start here:
      candor testbed --agents 8 --topology ring --task digits --rounds 60 \\
          --strategy a3=scale:3 --run-dir runs/first
    """


def main() -> NoReturn:
    """The entry point of the `candor` command."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = run(sys.argv[1:])
        threading.Thread(target=_leave, args=(code,), daemon=True).start()
        sys.exit(code)
    except SystemExit:
        raise
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BaseException:
        traceback.print_exc()
        sys.exit(FAULT)  # 1 is an answer: of an audit, that a lie pays


def _leave(code: int) -> None:
    """End the process, though threads that a task started may go on for ever."""
    time.sleep(THREADS_END_S)
    mine = (threading.main_thread(), threading.current_thread())
    left = [one.name for one in threading.enumerate() if one not in mine and not one.daemon]
    print(f"candor: threads of the task had not ended: {', '.join(left)}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM where no command minds it: leave, closing what is open. A KeyboardInterrupt that goes
    through an `exec`, as of an import, would end the process by SIGINT."""
    raise Terminated(INTERRUPTED)


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code; prints at most one line about a failure."""
    # The user's modules lie where the user stands, the empty place; last, they shadow nothing.
    sys.path.append("")
    warnings.showwarning = _note
    try:
        code = command.main(arguments, prog_name="candor", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message(), err=True)
        return BAD_CONFIGURATION
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        return _tell(exc.format_message() + _where_to_read(exc), BAD_CONFIGURATION)
    except SignatureError as exc:
        return _tell(str(exc), VERIFICATION_FAILED)
    except ConfigurationError as exc:
        return _tell(str(exc), BAD_CONFIGURATION)
    except (TransportError, RunFailed) as exc:
        return _tell(str(exc), FAILED)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has left; nothing to add
        return FAILED
    except OSError as exc:
        return _tell(f"{exc.filename or 'system'}: {exc.strerror or exc}", FAILED)
    except (click.Abort, KeyboardInterrupt):
        return _tell("interrupted", INTERRUPTED)


def _note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A note as one line; other warnings as Python shows them."""
    if issubclass(category, Note):
        click.echo(f"candor: note: {message}", err=True)
    else:
        click.echo(
            warnings.formatwarning(message, category, filename, lineno, line), file, err=True
        )


def _where_to_read(exc: click.ClickException) -> str:
    if isinstance(exc, click.UsageError) and exc.ctx is not None:
        return f" (see: {exc.ctx.command_path} --help)"
    return ""


def _tell(line: str, code: int) -> int:
    with suppress(OSError):  # of a daemon whose terminal was closed
        click.echo(printable(f"candor: error: {' '.join(line.split())}"), err=True)
    return code
