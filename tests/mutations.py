"""Valid bytes with one byte changed, one added or some left out: what a parser must survive."""

from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


@st.composite
def mutated(draw: Callable[..., T], valid: bytes) -> bytes:
    """Bytes that differ from `valid`."""
    at = draw(st.integers(0, len(valid) - 1))
    match draw(st.sampled_from(["flip", "insert", "cut", "append"])):
        case "flip":
            return valid[:at] + bytes([valid[at] ^ draw(st.integers(1, 255))]) + valid[at + 1 :]
        case "insert":
            return valid[:at] + bytes([draw(st.integers(0, 255))]) + valid[at:] + b"\0"
        case "cut":
            return valid[:at]
        case _:
            return valid + draw(st.binary(min_size=1, max_size=4))
