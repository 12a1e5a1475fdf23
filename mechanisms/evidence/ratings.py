"""What a statement may say of others where models are traded: ratings that follow from statements.

The reputations in a statement of round t follow from those in the agent's own one of round t - 1
and from the scores of that round; the scores from the traces that all of whom the agent heard have
stated, and from how new each of these was; how many groups it gives, from the reputations. Whoever
has the agent's statement and those that its row names can check all of it but for how new a trace
was: that takes the statements which its agent's row names in turn, as everybody has of itself.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.evidence.sketch import TraceFold, window_of
from candor.mechanisms.evidence.statements import (
    EvidenceError,
    Floats,
    Ratings,
    Row,
    SignedStatement,
    Source,
    Statement,
)
from candor.mechanisms.rewards.barter import (
    Barter,
    Groups,
    Rating,
    novelty,
    scores_of,
    sections,
    ways,
)

RATING: Final = "rating"
MODEL: Final = 0  # the one phase of algorithms whose models are traded


@dataclass(frozen=True, slots=True)
class Trade:
    """How a run's agents rate and trade: the rule, who is around each agent (itself and all its
    neighbours, ascending), and of how many buckets sketches are."""

    barter: Barter
    around: Callable[[str], tuple[str, ...]]
    groups: Groups

    def shared(self, one: Statement, other: Statement) -> int:
        """How many groups two agents mix of each other's: what both give."""
        assert one.ratings is not None
        assert other.ratings is not None
        return min(one.ratings.given(other.agent), other.ratings.given(one.agent))


def check_stated(statement: Statement, trace_size: int) -> None:
    """That a statement has a trace of the run's length and ratings.

    Raises:
        EvidenceError: with `RATING`.
    """
    if statement.ratings is None or len(statement.ratings.trace) != 4 * trace_size:
        raise EvidenceError(RATING, f"{statement.agent} states no trace")


def check_given(statement: Statement, trade: Trade, trace_size: int) -> None:
    """That a statement says of all around its agent, and of nobody else, what it gives them, and
    that this is what their reputations earn, shares of one.

    Raises:
        EvidenceError: with `RATING`.
    """
    check_stated(statement, trace_size)
    ratings = _ratings(statement)
    if tuple(k for k, _ in ratings.of) != trade.around(statement.agent):
        raise EvidenceError(RATING, "not of those around it")
    reputations = {k: rating.reputation for k, rating in ratings.of}
    if max(reputations.values()) > 1.0:  # sums of larger ones could overflow
        raise EvidenceError(RATING, "a reputation above one")
    earned = trade.barter.earned(reputations, trade.groups)
    for agent, rating in ratings.of:
        if rating.groups != earned[agent]:
            detail = f"gives {agent} {rating.groups} groups, of {earned[agent]} that it earns"
            raise EvidenceError(RATING, detail)


def ratings_after(
    agent: str,
    t: int,
    row: Row,
    sources: Mapping[Source, Statement],
    novelties: Mapping[Source, float],
    trade: Trade,
    window_rounds: int,
) -> dict[str, Rating]:
    """What an agent thinks in round t of those around it, having mixed by `row` in the round
    before: `sources` are the statements that the row names."""
    around = trade.around(agent)
    if not _goes_on(agent, t, row):
        return trade.barter.equal(around, trade.groups)
    before = _reputations(sources[t - 1, MODEL, agent])
    if not rates(t - 1, window_rounds):
        return trade.barter.rated(before, {}, trade.groups)
    stated = {k: sources[t - 1, MODEL, k] for k, _ in row.weights}
    new = {k: novelties[t - 1, MODEL, k] for k in stated}
    return trade.barter.rated(before, _scores(agent, before, stated, new), trade.groups)


def check_ratings(
    statement: Statement,
    sources: Mapping[Source, SignedStatement],
    novelties: Mapping[Source, float],
    trade: Trade,
    window_rounds: int,
) -> None:
    """That ratings follow from the statements that a row names, and from how new they were as far
    as that is known; of others no score is above what a wholly new trace would have.

    Raises:
        EvidenceError: with `RATING`.
    """
    ratings, row = statement.ratings, statement.formed[MODEL]
    assert ratings is not None
    assert isinstance(row, Row)
    agent, t = statement.agent, statement.round
    said = {k: rating.score for k, rating in ratings.of}
    rated: dict[str, float] = {}
    if not _goes_on(agent, t, row):
        due = trade.barter.equal(trade.around(agent), trade.groups)
    else:
        before = _reputations(sources[t - 1, MODEL, agent].statement)
        if tuple(before) != trade.around(agent):  # of one that was never sent here
            raise EvidenceError(RATING, "its reputations before are not of those around it")
        if rates(t - 1, window_rounds):
            stated = {k: sources[t - 1, MODEL, k].statement for k, _ in row.weights}
            rated = {k: said[k] for k in stated}
            known = {k: novelties.get((t - 1, MODEL, k)) for k in stated}
            _check_scores(agent, before, stated, known, said)
        due = trade.barter.rated(before, rated, trade.groups)
    for k, rating in ratings.of:
        if rating != due[k]:
            detail = f"its reputation of {k} is {rating.reputation:g}, not {due[k].reputation:g}"
            raise EvidenceError(RATING, detail)


