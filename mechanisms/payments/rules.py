"""Payment rules: what a referee charges its neighbours, and the grammar in which a run names them.

A rule maps what a neighbourhood's claims show to charges, in credits per unit price. Rules are
batch-first: leading axes may be windows, runs or price grids. A run's rule is a sum of rules with
one price each, written `band:5e-4 + norm:2e-5` or `norm:2e-5 + my_module:MyRule@1e-4`. The rules
themselves are in `mechanisms.payments.band` and `mechanisms.payments.idling`; what is done with the
charges, in `mechanisms.payments.bills`.
"""

import math
import re
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.payments.band import Band, Norm, PeerPrediction, Variance, ordered_sum
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


@runtime_checkable
class Rule(Protocol):
    """One payment rule, in credits per unit price.

    `edge_local`: a charge depends on the member's claim alone, and goes to the referee; otherwise
    charges are penalties, which are shared out among the other members.
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
    "norm": Norm,
    "originality": Originality,
    "peer-prediction": PeerPrediction,
    "persistence": Persistence,
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

    def due(self, neighbourhood: Neighbourhood) -> tuple[Floats, Floats]:
        """What each billed member is charged, and what of it is left when the others have got their
        share: (..., m), per unit price."""
        members = neighbourhood.billed()
        charged = np.where(members, _charged(self, neighbourhood), 0.0)
        return charged, charged if self.rule.edge_local else _shared_out(charged, members)


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
        the referee gets; micro-credits, each rounded once, half to even.

        What rounding leaves of a sum of transfers goes to the member with the lowest id.

        Raises:
            AmountError: a charge is not finite or too large to be money.
            ConfigurationError: a user's rule returned the wrong shape.
        """
        members = neighbourhood.billed()  # (..., m)
        transfers, charges = self._sums(neighbourhood)[-1]
        whole = to_micro(transfers)
        first = np.argmax(members, axis=-1, keepdims=True)  # (..., 1), of nobody: nothing to give
        remainder = whole.sum(axis=-1, keepdims=True)
        settled = np.take_along_axis(whole, first, axis=-1) - remainder
        np.put_along_axis(whole, first, settled, axis=-1)
        return whole, to_micro(charges)

    def shares(self, neighbourhood: Neighbourhood) -> NDArray[np.int64]:
        """What of a member's amount each term makes, and last what rounding adds: micro-credits
        (terms + 1, ..., m), whose sum over the terms is exactly transfers + charges of `rows`.

        Raises: as `rows`.
        """
        sums = [to_micro(transfers) + to_micro(charges)
                for transfers, charges in self._sums(neighbourhood)]  # fmt: skip
        return np.diff(np.stack([*sums, np.add(*self.rows(neighbourhood))]), axis=0)

    def _sums(self, neighbourhood: Neighbourhood) -> list[tuple[Floats, Floats]]:
        """Transfers and charges (..., m) in credits after no term, the first, the first two, …"""
        shape = neighbourhood.energies.shape
        sums = [(np.zeros(shape), np.zeros(shape))]
        # Overflow shows as an infinity, which `to_micro` refuses.
        with np.errstate(over="ignore", invalid="ignore"):
            for term in self.terms:  # in the order of the spec: float addition is not associative
                transfers, charges = sums[-1]
                _, due = term.due(neighbourhood)
                if term.rule.edge_local:
                    charges = charges + term.price * due
                else:
                    transfers = transfers + term.price * due
                sums.append((transfers, charges))
        return sums


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


def _shared_out(penalties: Floats, members: NDArray[np.bool_]) -> Floats:
    """Each member's penalty less the mean of the other members': (..., m); 0 for a lone one."""
    total = ordered_sum(penalties, -1)[..., np.newaxis]
    others = members.sum(axis=-1, keepdims=True) - 1
    mean = (total - penalties) / np.maximum(others, 1)
    return np.where(members & (others > 0), penalties - mean, 0.0)


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
    tried = Neighbourhood(np.full((2, 3), 20.0), rounds, np.ones((2, 3, 4, 5)), referee=0)
    _charged(Term(path, 1.0, rule), tried)
