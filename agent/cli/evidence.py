"""`candor evidence`: check a proof of misbehaviour with the cluster file alone."""

from pathlib import Path

import click

from candor.agent.cli.options import FILE, cluster_option, json_option
from candor.agent.core.terms import run_terms
from candor.agent.exits import VERIFICATION_FAILED
from candor.agent.runs.accusations import proven_by, told_of
from candor.mechanisms.evidence.examiner import RunTerms
from candor.mechanisms.proofs import ProofError
from candor.topologies.cluster.file import load_cluster
from candor.topologies.specs.files import json_text
from candor.topologies.specs.specs import ConfigurationError


@click.group("evidence")
def command() -> None:
    """Check evidence that daemons left in DATA_DIR/evidence.

    \b
    Example:
      candor evidence verify equivocation-a3.proof --cluster c.toml
    """


@command.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@cluster_option
@json_option
@click.pass_context
def verify(
    context: click.Context, files: tuple[Path, ...], cluster_path: Path, as_json: bool
) -> None:
    """Say who is proven to have done what. Exit code 3: a file proves nothing; else 2: one cannot
    be read, the others are judged.

    \b
    Example:
      candor evidence verify agents/*/evidence/*.proof --cluster cluster.toml
    """
    terms = run_terms(load_cluster(cluster_path))
    told = [{"file": str(file), **_judged(file, terms)} for file in files]
    if as_json:
        click.echo(json_text({"ok": all(one["proven"] for one in told), "files": told}, indent=2))
    else:
        for one in told:
            failed = "cannot be read" if one["proven"] is None else "proves nothing"
            said = one["verdict"] if one["proven"] else f"{failed}: {one['reason']}"
            click.echo(f"{one['file']}: {said}")
    if any(one["proven"] is False for one in told):
        context.exit(VERIFICATION_FAILED)
    if unread := [str(one["file"]) for one in told if one["proven"] is None]:
        raise ConfigurationError(f"{', '.join(unread)}: cannot be read")


def _judged(file: Path, terms: RunTerms) -> dict[str, str | bool | None]:
    """What a file proves in a run, as `--json` tells it; `proven` is None if it is not readable."""
    try:
        found = proven_by(file, terms)
    except OSError as exc:
        return {"proven": None, "reason": exc.strerror}
    except ProofError as exc:
        return {"proven": False, "reason": str(exc)}
    return {"proven": True, **told_of(found)}
