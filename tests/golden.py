"""Golden vectors: files under tests/vectors that hold the bytes of what is signed or compared.

`CANDOR_WRITE_VECTORS=1 pytest` writes them anew, for a deliberate change of a layout only.
"""

import json
import os
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent / "vectors"


def assert_golden(name: str, made: dict[str, Any]) -> None:
    """Assert that what the code makes today is what the file holds."""
    path = VECTORS / name
    if os.environ.get("CANDOR_WRITE_VECTORS"):
        path.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == made
