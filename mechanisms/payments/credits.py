"""Money: integer micro-credits, and the one place where a real amount becomes an integer.

A balance above 0 is money received. Sums of integers are exact, so transfers cancel to the last
unit; floating point ends at `to_micro` and never comes back.
"""

import math
import sys
from typing import Final

import numpy as np
from numpy.typing import NDArray

MICRO: Final = 1_000_000
"""Micro-credits in one credit."""

AMOUNT_MAX: Final = 2**62 - 1
"""Largest magnitude of an amount or balance; the sum of two still fits a signed 64-bit column."""

PAYMENT_MAX: Final = 2**51
"""Most that a member's penalties, and its charges, can be by one bill: what is beyond is not asked.
Of the members that fit a bill, all together can be handed so much and still be given an amount."""

UNIT: Final = "micro-credit"

CREDIT: Final = (
    "A credit stands for one unit of training loss: prices are set by that. What it is in money is "
    "for the parties to agree."
)


class AmountError(ValueError):
    """An amount that is not a number, or too large to be money."""


def to_micro(credits: NDArray[np.float64] | np.float64) -> NDArray[np.int64]:
    """Credits to micro-credits, any shape, each rounded once, half to even; what is beyond
    `PAYMENT_MAX`, above or below 0, counts as that.

    Raises:
        AmountError: an element is not a number.
    """
    # An overflow shows as an infinity, which is cut off: no warning is needed on the way.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.clip(credits * np.float64(MICRO), -PAYMENT_MAX, PAYMENT_MAX)
    if bool(np.isnan(scaled).any()):
        raise AmountError("a charge is not a number")
    return np.asarray(np.rint(scaled), dtype=np.int64)


def format_credits(amount: int, *, signed: bool = False) -> str:
    """Micro-credits as credits with six decimals, exactly: `1.234567`, `+1.234567` if `signed`."""
    sign = "-" if amount < 0 else "+" if signed else ""
    whole, micro = divmod(abs(amount), MICRO)
    return f"{sign}{whole}.{micro:06d}"


def total_energy(energies: list[float]) -> float:
    """The correctly rounded sum of finite round energies, at most the largest finite number: the
    same in every order and on every machine."""
    try:
        return min(math.fsum(energies), sys.float_info.max)
    except OverflowError:
        return sys.float_info.max


def paid_text(lo: str, hi: str, delta: int) -> str:
    """A payment outside the system by its record: above 0 micro-credits hi has paid lo."""
    payer, payee = (hi, lo) if delta > 0 else (lo, hi)
    return f"a payment of {format_credits(abs(delta))} by {payer} to {payee}"
