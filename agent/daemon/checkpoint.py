"""checkpoint.safetensors: what a daemon goes on with when it is started again.

The vector that was stated last, the algorithm's state and what training keeps to itself, all of one
exchange. It is replaced at once, so that a process that is killed leaves the one before or the new
one; and now and then a copy of it is made durable, which a power cut leaves. What is damaged is
known by its digest. Unlike model.safetensors it is the program's own, and no model: a vector before
it is mixed.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import blake3
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from candor.agent.algorithms.effects import State
from candor.topologies.specs.files import json_text, replace_file

CHECKPOINT_NAME: Final = "checkpoint.safetensors"
DURABLE_NAME: Final = "checkpoint-synced.safetensors"
# What is written before it is needed costs this share of the time at most,
_TIME_MAX: Final = 1 / 50
# and a disk no more than a desktop's would bear for years.
_BYTES_PER_S: Final = 2e6
# What a power cut costs at most: others learn as much in half a minute.
_DURABLE_EVERY_S: Final = 30.0
_METADATA: Final = "candor"
_VECTOR, _STATE, _PRIVATE = "vector", "state/", "private"


@dataclass(frozen=True, slots=True)
class Training:
    """What a daemon has trained when it states the models of a round: at which step, the vector
    (dim,) stated, the algorithm's state, tensors (1, ...) by name, and what the learner keeps to
    itself; the loss of the round, and how many episodes it sampled if any."""

    step: int
    round: int
    vector: NDArray[np.float32]
    state: State
    loss: float
    trajectories: int | None = None
    private: bytes = field(default=b"", kw_only=True)


class CheckpointFile:
    """DATA_DIR/checkpoint.safetensors of the run with this fingerprint."""

    def __init__(self, data_dir: Path, fingerprint: str) -> None:
        self._path = data_dir / CHECKPOINT_NAME
        self._durable = data_dir / DURABLE_NAME
        self._fingerprint = fingerprint
        self._due_s = self._durable_due_s = float("-inf")
        self._took_s = 0.0  # the last one, to gather and to write

    def read(self) -> Training | None:
        """The latest that an earlier life has left whole, None where there is none of this run."""
        found = [self._read(path) for path in (self._path, self._durable)]
        whole = [one for one in found if one is not None]
        return max(whole, key=lambda one: one.step, default=None)

    @property
    def due_s(self) -> float:
        """From when on another one may be written, by the monotonic clock."""
        return self._due_s

    def due(self, now_s: float) -> bool:
        """Whether another one may be written by now."""
        return now_s >= self._due_s

    def encode(self, training: Training) -> bytes:
        """The bytes of a checkpoint."""
        began = time.monotonic()
        tensors: dict[str, NDArray[np.generic]] = {
            _VECTOR: training.vector,
            _PRIVATE: np.frombuffer(training.private, np.uint8),
        }
        for name, tensor in training.state.items():
            tensors[_STATE + name] = tensor.detach().cpu().contiguous().numpy()
        about = {
            "fingerprint": self._fingerprint,
            "step": training.step,
            "round": training.round,
            "loss": repr(training.loss),
            "trajectories": training.trajectories,
            "digest": _digest(tensors),
        }
        data: bytes = save(tensors, {_METADATA: json_text(about)})
        self._took_s = time.monotonic() - began
        return data

    def write(self, data: bytes) -> None:
        """Replace the checkpoint, and at times the durable one, by the bytes of a new one; then
        none is due for a while.

        Raises:
            OSError: the system refused; the old one is still there.
        """
        began = time.monotonic()
        replace_file(self._path, data)
        if began >= self._durable_due_s:
            replace_file(self._durable, data, durable=True)
            self._durable_due_s = began + _DURABLE_EVERY_S
        self._took_s += time.monotonic() - began
        self._due_s = began + max(self._took_s / _TIME_MAX, len(data) / _BYTES_PER_S)

    def remove(self) -> None:
        """The run is done: there is nothing to go on with."""
        for path in (self._path, self._durable):
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> Training | None:
        try:
            with safe_open(path, framework="np") as file:
                about = json.loads((file.metadata() or {})[_METADATA])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about["fingerprint"] != self._fingerprint or about["digest"] != _digest(tensors):
                return None
            return Training(
                int(about["step"]),
                int(about["round"]),
                tensors[_VECTOR],
                dict(_state(tensors)),
                float(about["loss"]),
                about["trajectories"],
                private=tensors[_PRIVATE].tobytes(),
            )
        except (OSError, SafetensorError, LookupError, TypeError, ValueError, RecursionError):
            return None


def _state(tensors: dict[str, NDArray[np.generic]]) -> Iterator[tuple[str, Tensor]]:
    for name, values in tensors.items():
        if name.startswith(_STATE):
            yield name.removeprefix(_STATE), torch.from_numpy(values)


def _digest(tensors: dict[str, NDArray[np.generic]]) -> str:
    """BLAKE3 over the tensors' bytes, in order of name."""
    hasher = blake3.blake3()
    for name in sorted(tensors):
        hasher.update(name.encode())
        hasher.update(tensors[name].tobytes())
    return hasher.hexdigest()
