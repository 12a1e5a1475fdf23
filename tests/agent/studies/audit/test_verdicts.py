"""Prices that a rule states, and which lies did anything."""

from dataclasses import replace

import numpy as np

from candor.agent.studies.audit.incentives import Deviation
from candor.agent.studies.audit.question import TERMS
from candor.agent.studies.audit.verdicts import Judged, _stated
from candor.mechanisms.payments.bills import parse_rule
from candor.topologies.cluster.file import DEFAULT_RULE


def test_where_only_terms_are_given_the_default_rule_is_what_is_stated() -> None:
    terms, default = parse_rule(TERMS), parse_rule(DEFAULT_RULE)
    prices = {term.name: term.price for term in default.terms}
    assert prices.keys() <= {term.name for term in terms.terms}
    found = dict(zip((term.name for term in terms.terms), _stated(terms, None), strict=True))
    assert {name: price for name, price in found.items() if price} == prices
    assert _stated(terms, 2.0).tolist() == [1.0] * len(terms.terms)
    assert _stated(parse_rule("scaled:3 + excess:1"), None).tolist() == [3.0, 1.0]


def test_a_lie_whose_time_never_comes_has_not_acted() -> None:
    nothing, none = np.zeros(2), np.zeros((2, 1))
    deviation = Deviation("zero @ 99-", nothing, none)
    idle = Judged(
        "zero @ 99-", "a0", deviation, none, none[..., None], nothing, nothing, none, unit=1.0
    )
    assert not idle.acted
    assert replace(idle, untrue=np.array([[0.0], [0.5]])).acted
    assert replace(idle, strategy="label-flip").acted
    assert replace(idle, strategy="zero @ 99- + few:0.5").acted
