"""The exchanges of a round, by the algorithm's name, and the encodings of vectors."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

MIXED, OWN, MEDIAN = "mixed", "own", "median"


@dataclass(frozen=True, slots=True)
class Part:
    """A summand of what an agent steps from: made of the vectors of `phase`, of the round before
    or of this one."""

    phase: int
    made: str = MIXED
    before: bool = False
    stepped: bool = False
    rule: str = ""  # that derives the row from sketches


@dataclass(frozen=True, slots=True)
class Phase:
    """One exchange."""

    parts: tuple[Part, ...]
    direct: bool = False
    charged: bool = False


_AVERAGED = (Phase((Part(0, before=True),), charged=True),)
PHASES = {
    "decentralized-sgd": _AVERAGED,
    "gradient-push": _AVERAGED,
    "diloco": _AVERAGED,
    "gradient-tracking": (
        Phase((Part(0, before=True),), direct=True, charged=True),
        Phase((Part(1, before=True), Part(0, OWN, stepped=True))),
    ),
    "median-sgd": (
        Phase((), direct=True, charged=True),
        Phase((Part(1, before=True), Part(0, MEDIAN, stepped=True))),
    ),
}


def aggregated(phases: tuple[Phase, ...], aggregator: str) -> tuple[Phase, ...]:
    """The same exchanges, mixed by an aggregator."""

    def changed(part: Part) -> Part:
        if part.made != MIXED or aggregator == "mean":
            return part
        attested = aggregator == MEDIAN
        return replace(part, made=MEDIAN) if attested else replace(part, rule=aggregator)

    return tuple(replace(one, parts=tuple(map(changed, one.parts))) for one in phases)


class Codec(NamedTuple):
    """A number format, and by how much it moves a value: a share of it, or an amount."""

    type: str
    relative: float
    absolute: float


CODECS = {
    "float32": Codec("<f4", 2.0**-24, 2.0**-150),
    "float16": Codec("<f2", 2.0**-11, 2.0**-25),
}


def payload_bytes(codec: str, dim: int) -> int:
    return dim * np.dtype(CODECS[codec].type).itemsize


def encoded(codec: str, vector: np.ndarray) -> bytes:
    return vector.astype(CODECS[codec].type).tobytes()


def decoded(codec: str, data: bytes) -> np.ndarray:
    return np.frombuffer(data, CODECS[codec].type).astype("<f4")
