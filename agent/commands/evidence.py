"""`candor evidence`: check a proof of misbehaviour with the cluster file alone."""

import json
from pathlib import Path

import click

from agent.exits import VERIFICATION_FAILED
from agent.ledger_files import run_terms
from agent.options import json_option
from mechanisms.proofs import PROOF_BYTES_MAX, Proof, ProofError, verify_proof
from topologies.canonical import MalformedError
from topologies.cluster import load_cluster
from topologies.files import open_regular
from topologies.specs import ConfigurationError


@click.group("evidence")
def command() -> None:
    """Check evidence that daemons left in DATA_DIR/evidence.

    \b
    Example:
      candor evidence verify equivocation-a3.proof --cluster c.toml
    """


@command.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--cluster",
    "cluster_path",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The run's cluster file: its public keys, window and sketch size are used.",
)
@json_option
def verify(file: Path, cluster_path: Path, as_json: bool) -> None:
    """Say who is proven to have done what. Exit code 3: the file proves nothing.

    \b
    Example:
      candor evidence verify agents/a0/evidence/equivocation-a3.proof --cluster cluster.toml
    """
    cluster = load_cluster(cluster_path)
    try:
        with open_regular(file) as stream:
            data = stream.read(PROOF_BYTES_MAX + 1)
    except OSError as exc:
        raise ConfigurationError(f"{file}: {exc.strerror}") from exc
    try:
        verdict = verify_proof(Proof.decode(data), run_terms(cluster))
    except (MalformedError, ProofError, ValueError) as exc:
        if as_json:
            click.echo(json.dumps({"proven": False, "reason": str(exc)}))
        else:
            click.echo(f"{file}: proves nothing: {exc}")
        raise click.exceptions.Exit(VERIFICATION_FAILED) from None
    if as_json:
        told = {"proven": True, "agent": verdict.agent, "kind": verdict.kind}
        click.echo(json.dumps({**told, "place": verdict.place, "malice": verdict.malice}))
    else:
        click.echo(str(verdict))
