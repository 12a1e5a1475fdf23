"""Rules for idlers that look busy: `originality` finds copies, `persistence` finds directions that
no data could give. Both go beside `band`, which sees neither.

Everything here is the same on every machine to the last bit, as in `mechanisms.payments.band`.
"""

from typing import Final

import numpy as np

from candor.mechanisms.payments.band import (
    CAP,
    TAU_ALONE,
    Floats,
    Mask,
    Neighbourhood,
    OfParts,
    Part,
    lower_median,
    ordered_sum,
    pairs_of,
    part,
    squared_sum,
)

LAGS: Final = (1, 2, 3)
"""Ages in rounds at which a copy is looked for; 1 is the youngest that anyone can have."""
PAIRS_MIN: Final = 4
"""Fewer pairs of rounds judge nobody: one cosine may be high by chance, a median of four is not."""
NOTHING: Final = 2.0**-30
"""A member with at most this part of the largest energy injected nothing: what is left is float32's
rounding, which differs from machine to machine, and whose directions mean nothing."""


class Originality(OfParts):
    """`originality`: whoever repeats what another member injected some rounds before pays.

    c_ik = lower median over the window of cos(u_i,t, u_k,t-l). The threshold is the members' own:
    who does its own work resembles what k did before no more than the two resemble what they did
    themselves, a = max(0, c_ii, c_kk). (With c_kk alone, k could frame a steady i by resembling it
    in every other round.) p_i = CAP times the largest (c_ik - b)+ / (1 - b) over k and l, with
    b = (1 + a) / 2, so that a true copy is charged CAP whatever the data. c_ii and c_kk are of
    exact products, c_ik of traces, by their own lengths: what a copier adds and hides from its
    trace leaves its trace a copy.
    """

    edge_local = False

    def parts(self, neighbourhood: Neighbourhood) -> tuple[Part, ...]:
        """Penalties (..., m), at most `CAP`; the value is the cosine that comes out worst."""
        mask, units = neighbourhood.mask, _units(neighbourhood)
        members = np.arange(mask.shape[-2])
        worst = np.full(mask.shape[:-1], -np.inf)
        value, free = np.zeros(worst.shape), np.ones(worst.shape)
        for lag in LAGS:
            own = np.stack(
                [_lagged_own(neighbourhood, i, lag) for i in range(len(members))], axis=-1
            )
            for i in range(len(members)):
                copied = _lagged(mask, units, i, lag)  # (..., m), of each k
                like = np.minimum(np.maximum(np.maximum(own[..., i, None], own), 0.0), 1.0)
                half = (1.0 + like) / 2.0
                share = _beyond(copied, half)
                # Where nothing is charged, what comes nearest to it.
                score = np.where(share > 0, share, copied - half)
                score = np.where((members == i) | np.isnan(score), -np.inf, score)
                k = score.argmax(axis=-1)[..., np.newaxis]  # the first of equals
                top = np.take_along_axis(score, k, axis=-1)[..., 0]
                worse = top > worst[..., i]
                worst[..., i] = np.where(worse, top, worst[..., i])
                for held, new in ((value, copied), (free, half)):
                    of_k = np.take_along_axis(new, k, axis=-1)[..., 0]
                    held[..., i] = np.where(worse, of_k, held[..., i])
        penalty = CAP * np.maximum(worst, 0.0)
        return (part("cosine to what a neighbour did before", penalty, value, -1.0, free),)


def _beyond(copied: Floats, half: Floats) -> Floats:
    """How far a cosine is on its way from `half` to 1: 0 to 1."""
    room = 1.0 - half
    share = np.where(room > 0, (copied - half) / np.where(room > 0, room, 1.0), 0.0)
    return np.asarray(np.minimum(np.maximum(share, 0.0), 1.0))


def _units(neighbourhood: Neighbourhood) -> Floats:
    """Traces (r, ..., m, W) at length 1; zero ones stay zero."""
    traces = np.ascontiguousarray(np.moveaxis(neighbourhood.traces, -1, 0))
    length = np.sqrt(ordered_sum(traces * traces, 0))
    return np.asarray(np.where(length > 0, traces / np.where(length > 0, length, 1.0), 0.0))


