"""What a `Combine` gives the algorithm: the mixed vector, or the heard ones as they are."""

import numpy as np
import torch
from torch import Tensor

from candor.agent.algorithms.effects import Heard
from candor.agent.core.effects import Combine


def combined(combine: Combine, agent: str, *, mixes: bool) -> Tensor | Heard:
    """The weighted sum (1, dim) of the payloads, added in order in float32, where the algorithm
    `mixes` or starts anew; else what `agent` heard. Copies: the payloads' buffers are lent."""
    if mixes or combine.reentry:
        return _mixed(combine)
    own = next(payload for peer, _, payload in combine.parts if peer == agent)
    others = [payload for peer, _, payload in combine.parts if peer != agent]
    vectors = np.stack(others) if others else np.empty((0, len(own)), np.float32)
    present = torch.ones(1, len(others), dtype=torch.bool)
    return Heard(torch.from_numpy(vectors)[None], present, torch.from_numpy(own.copy())[None])


def overheard(combine: Combine, agent: str) -> Tensor:
    """What `agent` sent and then what it heard, in order of id: copies, (1 + n, dim)."""
    ordered = sorted(combine.parts, key=lambda part: (part[0] != agent, part[0]))
    return torch.from_numpy(np.stack([payload for _, _, payload in ordered]))


def _mixed(combine: Combine) -> Tensor:
    # Read-only payloads are only read: torch has no notion of that and would warn.
    (_, weight, first), *others = combine.parts
    out = np.multiply(first, np.float32(weight))
    for _, weight, payload in others:
        out += np.float32(weight) * payload
    return torch.from_numpy(out).unsqueeze(0)
