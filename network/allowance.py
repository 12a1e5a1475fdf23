"""An allowance: so many at once, then so many a second. Pure; time is an argument."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Allowance:
    """`burst` may be taken at once; what was taken comes back with `per_s` a second."""

    per_s: float
    burst: float
    _left: float = field(init=False)
    _at_s: float | None = None

    def __post_init__(self) -> None:
        self._left = self.burst

    def take(self, now_s: float) -> bool:
        """Take one; False where nothing is left, and then it is not taken."""
        passed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._left = min(self.burst, self._left + self.per_s * passed_s)
        self._at_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def put_back(self) -> None:
        """What was taken last cost nothing."""
        self._left = min(self.burst, self._left + 1.0)

    def refill(self) -> None:
        """Whoever was punished begins anew."""
        self._left = self.burst
