"""States of loops and their optimisers, as they are saved: to be loaded without running anything.

`torch.load(weights_only=True)` takes what torch knows and plain Python; so whatever is a number,
a text, a list or a dict is made one of Python's own: optimisers often hold a step size of numpy's.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN: tuple[type[Any], ...] = (bool, int, float, str, bytes)


def plain(value: Any) -> Any:
    """A state in which all is a tensor or Python's own.

    Raises:
        TypeError: it holds something else.
    """
    if isinstance(value, Mapping):
        return {_key(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        found = [plain(one) for one in value]
        return tuple(found) if isinstance(value, tuple) else found
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Tensor):
        return value.detach()
    if value is None or isinstance(value, torch.dtype | torch.device):
        return value
    for kind in _PLAIN:
        if isinstance(value, kind):
            made: Any = kind
            return value if type(value) is kind else made(value)
    raise TypeError(f"{type(value).__name__} is no number, text, tensor, list or dict")


def _key(key: Any) -> Any:
    if not isinstance(key, str | int | np.integer):
        raise TypeError(f"a key is a {type(key).__name__}, no number and no text")
    return plain(key)