def check_stated_trace(stated: Floats, shown: NDArray[np.float32], tolerance: float) -> None:
    """That a stated trace (r,) is the one that its statement shows.

    Raises:
        EvidenceError: with `RATING`.
    """
    expected = shown.astype(np.float64)
    apart = stated - expected
    if not math.sqrt(apart @ apart) <= tolerance * (math.sqrt(expected @ expected) + 1e-300):
        raise EvidenceError(RATING, "its trace is not that of what it injected")


def novelty_of(
    statement: Statement, sources: Mapping[Source, Statement], groups: Groups, fold: TraceFold
) -> float:
    """How new a statement's trace is, of the statements that its row names; `fold` is that of its
    window."""
    agent, place = statement.agent, (statement.round - 1, MODEL)
    others = [sources[at] for at in sorted(sources) if at[2] != agent]
    before = [_ratings(one).values for one in others]
    own = sources.get((*place, agent))
    with np.errstate(all="ignore"):  # of an own diverged one, which nobody is sent
        if own is not None:  # else it came back
            start = _model(own, fold) + own.step_size * _ratings(own).values
            models = [_model(one, fold) for one in others]
            given = [_ratings(one).given(agent) for one in others]
            before += ways(start, models, given, groups.count)
        return novelty(_ratings(statement).values, before)


def _model(statement: Statement, fold: TraceFold) -> Floats:
    """The trace (r,) of a stated model."""
    return fold.exact(np.frombuffer(statement.sketch, "<f8"))


def mixed_sketch(
    statement: Statement,
    row: Row,
    sources: Mapping[Source, Statement],
    sketches: Mapping[str, Floats],
    initial: Floats | None,
    trade: Trade,
) -> Floats:
    """The sketch (k,) of what a statement's agent mixed by a row over the round before, of those
    that the others stated.

    Raises:
        EvidenceError: it came back with a part of a model, and `initial` is None.
    """
    agent, place = statement.agent, (statement.round - 1, MODEL)
    own = sources.get((*place, agent))
    if own is None:  # it came back
        ((peer, _),) = row.weights
        end = trade.groups.bound(_ratings(sources[*place, peer]).given(agent))
        if end < len(sketches[peer]) and initial is None:
            raise EvidenceError("witness-missing", "the initial model")
        rest = sketches[peer] if initial is None else initial
        return np.concatenate([sketches[peer][:end], rest[end:]])
    taken = {k: w for k, w in row.weights if k != agent}
    traded = {k: trade.shared(own, sources[*place, k]) for k in taken}
    value = np.zeros_like(sketches[agent])
    for low, high, weights in sections(agent, taken, traded, trade.groups):
        for k, weight in sorted(weights.items()):
            value[low:high] += weight * sketches[k][low:high]
    return value


def rates(t: int, window_rounds: int) -> bool:
    """Whether updates of a round are rated: not those of the first one of a window, whose traces
    are under other signs than those of the round before."""
    return t == 1 or window_of(t, window_rounds) == window_of(t - 1, window_rounds)


def _goes_on(agent: str, t: int, row: Row) -> bool:
    """Whether an agent has ratings of the round before."""
    return t > 1 and any(k == agent for k, _ in row.weights)


def _ratings(statement: Statement) -> Ratings:
    assert statement.ratings is not None
    return statement.ratings


def _reputations(statement: Statement) -> dict[str, float]:
    return {k: rating.reputation for k, rating in _ratings(statement).of}


def _scores(
    agent: str,
    before: Mapping[str, float],
    stated: Mapping[str, Statement],
    new: Mapping[str, float],
) -> dict[str, float]:
    traces = {k: _ratings(one).values for k, one in stated.items()}
    return scores_of(agent, before, traces, new)


def _check_scores(
    agent: str,
    before: Mapping[str, float],
    stated: Mapping[str, Statement],
    known: Mapping[str, float | None],
    said: Mapping[str, float],
) -> None:
    with np.errstate(all="ignore"):  # of reputations that nobody was ever sent
        most = _scores(agent, before, stated, dict.fromkeys(stated, 1.0))
        due = _scores(agent, before, stated, {k: v or 0.0 for k, v in known.items()})
    for k, new in known.items():
        least, largest = sorted((0.0, most[k]))
        if said[k] != due[k] if new is not None else not least <= said[k] <= largest:
            raise EvidenceError(RATING, f"its score of {k} is {said[k]:g}, not {due[k]:g}")
