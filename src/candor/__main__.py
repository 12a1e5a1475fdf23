"""`python -m candor`: the same as the `candor` command."""

from candor.agent.cli.main import main

main()
