"""`candor study`: experiments that print what papers claim beside what is measured here."""

import importlib
from typing import Final

import click

STUDIES: Final = {
    "games": "Hold the theory of when lies pay against games as played.",
    "decbyzpg": "Repeat DecByzPG's experiments: policy gradients among attackers.",
    "robustness": "Attacks against aggregators on graphs: what honest agents still learn.",
    "honesty": "Audit lies on tasks, graphs and shards that no price was chosen on.",
    "fairness": "Repeat the experiments with fair gradient rewards: who gives more, gets more.",
    "femnist": "Train with competing writers; find the price at which noise does not pay.",
}
"""Each has a module of its name beside this one."""


class _Studies(click.Group):
    """Imports a study when it is used: most of them load torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(STUDIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in STUDIES:
            return None
        module = importlib.import_module(f"candor.agent.cli.studies.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Studies"):
            formatter.write_dl(list(STUDIES.items()))


@click.group("study", cls=_Studies)
def command() -> None:
    """Run an experiment that answers one question, with theory or a paper's figures beside it.

    \b
    Examples:
      candor study games --seed 1
      candor study robustness --task digits --jobs 2
      candor study femnist --run-dir runs/femnist
    """
