"""Commands draw no charts but for tests that ask for them."""

from tests.drawn import drawn, without_charts

__all__ = ["drawn", "without_charts"]
