"""`candor keygen`: an agent's identity and transport keys."""

import shlex
from pathlib import Path

import click

from candor.agent.cli.options import FOLDER, json_option
from candor.agent.daemon import keys
from candor.topologies.specs.files import json_text


@click.command()
@click.argument("directory", type=FOLDER)
@json_option
def command(directory: Path, as_json: bool) -> None:
    """Make an agent's keys in DIRECTORY: secrets with mode 0600, and public.toml to hand out.

    Keys that are there already are never overwritten.

    \b
    Example:
      candor keygen keys/a0
    """
    public = keys.generate(directory).public
    public_file = directory / keys.PUBLIC_FILE
    if as_json:
        fields = {
            "directory": str(directory),
            "identity": public.identity.hex(),
            "curve": public.curve,
            "public": str(public_file),
        }
        click.echo(json_text(fields))
        return
    click.echo(f"identity  {public.identity.hex()}")
    click.echo(f"curve     {public.curve}")
    click.echo(f"Keep {directory} secret and backed up: it is this agent, and its balance.")
    asked = f"candor cluster request {shlex.quote(str(directory))} --id ID --organiser FILE"
    click.echo("Next: ask to join a run whose organiser has sent you a FILE, its public.toml:")
    click.echo(f"`{asked} --endpoint tcp://HOST:PORT -o request.toml`")
    click.echo(f"Or organise one: hand out {public_file}.")
