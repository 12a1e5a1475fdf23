"""A cell in one line: what the best lie gains, what honest agents pay; prices on other cells."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from candor.agent.studies.audit.incentives import Deviation
from candor.agent.studies.audit.members import Member
from candor.agent.studies.audit.question import Reward
from candor.agent.studies.audit.verdicts import Judged, Liar, Verdict
from candor.agent.studies.audit.worth import More, Worth
from candor.agent.studies.honesty.cells import Cell
from candor.agent.studies.honesty.report import lie_columns, lie_rows, sentences
from candor.agent.studies.honesty.table import (
    Lie,
    best_lie,
    judged,
    moved,
    prices_of,
    row_of,
    setting_of,
)

TERMS = ("scaled", "originality")
CELL = Cell("digits", "ring", "iid")
WORTH = np.array([[1.0, 2.0, -1.0]])


def lie(
    name: str, gain: float, *charges: float, untrue: float = 1.0, searched: bool = False
) -> Judged:
    """A lie that gains and is charged alike on one seed, a charge a term; `untrue`: in how many of
    the rounds of its one window it is false."""
    gains, charged = np.array([gain]), np.array([charges])
    return Judged(
        name,
        "a0",
        Deviation(name, gains, charged),
        gains[:, np.newaxis],
        charged[:, np.newaxis],
        np.zeros(1),
        np.zeros(1),
        np.full((1, 1), untrue),
        unit=2.0,
        searched=searched,
    )


def verdict(*lies: Judged, prices: tuple[float, float], paid: list[list[float]]) -> Verdict:
    """Of three agents, to the last of which cooperation is worth nothing; `paid` an agent and term,
    in shares of its own."""
    members = tuple(Member(0, f"a{i}", degree) for i, degree in enumerate((1, 3, 2)))
    return Verdict(
        reward=Reward.COOPERATION,
        liars=(Liar(members[0], 1.0, own=True),),
        marks=np.array([0]),
        judged=lies,
        terms=TERMS,
        prices=np.array(prices),
        stated=np.ones(2),
        audit_rate=1.0,
        epsilon=0.01,
        worth=Worth(WORTH[:, : len(paid)]),
        members=members,
        honest_paid=np.array(paid),
        more=(More("twice the step", np.full((1, 3), 0.5)), More("twice the rounds", -WORTH)),
        accuracies=None,
        theory=0.0,
        stopping=None,
        covering=1.0,
    )


@pytest.fixture
def seen() -> Verdict:
    """The larger lie is charged more."""
    lies = lie("scale:4", 0.5, 4.0, 0.0), lie("stale-copy", 0.2, 0.0, 1.0)
    return verdict(*lies, prices=(0.1, 0.2), paid=[[0.0, 0.1], [0.2, 0.0], [9.0, 9.0]])


def test_the_best_lie_is_that_of_the_prices(seen: Verdict) -> None:
    assert best_lie(seen, np.zeros(2)) == Lie("scale:4", 0.5, math.inf, searched=False)
    priced = best_lie(seen, np.array([0.1, 0.05]))
    assert (priced.name, priced.gain) == ("stale-copy", pytest.approx(0.15))


def test_a_line_has_worth_training_lies_and_honest_payments(seen: Verdict) -> None:
    row = row_of(CELL, seen, "scaled:0.05")
    assert (row.agents, row.gaining, row.usual) == (3, pytest.approx(2 / 3), 1.5)
    assert row.undertrained == ("twice the step",)
    assert row.free.name == "scale:4"
    assert row.default.best.gain == pytest.approx(0.3)  # 0.5 less 4 x 0.05
    assert row.suggested.best.gain == pytest.approx(0.1)
    assert row.suggested == setting_of(seen, seen.prices)


def test_the_bond_is_for_what_shows_and_prices_for_what_does_not() -> None:
    steady = lie("scale:4", 0.5, 4.0, 0.0)
    seldom = lie("scale:4 @ 1-2", 0.2, 0.0, 0.0, untrue=0.25)
    blind = lie("label-flip", 0.109, 0.0, 1.0, untrue=0.0)
    found = verdict(steady, seldom, blind, prices=(9.0, 9.0), paid=[[0.0, 0.1], [0.2, 0.0]])
    again = row_of(CELL, found, "none").replayed
    assert again.blind == ("label-flip",)
    # (0.2 - 0.009) / 0.25 of its own 2 credits, where cooperation is worth 1.5 in the median.
    assert again.by == "scale:4 @ 1-2"
    assert again.bond == pytest.approx((0.2 - 0.009) / 0.25 * 2.0 / 1.5)
    assert again.setting.rule == "originality:0.1"
    assert again.setting.best.gain == pytest.approx(0.009)
    assert again.setting.worst == pytest.approx(0.01)
    none = verdict(lie("zero", -0.1, 0.0, 0.0), prices=(9.0, 9.0), paid=[[0.0, 0.1]] * 2)
    assert row_of(CELL, none, "none").replayed.bond == 0.0
    assert row_of(CELL, none, "none").replayed.by is None


def test_a_bound_is_told_beside_the_cell_without_it(seen: Verdict) -> None:
    bounded = replace(seen, judged=(lie("scale:4", 0.1, 9.0, 0.0),), worth=Worth(WORTH - 0.03))
    row = row_of(CELL, seen, "none", bounded, 2.0)
    assert row.bounded is not None
    assert (row.bounded.influence, row.bounded.free.gain) == (2.0, 0.1)
    assert row.bounded.cost == pytest.approx(0.02)  # 0.03 of the usual 1.5
    columns, (line,) = lie_columns([row]), lie_rows([row])
    assert len(line) == len(columns)
    assert line[-2:] == ("+10.00", "+2.00")
    told = row_of(CELL, seen, "none")
    assert len(lie_rows([told])[0]) == len(columns) - 2 == len(lie_columns([told]))
    assert "bound, free: the best lie gains at most 1 % in 0 of 1 cells" in sentences([row])[4]


def test_what_was_searched_is_told() -> None:
    found = verdict(
        lie("mix:own=2", 0.5, 0.0, 0.0, searched=True), prices=(0.0, 0.0), paid=[[0.0, 0.0]] * 2
    )
    assert lie_rows([row_of(CELL, found, "none")])[0][3] == "mix:own=2 (search)"


def test_who_pays_most_is_one_to_whom_cooperation_is_worth_something(seen: Verdict) -> None:
    setting = setting_of(seen, seen.prices)
    assert (setting.median, setting.worst) == (pytest.approx(0.02), pytest.approx(0.02))
    one = setting_of(seen, np.array([0.1, 0.1]))
    assert one.worst == pytest.approx(0.02)
    assert (one.payer.agent, one.term) == ("a1", "scaled")
    assert setting_of(seen, np.array([0.0, 1.0])).term == "originality"


def test_prices_are_those_of_the_rule_for_the_terms_that_are_judged(seen: Verdict) -> None:
    assert prices_of(seen, "originality:3").tolist() == [0.0, 3.0]
    assert prices_of(seen, "none").tolist() == [0.0, 0.0]
    assert setting_of(seen, seen.prices).rule == "scaled:0.1 + originality:0.2"


def test_the_first_prices_of_a_task_and_graph_are_judged_on_its_other_cells(seen: Verdict) -> None:
    there = verdict(lie("scale:4", 0.5, 2.0, 0.0), prices=(0.25, 0.0), paid=[[0.1, 0.0]] * 3)
    other = Cell("digits", "ring", "dirichlet:0.1")
    found = moved({CELL: seen, Cell("a9a", "ring", "iid"): seen, other: there})
    assert [(one.fitted, one.judged) for one in found] == [(CELL, other)]
    assert found[0].setting.best.gain == pytest.approx(0.3)  # at the first one's prices
    assert found[0].own.best.gain == pytest.approx(0.0)
    assert found[0].own.worst == pytest.approx(0.025)


def test_cells_without_shards_are_left_out_with_the_reason(tmp_path: Path) -> None:
    drawn = Cell("breast-cancer", "bipartite", "iid")
    none = Cell("breast-cancer", "bipartite", "dirichlet:alpha=0.5,min=500")
    told: list[tuple[str, int, int]] = []
    found, bounded, left = judged(
        [none, drawn],
        seeds=1,
        runs=tmp_path,
        lies=["scale:4"],
        influence=2.0,
        rounds=16,
        progress=lambda *step: told.append(step),
    )
    assert [*found] == [drawn]
    assert "partition" in left[none]
    for one in (found[drawn], bounded[drawn]):
        assert [lie.name for lie in one.judged] == ["scale:4"]
    assert told[-1][1:] == (5, 5)  # honest, alone, with more of two kinds, and the lie
    assert told[-1][0].startswith("2/2 breast-cancer · bipartite · iid")
