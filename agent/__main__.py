"""`python -m agent`: the same as the `candor` command."""

from agent.cli import main

main()
