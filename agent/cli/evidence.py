"""`candor evidence`: check a proof of misbehaviour with the cluster file alone."""

from contextlib import suppress
from pathlib import Path

import click

from candor.agent.cli.options import (
    FILE,
    cluster_option,
    data_root_option,
    initial_option,
    json_option,
)
from candor.agent.core.terms import run_terms
from candor.agent.exits import VERIFICATION_FAILED
from candor.agent.runs.accusations import NotFalse, Sources, proven_by, told_of
from candor.mechanisms.evidence.attestations import ATTESTATION_BYTES_MAX, Attestation, Told
from candor.mechanisms.evidence.disclosures import FALSE_REPORT
from candor.mechanisms.evidence.examiner import RunTerms
from candor.mechanisms.proofs import ProofError
from candor.topologies.cluster.file import Cluster, load_cluster
from candor.topologies.encoding.canonical import MalformedError
from candor.topologies.specs.files import json_text, open_regular
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
@initial_option
@data_root_option
@json_option
@click.pass_context
def verify(
    context: click.Context,
    files: tuple[Path, ...],
    cluster_path: Path,
    initial: Path | None,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Say who is proven to have done what, and what auditors say who have done rounds again.

    A false report is proven by doing its round again, with what its agent has shown of it: that
    takes the run's task, and no data set.

    Exit code 3: a file proves nothing; else 2: one cannot be read, the others are judged.

    \b
    Example:
      candor evidence verify agents/*/evidence/*.proof --cluster cluster.toml
    """
    cluster, sources = load_cluster(cluster_path), Sources(data_root, initial)
    terms = run_terms(cluster)
    told = [{"file": str(file), **_judged(file, cluster, terms, sources)} for file in files]
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


def _judged(
    file: Path, cluster: Cluster, terms: RunTerms, sources: Sources
) -> dict[str, str | bool | None]:
    """What a file proves in a run, as `--json` tells it; `proven` is None if it is not readable,
    or cannot be judged here."""
    try:
        with suppress(MalformedError), open_regular(file) as stream:
            said = Attestation.verified(stream.read(ATTESTATION_BYTES_MAX + 1))
            return _attested(said, terms)
        found = proven_by(file, cluster, terms, sources)
    except OSError as exc:
        return {"proven": None, "reason": exc.strerror}
    except ConfigurationError as exc:
        return {"proven": None, "reason": str(exc)}
    except NotFalse as exc:
        return {"proven": False, "reason": str(exc), "told": exc.told.name.lower()}
    except ProofError as exc:
        return {"proven": False, "reason": str(exc)}
    shown = {"told": Told.FALSE.name.lower()} if found.kind == FALSE_REPORT else {}
    return {"proven": True, **told_of(found), **shown}


def _attested(said: Attestation, terms: RunTerms) -> dict[str, str | bool | None]:
    """What an auditor says of rounds that it has done again: its word, no proof of anything."""
    if said.run != terms.run or said.agent not in terms.publics:
        return {"proven": False, "reason": "it is of another run"}
    rounds = ", ".join(f"{one.round} {one.told.name.lower()}" for one in said.rounds)
    auditor = said.auditor.hex()
    return {
        "proven": True,
        "agent": said.agent,
        "kind": "attestation",
        "place": f"rounds {', '.join(str(one.round) for one in said.rounds)}",
        "malice": any(one.told is Told.FALSE for one in said.rounds),
        "auditor": auditor,
        "verdict": f"{said.agent}: rounds done again: {rounds}; says {auditor[:16]}…",
    }
