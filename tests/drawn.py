"""Pages without their drawings, for tests that look at what a page says and run many commands.

Laying a chart out and writing it as SVG, twice for every chart, takes longer than all else that a
small run does. How charts look is tested in `tests/agent/reports`, where they are drawn.
"""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from candor.agent.reports import charts

EMPTY: Final = b'<svg xmlns="http://www.w3.org/2000/svg"/>'

rendered = charts._rendered


def empty(page: str) -> int:
    """How many pictures of a page have nothing in them."""
    return page.count(base64.b64encode(EMPTY).decode())


@contextmanager
def undrawn() -> Iterator[None]:
    """All charts are made, and none becomes a picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "_rendered", lambda *_: EMPTY)
        yield


@pytest.fixture(autouse=True, scope="module")
def without_charts() -> Iterator[None]:
    """For a `conftest.py`: its folder draws nothing but for tests that ask for it."""
    with undrawn():
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts become the pictures that a user sees."""
    monkeypatch.setattr(charts, "_rendered", rendered)
