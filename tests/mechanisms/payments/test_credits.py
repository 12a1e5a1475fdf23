"""Money is rounded once, half to even, and never silently out of range."""

import math
import sys
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.mechanisms.payments.credits import (
    AMOUNT_MAX,
    PAYMENT_MAX,
    AmountError,
    format_credits,
    to_micro,
    total_energy,
)


@pytest.mark.parametrize(
    ("credits", "micro"),
    [
        (0.0, 0),
        (1.0, 1_000_000),
        (-1.234567, -1_234_567),
        (0.5e-6, 0),  # half to even
        (1.5e-6, 2),
        (2.5e-6, 2),
        (-0.5e-6, 0),
        (-1.5e-6, -2),
        (2.2e9, 2_200_000_000_000_000),
        (2.2518e9, PAYMENT_MAX),
        (-1e300, -PAYMENT_MAX),
        (math.inf, PAYMENT_MAX),
    ],
)
def test_amounts_are_rounded_half_to_even(credits: float, micro: int) -> None:
    assert to_micro(np.float64(credits)) == micro


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(AmountError):
        to_micro(np.array([0.0, math.nan]))


@given(st.lists(st.floats(-2e9, 2e9), min_size=1))
def test_rounding_is_symmetric_and_what_python_rounds_to(credits: list[float]) -> None:
    found = to_micro(np.array(credits)).tolist()
    assert found == [round(one * 1_000_000) for one in credits]
    assert to_micro(-np.array(credits)).tolist() == [-one for one in found]


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (1_234_567, "+1.234567"),
        (-1, "-0.000001"),
        (0, "+0.000000"),
        (-10_000_000, "-10.000000"),
        (AMOUNT_MAX, "+4611686018427.387903"),
    ],
)
def test_amounts_print_exactly(amount: int, text: str) -> None:
    assert format_credits(amount, signed=True) == text
    assert format_credits(amount) == text.removeprefix("+")


@given(st.integers())
def test_credits_lose_no_unit(micro: int) -> None:
    text = format_credits(micro)
    assert int(text.replace(".", "")) == micro
    assert text.startswith("-") == (micro < 0)
    assert Decimal(text).as_tuple().exponent == -6


@given(st.lists(st.floats(0, 1e12)), st.randoms())
def test_the_sum_of_energies_does_not_depend_on_the_order(energies: list[float], rng) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(energies)
    rng.shuffle(shuffled)
    assert total_energy(shuffled) == total_energy(energies)


def test_energies_beyond_all_numbers_add_up_to_the_largest() -> None:
    assert total_energy([1.7e308, 1.7e308]) == total_energy([math.inf]) == sys.float_info.max
