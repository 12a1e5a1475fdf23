"""The exit codes of all commands; 0 is done."""

from typing import Final

FAILED: Final = 1  # it could not be done, or what was asked is answered with no
BAD_CONFIGURATION: Final = 2
VERIFICATION_FAILED: Final = 3
UNDECIDED: Final = 4  # what was measured does not tell
ABSENT: Final = 5  # all went well, but somebody took part in fewer rounds than was asked for
FAULT: Final = 70  # of the program: it ends with a traceback
INTERRUPTED: Final = 130


class RunFailed(Exception):
    """What was asked could not be done, by no mistake of the user's: one line, and `FAILED`."""
