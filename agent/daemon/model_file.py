"""model.safetensors: the trained model of a data directory, and whether another may replace it.

The file's metadata says of which run the model is and how many rounds it has behind it. This is the
one place that writes it, and a model of fewer rounds never takes the place of one of more: a daemon
that is started again begins with the untrained one. What is no model of this run, or damaged, is
moved aside. The best one, by the agent's own score, lies beside it as best.safetensors. Not a
checkpoint: that is `agent.daemon.checkpoint`.
"""

import itertools
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from candor.topologies.cluster.file import Better
from candor.topologies.specs.files import json_text, replace_file
from candor.topologies.specs.specs import ConfigurationError

MODEL_NAME: Final = "model.safetensors"
PRIVATE_NAME: Final = "private.safetensors"
BEST_NAME: Final = "best.safetensors"
_METADATA: Final = "candor"
_BYTES: Final = "bytes"


class ModelFile:
    """DATA_DIR/model.safetensors of the run with this fingerprint; `named` gives the model whose
    shared part is a vector (dim,), by name, and `private` what the agent keeps to itself, which is
    saved beside it. `private_before`: what an earlier life of this run kept, or nothing; and
    `private_round`: how many rounds it had behind it. `better`: which of two scores is."""

    def __init__(
        self,
        data_dir: Path,
        fingerprint: str,
        named: Callable[[Tensor], Mapping[str, Tensor]],
        private: Callable[[], bytes] = bytes,
        better: Better = "higher",
    ) -> None:
        self._best_path = data_dir / BEST_NAME
        self._sign = 1.0 if better == "higher" else -1.0
        self._best: float | None = None  # the score of the best so far, of an earlier life, too
        self._unsaved: tuple[Tensor, int, float] | None = None  # the best, where it is not saved
        if rounds_behind(self._best_path, fingerprint):
            self._best = _about(self._best_path).get("score")
        self._path = data_dir / MODEL_NAME
        self._private_path = data_dir / PRIVATE_NAME
        self._fingerprint = fingerprint
        self.named = named
        self._private = private
        self.round = rounds_behind(self._path, fingerprint)
        self.private_before = b""
        self.private_round = rounds_behind(self._private_path, fingerprint)
        if self.private_round:
            held = load_file(self._private_path).get(_BYTES, torch.empty(0))
            self.private_before = held.flatten().view(torch.uint8).numpy().tobytes()

    def save(self, x: Tensor, round_number: int) -> None:
        """Keep the model x (dim,) that has `round_number` rounds behind it, unless one that has as
        many is there; on disk before the old one is gone.

        Raises:
            OSError: the system refused; the old one is still there.
            ConfigurationError: what the agent keeps to itself cannot be saved; the model is.
        """
        if round_number <= self.round:
            return
        about = {"fingerprint": self._fingerprint, "round": round_number}
        described = {_METADATA: json_text(about)}
        model = save(dict(self.named(x)), described)
        try:
            if private := self._private():
                kept = {_BYTES: torch.frombuffer(bytearray(private), dtype=torch.uint8)}
                self._replace(self._private_path, save(kept, described))
        except ConfigurationError:  # of the task's making: no reason to lose the model, too
            self._replaced(model, round_number)
            raise
        self._replaced(model, round_number)

    def scored(self, x: Tensor, round_number: int, score: float) -> None:
        """The model x (dim,) of so many rounds has a score: the best so far is saved with the next
        `save`, or by `save_best`."""
        if math.isfinite(score) and (self._best is None or self._sign * (score - self._best) > 0):
            self._best, self._unsaved = score, (x, round_number, score)

    def save_best(self) -> None:
        """Save the best model so far, if it is not.

        Raises:
            OSError: the system refused; the best one before is still there.
        """
        if self._unsaved is None:
            return
        x, round_number, score = self._unsaved
        about = {"fingerprint": self._fingerprint, "round": round_number, "score": score}
        self._replace(self._best_path, save(dict(self.named(x)), {_METADATA: json_text(about)}))
        self._unsaved = None

    def _replaced(self, model: bytes, round_number: int) -> None:
        self._replace(self._path, model)
        self.round = round_number

    def _replace(self, path: Path, data: bytes) -> None:
        if path.exists() and not rounds_behind(path, self._fingerprint):
            names = (path.with_stem(f"{path.stem}-{n}") for n in itertools.count(1))
            os.rename(path, next(name for name in names if not name.exists()))
        replace_file(path, data, durable=True)


def rounds_behind(path: Path, fingerprint: str) -> int:
    """How many rounds of a run the model in a file has behind it: 0 where there is none, or where
    it is another run's."""
    if not path.is_file():
        return 0
    try:
        about = _about(path)
        return int(about["round"]) if about["fingerprint"] == fingerprint else 0
    except (SafetensorError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError):
        return 0


def _about(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        found: dict[str, Any] = json.loads((file.metadata() or {})[_METADATA])
    return found
