"""What a task's metrics say of one model."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Measured:
    """One model: `value` is the metric that counts, nan where it is undefined; `metrics` all that
    the task named, that one among them, empty where it gave one number; `local` the metric that
    counts on the agent's own data, None where the task has none."""

    value: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    local: float | None = None
