"""What a check found, of three kinds: what it is and what to do about it, in one line."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["error", "warning", "note"]
KINDS: Final[tuple[Kind, ...]] = ("error", "warning", "note")
_NAMED_MAX: Final = 4  # things that a finding names


@dataclass(frozen=True, slots=True)
class Finding:
    """`error`: a run would begin, and go wrong; `warning`: probably not what was meant; `note`: as
    it may well be, and worth knowing."""

    kind: Kind
    what: str
    advice: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        return " ".join(f"{self.kind}: {self.what}; {self.advice}".split())


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, warnings, notes; each kind in the order it was found."""
    return sorted(findings, key=lambda finding: KINDS.index(finding.kind))


def named(names: Iterable[object]) -> str:
    """Some things by name, the first few of many."""
    listed = [str(name) for name in names]
    more = len(listed) - _NAMED_MAX
    return ", ".join(listed[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
