"""The `candor` command, also as `python -m candor`."""

import os
import sys
from typing import NoReturn


def order_places() -> None:
    """Put the places of modules in their order.

    What torch asks for must not be the user's `random.py`, here or in a process that is started:
    the standard library comes first, then PYTHONPATH, and not the current directory or a script's.
    """
    if not sys.flags.safe_path:
        del sys.path[0]
    library = os.path.dirname(os.__file__)
    sys.path.sort(key=lambda place: place not in (library, os.path.join(library, "lib-dynload")))
    os.environ["PYTHONSAFEPATH"] = "1"


def main() -> NoReturn:
    """Run the command."""
    order_places()
    from candor.agent.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
