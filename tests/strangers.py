"""Lies of a family that nothing of the product knows: patterns of signs, factors of blocks, delays.

`Lie0` to `Lie19`, drawn once; each is a strategy as a user writes one: `tests.strangers:Lie7`.
"""

from typing import Final

import torch
from torch import Tensor

from candor.mechanisms.strategies.lies import StrategyContext

COUNT: Final = 20
BLOCKS: Final = 10  # of a model, about as many as it has layers or classes


class Stranger:
    """A lie drawn by its number: a factor, on what a third of them turn, stretch or delay."""

    number = 0

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(1000 + self.number)
        self.factor = 1.0 + 3.0 * float(torch.rand(1, generator=draw))
        self.flipped = 0.3 * float(torch.rand(1, generator=draw))
        self.blocks = torch.randn(BLOCKS, generator=draw).exp()
        self.delay = 1 + int(torch.randint(6, (1,), generator=draw))
        self.share = float(torch.rand(1, generator=draw))
        self.past: list[Tensor] = []

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """The lie of a round."""
        if context.round == 1:
            self.past.clear()
        self.past.append(gradient)
        dim = gradient.shape[1]
        match self.number % 3:
            case 0:
                chance = torch.rand(dim, generator=torch.Generator().manual_seed(self.number))
                made = torch.where(chance < self.flipped, -gradient, gradient)
            case 1:
                of = torch.arange(dim) * BLOCKS // dim
                made = gradient * self.blocks[of]
            case _:
                late = self.past[max(0, len(self.past) - 1 - self.delay)]
                made = (1.0 - self.share) * gradient + self.share * late
        return self.factor * made


SPECS: Final = tuple(f"tests.strangers:Lie{number}" for number in range(COUNT))
globals().update(
    {
        f"Lie{number}": type(f"Lie{number}", (Stranger,), {"number": number})
        for number in range(COUNT)
    }
)
