"""Payment rules: what a referee charges its neighbours, and the grammar in which a run names them.

A rule maps what a neighbourhood's claims show to charges, in credits per unit price. Rules are
batch-first: leading axes may be windows, runs or price grids. A run's rule is a sum of rules with
one price each, written `band:5e-4 + norm:2e-5` or `norm:2e-5 + my_module:MyRule@1e-4`. The rules
themselves are in `mechanisms.payments.band` and `mechanisms.payments.idling`; what is done with the
charges, in `mechanisms.payments.bills`.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.payments.band import (
    Band,
    Excess,
    Norm,
    PeerPrediction,
    Scaled,
    Variance,
)
from candor.mechanisms.payments.band import Floats as Floats
from candor.mechanisms.payments.band import Neighbourhood as Neighbourhood
from candor.mechanisms.payments.credits import to_micro
from candor.mechanisms.payments.idling import Originality, Persistence
from candor.topologies.specs.specs import (
    ConfigurationError,
    build_object,
    is_import_path,
    parse_spec,
    users_errors,
)

_Agent = TypeVar("_Agent", str, int)


@runtime_checkable
class Rule(Protocol):
    """One payment rule, in credits per unit price.

    `edge_local`: a charge depends on the member's claim alone, and goes to the referee; otherwise
    charges are penalties: the rule is shown the referee and half of the members at a time, and what
    these are charged goes to the other half.
    """

    edge_local: bool

    def charges(self, neighbourhood: Neighbourhood) -> Floats:
        """What each member is charged: (..., m) per unit price; of the referee it is ignored.

        Sums must be taken in a fixed order (`mechanisms.payments.band.ordered_sum`), or two
        machines may differ by a micro-credit and refuse each other's bills.
        """
        ...


_SUM = re.compile(r"\s+\+\s+")  # spaces are required: `1e+5` holds a plus too


_RULES: Final[dict[str, type[Rule]]] = {
    "band": Band,
    "excess": Excess,
    "norm": Norm,
    "originality": Originality,
    "peer-prediction": PeerPrediction,
    "persistence": Persistence,
    "scaled": Scaled,
    "variance": Variance,
}


@dataclass(frozen=True, slots=True)
class Term:
    """One rule of a sum: `price` in credits per unit of the rule's charge."""

    text: str
    price: float
    rule: Rule

    @property
    def name(self) -> str:
        """The spec without the price: `band`, `module:Class`."""
        return self.text.rpartition("@" if "@" in self.text else ":")[0]

    def bills(self, neighbourhood: Neighbourhood) -> Floats | float:
        """How many bills of a window may ask this of a member, (..., m), each for a part of it: so
        a leaf of the graph pays as a hub does."""
        return neighbourhood.degrees if self.rule.edge_local else neighbourhood.referees

    def charged(self, neighbourhood: Neighbourhood) -> Floats:
        """What each billed member is charged: (..., m), per unit price. A lone member, whose
        penalty nobody could be handed, has none."""
        if self.rule.edge_local:
            charged = _charged(self, neighbourhood)
        else:
            first, second = neighbourhood.halves()
            charged = np.zeros(neighbourhood.energies.shape)
            if second.any():
                for half in (first, second):
                    beside = _charged(self, neighbourhood.beside(half))
                    charged = np.where(half, beside, charged)
                charged = np.where(second.any(axis=-1, keepdims=True), charged, 0.0)
        return np.where(neighbourhood.billed(), charged, 0.0)


@dataclass(frozen=True, slots=True)
class Payments:
    """A run's payment rule: a sum of terms; no terms is `none`, which settles nothing."""

    terms: tuple[Term, ...]

    @property
    def text(self) -> str:
        """The canonical spec: equal rules have equal text however they were typed."""
        return " + ".join(term.text for term in self.terms) or "none"

    @property
    def settles(self) -> bool:
        """Whether there is anything to settle: False only for `none`."""
        return bool(self.terms)

    def rows(self, neighbourhood: Neighbourhood) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What each member pays: transfers (..., m), which sum to 0, and charges (..., m), which
        the referee gets; micro-credits. Penalties and charges are each rounded once, half to even;
        each half of the members is handed what the other pays, in equal parts.

        What a half cannot be handed in equal parts goes to its member with the lowest id.

        Raises:
            AmountError: a charge is not a number.
            ConfigurationError: a user's rule returned the wrong shape.
        """
        return _handed(neighbourhood, *self._sums(neighbourhood)[-1])

    def shares(self, neighbourhood: Neighbourhood) -> NDArray[np.int64]:
        """What of a member's amount each term makes: micro-credits (terms, ..., m), whose sum over
        the terms is exactly transfers + charges of `rows`.

        Raises: as `rows`.
        """
        sums = [np.add(*_handed(neighbourhood, *sums)) for sums in self._sums(neighbourhood)]
        return np.diff(np.stack(sums), axis=0)

    def _sums(self, neighbourhood: Neighbourhood) -> list[tuple[Floats, Floats]]:
        """Penalties and charges (..., m) in credits after no term, the first, the first two, …"""
        shape = neighbourhood.energies.shape
        sums = [(np.zeros(shape), np.zeros(shape))]
        # Overflow shows as an infinity, which `to_micro` cuts off.
        with np.errstate(over="ignore", invalid="ignore"):
            for term in self.terms:  # in the order of the spec: float addition is not associative
                penalties, charges = sums[-1]
                due = term.price * term.charged(neighbourhood) / term.bills(neighbourhood)
                if term.rule.edge_local:
                    charges = charges + due
                else:
                    penalties = penalties + due
                sums.append((penalties, charges))
        return sums


def referees_of(around: Iterable[_Agent], neighbours: Mapping[_Agent, Collection[_Agent]]) -> int:
    """How many of an agent's neighbours `around` have another one, and 1 where none has."""
    return max(1, sum(len(neighbours[one]) > 1 for one in around))


