"""What a `Combine` gives the algorithm: the mixed vector, or the heard ones as they are."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.algorithms.effects import Heard
from candor.agent.core.effects import Combine
from candor.mechanisms.rewards.barter import sections


def combined(combine: Combine, agent: str, *, mixes: bool) -> Tensor | Heard:
    """The weighted sum (1, dim) of the payloads, added in order in float32, where the algorithm
    `mixes` or starts anew, of traded models in what is shared; else what `agent` heard. Copies:
    the payloads' buffers are lent."""
    if mixes or combine.reentry:
        return _mixed(combine, agent)
    own = next(payload for peer, _, payload in combine.parts if peer == agent)
    others = [payload for peer, _, payload in combine.parts if peer != agent]
    vectors = np.stack(others) if others else np.empty((0, len(own)), np.float32)
    present = torch.ones(1, len(others), dtype=torch.bool)
    return Heard(torch.from_numpy(vectors)[None], present, torch.from_numpy(own.copy())[None])


def overheard(combine: Combine, agent: str) -> Tensor:
    """What `agent` sent and then what it heard, in order of id: copies, (1 + n, dim), zeros where
    it was not given a part of a model."""
    ordered = sorted(combine.parts, key=lambda part: (part[0] != agent, part[0]))
    return torch.from_numpy(np.stack([payload for _, _, payload in ordered]))


def _mixed(combine: Combine, agent: str) -> Tensor:
    # Read-only payloads are only read: torch has no notion of that and would warn.
    traded = combine.traded
    if traded is None:
        return torch.from_numpy(_summed(combine.parts)).unsqueeze(0)
    payloads = {peer: payload for peer, _, payload in combine.parts}
    taken = {peer: weight for peer, weight, _ in combine.parts if peer != agent}
    out, groups = np.empty_like(payloads[agent]), traded.groups
    for low, high, weights in sections(agent, taken, traded.shared, groups):
        for into, views in zip(
            groups.views(out, low, high),
            zip(*(groups.views(payloads[k], low, high) for k in sorted(weights)), strict=True),
            strict=True,
        ):
            parts = zip(sorted(weights), views, strict=True)
            into[:] = _summed([(k, weights[k], view) for k, view in parts])
    return torch.from_numpy(out).unsqueeze(0)


def _summed(parts: Sequence[tuple[str, float, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """The weighted sum, each product rounded to float32 and added in order."""
    (_, weight, first), *others = parts
    out = np.multiply(first, np.float32(weight))
    for _, weight, payload in others:
        out += np.float32(weight) * payload
    return out
