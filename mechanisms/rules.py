"""Payment rules: what a referee charges its neighbours, and the grammar in which a run names them.

A rule maps the claimed energies and directions of a referee's neighbours to charges, in credits per
unit price. Rules are batch-first: leading axes may be windows, runs or price grids. A run's rule is
a sum of rules with one price each, written `norm:2e-5` or `norm:2e-5 + my_module:MyRule@1e-4`.
What is done with the charges, bills and settlements, is in `mechanisms.payments`.
"""

import math
import re
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mechanisms.credits import to_micro_each
from topologies.specs import ConfigurationError, is_import_path, load_object, parse_spec

_SUM = re.compile(r"\s+\+\s+")  # spaces are required: `1e+5` holds a plus too


@runtime_checkable
class Rule(Protocol):
    """One payment rule, in credits per unit price.

    `edge_local`: the charge of a member depends on that member's claim alone.
    `uses_directions`: the rule reads `directions`; others are given an empty last axis.
    """

    edge_local: bool
    uses_directions: bool

    def charges(
        self, energies: NDArray[np.float64], directions: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What each member pays the referee's edge.

        Args:
            energies: (..., members), E_k of the referee's neighbours, sorted by id.
            directions: (..., members, k), S U_k of the same.

        Returns:
            (..., members) float64 charges per unit price; negative ones are paid to the member.
        """
        ...


class Norm:
    """`norm`: each member is charged its energy, so an edge settles C (E_i - E_j)."""

    edge_local = True
    uses_directions = False

    def charges(
        self, energies: NDArray[np.float64], directions: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The energies themselves."""
        del directions
        return energies


_RULES: Final[dict[str, type[Rule]]] = {"norm": Norm}


@dataclass(frozen=True, slots=True)
class Term:
    """One rule of a sum: `price` in credits per unit of the rule's charge."""

    text: str
    price: float
    rule: Rule


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

    @property
    def uses_directions(self) -> bool:
        """Whether any term reads directions."""
        return any(term.rule.uses_directions for term in self.terms)

    def amounts(
        self, energies: NDArray[np.float64], directions: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """What each member is charged: (..., members) micro-credits, rounded once, half to even.

        Raises:
            AmountError: a charge is not finite or too large to be money.
            ConfigurationError: a user's rule returned the wrong shape.
        """
        total = np.zeros(energies.shape)
        # Overflow shows as an infinity, which `to_micro_each` refuses.
        with np.errstate(over="ignore", invalid="ignore"):
            for term in self.terms:  # in the order of the spec: float addition is not associative
                charges = np.asarray(term.rule.charges(energies, directions), dtype=np.float64)
                if charges.shape != energies.shape:
                    raise ConfigurationError(
                        f"rule {term.text!r}: charges have shape {charges.shape}, "
                        f"energies {energies.shape}; return one charge a member"
                    )
                total = total + term.price * charges
        return to_micro_each(total)


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
    names = [term.text.rpartition("@" if "@" in term.text else ":")[0] for term in terms]
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
    factory = load_object(path, "rule")
    if not isinstance(factory, type):
        raise ConfigurationError(f"rule {path!r}: not a class")
    try:
        rule = factory()
    except Exception as exc:  # the user's constructor may raise anything
        raise ConfigurationError(
            f"rule {path!r}: cannot be built without arguments ({type(exc).__name__}: {exc})"
        ) from exc
    if not isinstance(rule, Rule):
        raise ConfigurationError(
            f"rule {path!r}: needs edge_local, uses_directions and charges(energies, directions)"
        )
    if not rule.edge_local:
        raise ConfigurationError(
            f"rule {path!r}: edge_local is false; this version settles edge-local rules only"
        )
    _try_out(rule, path)
    return rule


def _try_out(rule: Rule, path: str) -> None:
    """Run a user's rule once, so that a bad one is refused before a run and not in it."""
    try:
        charges = np.asarray(rule.charges(np.ones(2), np.ones((2, 4))), dtype=np.float64)
    except Exception as exc:  # the user's code may raise anything
        raise ConfigurationError(
            f"rule {path!r}: charges() failed ({type(exc).__name__}: {exc})"
        ) from exc
    if charges.shape != (2,):
        raise ConfigurationError(
            f"rule {path!r}: charges() gave shape {charges.shape} for two members; "
            "return one charge a member"
        )
