"""`candor report`: the page of a run."""

from pathlib import Path

import click

from candor.agent.cli.options import PATH, output_option
from candor.topologies.specs.files import private_files


@click.command("report")
@click.argument("run_dir", type=PATH)
@output_option("The page to write.  [default: RUN_DIR/report.html]", required=False)
def command(run_dir: Path, output: Path | None) -> None:
    """Draw a run as one HTML page and print where it is.

    RUN_DIR is a run's directory, the data directory of one agent, or a folder of such that were
    gathered from several hosts: the page shows what is there. It needs no network and no script. It
    can be made while the run lives and after a run that broke: what is missing is left out and
    named.

    \b
    Examples:
      candor report runs/demo
      candor report /var/lib/candor/a3 -o a3.html
    """
    # matplotlib is behind this import: no other command waits for it.
    from candor.agent.reports.run_page import write_report

    with private_files():
        click.echo(write_report(run_dir, output))
