"""How two hosts differ, from what `candor task check --json` printed on each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from candor.agent.runs.task_check.findings import Finding, Kind
from candor.topologies.specs.specs import ConfigurationError, shown

_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class _Compared:
    """What is compared: where it stands in the JSON, what it is called, how bad a difference is."""

    keys: tuple[str, ...]
    name: str
    kind: Kind
    advice: str


_SAME_CODE = "use the same task code, torch version and --initial on all hosts"
_SAME_DATA = "bring the data of all hosts into one form before load_data() gives them"
_SAME_VERSION = "use one version everywhere where results must be the same to the bit"
COMPARED: Final = (
    _Compared(("model", "numbers"), "how many numbers travel", "error", _SAME_CODE),
    _Compared(("model", "digest"), "the initial model's digest", "error", _SAME_CODE),
    _Compared(
        ("model", "frozen_digest"),
        "the digest of frozen parameters and of what is shared",
        "error",
        _SAME_CODE,
    ),
    _Compared(("model", "metric"), "the metric that counts", "error", _SAME_CODE),
    _Compared(("model", "higher_is_better"), "which metric is better", "error", _SAME_CODE),
    _Compared(("seed",), "the seed", "error", "check both with the same --seed"),
    _Compared(("data", "shapes"), "the shapes of a sample", "error", _SAME_DATA),
    _Compared(("data", "types"), "the types of samples", "error", _SAME_DATA),
    _Compared(("data", "classes"), "the classes there are", "warning", _SAME_DATA),
    _Compared(("host", "torch"), "the version of torch", "warning", _SAME_VERSION),
    _Compared(("host", "numpy"), "the version of numpy", "note", _SAME_VERSION),
    _Compared(("host", "python"), "the version of Python", "note", _SAME_VERSION),
    _Compared(("host", "candor"), "the version of Candor", "warning", _SAME_VERSION),
)


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[Finding]:
    """What of two hosts' checks is not the same.

    Raises:
        ConfigurationError: `there` is no such check.
    """
    for compared in COMPARED:
        mine, others = _at(here, compared.keys), _at(there, compared.keys)
        if others is _MISSING:
            raise ConfigurationError(
                f"--against: no {'.'.join(compared.keys)} in it; give what `candor task check "
                "--json` printed on the other host"
            )
        if mine != others:
            yield Finding(
                compared.kind,
                f"hosts differ in {compared.name}: {_told(mine)} here, {_told(others)} there",
                compared.advice,
            )
    yield from _of_names(_names(here), _names(there))


def _of_names(here: Sequence[str], there: Sequence[str]) -> Iterator[Finding]:
    if here != there and (odd := sorted(set(here) ^ set(there))):
        place = "here" if odd[0] in here else "there"
        yield Finding(
            "error", f"hosts differ in what travels: {odd[0]} only does {place}", _SAME_CODE
        )


def _names(check: Mapping[str, Any]) -> list[str]:
    travels = _at(check, ("model", "travels"))
    if not isinstance(travels, Sequence):
        return []
    return [str(one.get("name")) for one in travels if isinstance(one, Mapping)]


def _at(check: object, keys: Sequence[str]) -> Any:
    for key in keys:
        if not isinstance(check, Mapping) or key not in check:
            return _MISSING
        check = check[key]
    return check


def _told(value: object) -> str:
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    return value if isinstance(value, str) else shown(value)
