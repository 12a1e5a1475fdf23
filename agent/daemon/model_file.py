"""model.safetensors: the trained model of a data directory, and whether another may replace it.

The file's metadata says of which run the model is and how many rounds it has behind it. This is the
one place that writes it, and a model of fewer rounds never takes the place of one of more: a daemon
that is started again begins with the untrained one. What is no model of this run, or damaged, is
moved aside. Not a checkpoint: a run goes on from a
neighbour's model.
"""

import itertools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from candor.topologies.specs.files import json_text, replace_file

MODEL_NAME: Final = "model.safetensors"
_METADATA: Final = "candor"


class ModelFile:
    """DATA_DIR/model.safetensors of the run with this fingerprint; `named` gives the parameters
    (dim,) by name."""

    def __init__(
        self, data_dir: Path, fingerprint: str, named: Callable[[Tensor], Mapping[str, Tensor]]
    ) -> None:
        self._path = data_dir / MODEL_NAME
        self._fingerprint = fingerprint
        self.named = named
        self.round = rounds_behind(self._path, fingerprint)

    def save(self, x: Tensor, round_number: int) -> None:
        """Keep the model x (dim,) that has `round_number` rounds behind it, unless one that has as
        many is there; on disk before the old one is gone.

        Raises:
            OSError: the system refused; the old one is still there.
        """
        if round_number <= self.round:
            return
        about = {"fingerprint": self._fingerprint, "round": round_number}
        data = save(dict(self.named(x)), {_METADATA: json_text(about)})
        if self.round == 0 and self._path.exists():
            self._move_aside()
        replace_file(self._path, data, durable=True)
        self.round = round_number

    def _move_aside(self) -> None:
        names = (self._path.with_stem(f"{self._path.stem}-{n}") for n in itertools.count(1))
        os.rename(self._path, next(name for name in names if not name.exists()))


def rounds_behind(path: Path, fingerprint: str) -> int:
    """How many rounds of a run the model in a file has behind it: 0 where there is none, or where
    it is another run's."""
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_METADATA])
            return int(about["round"]) if about["fingerprint"] == fingerprint else 0
    except (SafetensorError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError):
        return 0