def _handed(
    neighbourhood: Neighbourhood, penalties: Floats, charges: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Transfers and charges (..., m), in micro-credits, of penalties and charges in credits."""
    pays = to_micro(penalties)
    transfers = pays.copy()
    for payers, takers in zip(halves := neighbourhood.halves(), reversed(halves), strict=True):
        pot = np.where(payers, pays, 0).sum(axis=-1, keepdims=True)
        each, left = np.divmod(pot, np.maximum(takers.sum(axis=-1, keepdims=True), 1))
        lowest = takers & (np.cumsum(takers, axis=-1) == 1)
        transfers -= np.where(takers, each, 0) + np.where(lowest, left, 0)
    return transfers, to_micro(charges)


def _charged(term: Term, neighbourhood: Neighbourhood) -> Floats:
    with users_errors(f"rule {term.text!r}: charges() failed"):
        charged = np.asarray(term.rule.charges(neighbourhood), dtype=np.float64)
    if charged.shape != neighbourhood.energies.shape:
        raise ConfigurationError(
            f"rule {term.text!r}: charges have shape {charged.shape}, "
            f"energies {neighbourhood.energies.shape}; return one charge a member, with the batch "
            "axes in front"
        )
    return charged


def parse_rule(text: str) -> Payments:
    """Parse `none`, `norm:PRICE`, `module:Class@PRICE` or a sum of rules joined by ` + `.

    Raises:
        ConfigurationError: unknown rule, missing or bad price, a rule named twice, or a user's
            class that is no rule.
    """
    if not text.strip():
        raise ConfigurationError("rule: empty; write none or a rule with a price such as norm:2e-5")
    if text.strip() == "none":
        return Payments(())
    terms = tuple(_term(part.strip()) for part in _SUM.split(text.strip()))
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"rule {text!r}: {name} is named twice; add up its prices")
    return Payments(terms)


def _term(text: str) -> Term:
    path, at, price_text = text.rpartition("@")
    if at and is_import_path(path):
        price = _price(price_text, text)
        return Term(f"{path}@{price!r}", price, _user_rule(path))
    if is_import_path(text):
        raise ConfigurationError(f"rule {text!r}: no price; write {text}@PRICE")
    spec = parse_spec(text)
    if spec.name == "none":
        raise ConfigurationError(f"rule {text!r}: none stands alone, without a price or a sum")
    if spec.name not in _RULES:
        known = ", ".join(["none", *sorted(_RULES)])
        raise ConfigurationError(
            f"rule {text!r}: unknown rule {spec.name!r}; known are {known} and module:Class@PRICE"
        )
    if spec.value is None:
        raise ConfigurationError(f"rule {text!r}: no price; write {spec.name}:PRICE")
    price = _price(str(spec.value), text)
    return Term(f"{spec.name}:{price!r}", price, _RULES[spec.name]())


def _price(text: str, where: str) -> float:
    try:
        price = float(text)
    except ValueError:
        raise ConfigurationError(
            f"rule {where!r}: price {text!r} is not a number; join rules with ' + '"
        ) from None
    if not (math.isfinite(price) and price >= 0):
        raise ConfigurationError(f"rule {where!r}: a price is finite and not negative, got {text}")
    return price


def _user_rule(path: str) -> Rule:
    rule: object = build_object(path, "rule")
    if not isinstance(rule, Rule):
        raise ConfigurationError(f"rule {path!r}: needs edge_local and charges(neighbourhood)")
    _try_out(rule, path)
    return rule


def _try_out(rule: Rule, path: str) -> None:
    """Run a user's rule once, so that a bad one is refused before a run and not in it."""
    rounds = np.ones((2, 3, 4), dtype=np.bool_)
    traces, products = np.ones((2, 3, 4, 5)), np.full((2, 3, 4, 4), 5.0)
    tried = Neighbourhood(np.full((2, 3), 20.0), rounds, traces, products, referee=0)
    _charged(Term(path, 1.0, rule), tried)