def _lagged(mask: Mask, units: Floats, i: int, lag: int) -> Floats:
    """Lower medians of cos(u_i,t, u_k,t-lag) over a window, (..., m) of all k; 0 where too few
    rounds have it."""
    known = mask[..., i, np.newaxis, lag:] & mask[..., :-lag]  # (..., m, W - lag)
    if known.shape[-1] < PAIRS_MIN:
        return np.zeros(known.shape[:-1])
    return _usual(ordered_sum(units[..., i, np.newaxis, lag:] * units[..., :-lag], 0), known)


def _lagged_own(neighbourhood: Neighbourhood, i: int, lag: int) -> Floats:
    """The same of a member with itself, from its exact products."""
    mask, lengths = neighbourhood.mask[..., i, :], np.sqrt(neighbourhood.squares[..., i, :])
    known = mask[..., lag:] & mask[..., :-lag]
    if known.shape[-1] < PAIRS_MIN:
        return np.zeros(known.shape[:-1])
    products = np.diagonal(neighbourhood.products[..., i, :, :], -lag, axis1=-2, axis2=-1)
    both = lengths[..., lag:] * lengths[..., :-lag]  # (..., W - lag)
    cosines = np.where(both > 0, products / np.where(both > 0, both, 1.0), 0.0)
    return _usual(cosines, known)


def _usual(cosines: Floats, known: Mask) -> Floats:
    """The lower median (...) of cosines (..., pairs) of those `known`; 0 of too few."""
    return np.where(known.sum(axis=-1) >= PAIRS_MIN, lower_median(cosines, known), 0.0)


class Persistence(OfParts):
    """`persistence`: whoever's rounds have less in common than everyone else's pays.

    One shard of data and a model that moves slowly give rounds that resemble each other; fresh
    random directions or alternating signs do not. kappa_i = ||U_i||^2 / E_i is 1 for directions
    that have nothing to do with each other, more for real ones. p_i = lower median over the others
    k of (kappa_k / kappa_i - tau)+, capped, over the rounds that both have; nobody is compared who
    injected `NOTHING`. One-sided: to be steadier than the others is free here, and `band` sees a
    steady direction that is not theirs.
    """

    edge_local = False

    def parts(self, neighbourhood: Neighbourhood) -> tuple[Part, ...]:
        """Penalties (..., m), at most `CAP`."""
        mask, squares = neighbourhood.mask, neighbourhood.squares
        total = ordered_sum(np.where(mask, squares, 0.0), -1)  # (..., m)
        busy = total > NOTHING * total.max(axis=-1, keepdims=True)
        common = mask[..., :, np.newaxis, :] & mask[..., np.newaxis, :, :]  # (..., m, m, W)
        own, seen = _steadiness(neighbourhood, common)  # of i where both i and k have a round
        enough = (common.sum(axis=-1) > PAIRS_MIN) & seen & np.swapaxes(seen, -1, -2)
        known = enough & pairs_of(busy)
        ratio = _steadier(own, np.swapaxes(own, -1, -2))
        value = lower_median(ratio, known)
        penalty = np.asarray(np.minimum(np.maximum(value - TAU_ALONE, 0.0), CAP))
        return (part("a neighbour's steadiness over its own", penalty, value, 0.0, TAU_ALONE),)


def _steadiness(neighbourhood: Neighbourhood, common: Mask) -> tuple[Floats, Mask]:
    """||sum_t u_t||^2 / sum_t ||u_t||^2 of each member over the rounds that it has in `common`
    with each (..., m, m, W), and where anything was injected: (..., m, m)."""
    squares = neighbourhood.squares[..., np.newaxis, :]
    energy = ordered_sum(np.where(common, squares, 0.0), -1)
    there = energy > 0
    rows = range(common.shape[-3])
    length = np.stack([squared_sum(neighbourhood, i, common[..., i, :, :]) for i in rows], axis=-2)
    return np.where(there, length / np.where(there, energy, 1.0), 0.0), there


def _steadier(one: Floats, other: Floats) -> Floats:
    """How many times `one` goes into `other`; 0 where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray(np.where(other > 0, other / one, 0.0))  # over 0 it is infinite: the cap
