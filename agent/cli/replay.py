"""`candor replay`: rounds of an agent done again on its host, by whoever is trusted there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from candor.agent.cli.options import (
    COUNT,
    FILE,
    FOLDER,
    PATH,
    answer_alone,
    data_root_option,
    device_option,
    initial_option,
    json_option,
)
from candor.agent.daemon import keys
from candor.agent.exits import FAILED, UNDECIDED
from candor.mechanisms.evidence.attestations import Attestation, AttestedRound, Told
from candor.topologies.specs.files import json_text, replace_file, system_errors
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    from candor.agent.runs.replay import Replayed
    from candor.agent.runs.replay_dir import Report

WORDS = {Told.TRUE: "true", Told.FALSE: "FALSE", Told.UNKNOWN: "cannot be told"}


@click.command("replay")
@click.argument("data_dir", type=FOLDER)
@click.option("--round", "only", type=COUNT, help="This round, if it is kept, and no other.")
@click.option(
    "--cluster",
    "cluster_path",
    type=FILE,
    help="The cluster file of the run.  [default: the one that the agent kept]",
)
@click.option(
    "--key",
    type=PATH,
    metavar="KEYS",
    help="The auditor's own keys, of `candor keygen`: sign what was found.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="Where to write that.  [default: replay-ID.attestation]",
)
@initial_option
@data_root_option
@device_option
@click.option("--threads", type=COUNT, help="Threads of torch.  [default: its own]")
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    data_dir: Path,
    only: int | None,
    cluster_path: Path | None,
    key: Path | None,
    output: Path | None,
    initial: Path | None,
    data_root: Path | None,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Do again the rounds that the coin picked, one in every window, from what the agent in
    DATA_DIR kept of them, and say of each whether its report was the honest one.

    Its samples must be those that it committed to before round 1. With --key the answer is signed;
    it says nothing of the data, and `candor evidence verify` checks it anywhere. Exit code 0: all
    true; 1: a report was false; 2: bad usage; 4: none was false, and of one it cannot be told.

    \b
    Example:
      candor replay data/a3 --key keys/auditor -o a3.attestation
    """
    from candor.agent.runs.replay import Host  # imports torch
    from candor.agent.runs.replay_dir import replay_dir

    if output is not None and key is None:
        raise ConfigurationError("--output: only what is signed is written; give --key, too")
    identity = None if key is None else keys.load(key)
    with answer_alone(as_json):
        found = replay_dir(data_dir, cluster_path, only, Host(data_root, initial, device, threads))
    if identity is not None:
        place = output or Path(f"replay-{found.agent}.attestation")
        signed = attestation_of(found, identity.signing_key.public).sign(identity.signing_key)
        with system_errors(f"{place}: cannot write the attestation"):
            replace_file(place, signed)
    if as_json:
        click.echo(json_text(_as_json(found), indent=2))
    else:
        for line in _lines(found):
            click.echo(line)
        if identity is not None:
            click.echo(f"signed by {identity.signing_key.public.hex()[:16]}…: {place}")
    context.exit(_exit_code(found.rounds))


def attestation_of(found: "Report", auditor: bytes) -> Attestation:
    """What an auditor signs."""
    rounds = tuple(AttestedRound(r.round, r.told, r.statement) for r in found.rounds)
    run = bytes.fromhex(found.cluster.fingerprint)
    return Attestation(run, found.agent, auditor, found.samples, rounds)


def _exit_code(rounds: Sequence["Replayed"]) -> int:
    told = {one.told for one in rounds}
    if Told.FALSE in told:
        return FAILED
    return UNDECIDED if Told.UNKNOWN in told or not told else 0


def _lines(found: "Report") -> list[str]:
    held = found.samples
    samples = f"{held.count} samples, {held.root.hex()[:16]}…" if held.count else "no samples"
    lines = [f"{found.agent} of run {found.cluster.run_id}: {samples}"]
    lines += [f"round {one.round}: {WORDS[one.told]}, {one.why}" for one in found.rounds]
    return lines if found.rounds else [*lines, "no window is over yet: nothing to do again"]


def _as_json(found: "Report") -> dict[str, object]:
    return {
        "run": found.cluster.fingerprint,
        "agent": found.agent,
        "samples": {"count": found.samples.count, "root": found.samples.root.hex()},
        "rounds": [
            {
                "round": one.round,
                "told": one.told.name.lower(),
                "why": one.why,
                "error": one.error,
                "statement": one.statement.hex(),
            }
            for one in found.rounds
        ],
    }
