"""How many random cases a test tries, where one more is only one more chance to find something.

`CANDOR_CASES=10 make test` tries ten times as many of each.
"""

import os
from typing import Final

TIMES: Final = float(os.environ.get("CANDOR_CASES", "1"))


def cases(usually: int) -> int:
    """So many of them, or as many times more as the environment asks for."""
    return max(1, round(usually * TIMES))
