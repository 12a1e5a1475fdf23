"""Money: integer micro-credits, and the one place where a real amount becomes an integer.

A balance above 0 is money received. Sums of integers are exact, so transfers cancel to the last
unit; floating point ends at `to_micro` and never comes back.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

MICRO: Final = 1_000_000
"""Micro-credits in one credit."""

AMOUNT_MAX: Final = 2**62 - 1
"""Largest magnitude of an amount or balance; the sum of two still fits a signed 64-bit column."""

UNIT: Final = "micro-credit"

CREDIT: Final = (
    "A credit stands for one unit of training loss: prices are set by that. What it is in money is "
    "for the parties to agree."
)


class AmountError(ValueError):
    """An amount that is not finite or too large to be money."""


def to_micro(credits: NDArray[np.float64] | np.float64) -> NDArray[np.int64]:
    """Credits to micro-credits, any shape, each rounded once, half to even.

    Raises:
        AmountError: an element is not finite, or 2**62 micro-credits and more.
    """
    # An overflow shows as an infinity, which is refused below: no warning is needed on the way.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = credits * np.float64(MICRO)
    # As floats: 2**62 is exact where 2**62 - 1 is not, and NaN compares false.
    if not bool(np.all(np.abs(scaled) < float(AMOUNT_MAX + 1))):
        raise AmountError("not an amount of less than 2**62 micro-credits")
    return np.asarray(np.rint(scaled), dtype=np.int64)


def format_credits(amount: int, *, signed: bool = False) -> str:
    """Micro-credits as credits with six decimals, exactly: `1.234567`, `+1.234567` if `signed`."""
    sign = "-" if amount < 0 else "+" if signed else ""
    whole, micro = divmod(abs(amount), MICRO)
    return f"{sign}{whole}.{micro:06d}"


def total_energy(energies: list[float]) -> float:
    """The correctly rounded sum of round energies: the same in every order and on every machine.

    Raises:
        AmountError: the sum is not finite.
    """
    try:
        total = math.fsum(energies)
    except (OverflowError, ValueError) as exc:
        raise AmountError(f"energies do not add up: {exc}") from exc
    if not math.isfinite(total):
        raise AmountError("energies do not add up to a finite number")
    return total


def paid_text(lo: str, hi: str, delta: int) -> str:
    """A payment outside the system by its record: above 0 micro-credits hi has paid lo."""
    payer, payee = (hi, lo) if delta > 0 else (lo, hi)
    return f"a payment of {format_credits(abs(delta))} by {payer} to {payee}"
