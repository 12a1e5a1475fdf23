"""What a neighbourhood's claims show, and the payment rules that are built in.

Everything here is the same on every machine to the last bit: sums run in a fixed order, medians are
lower medians, found by sorting. Arrays are batch-first; members m are a referee and its neighbours.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

TAU: Final = 2.0
"""Half-width of the band: noise and energy within a factor of 2 are free."""
TAU_ALONE: Final = 2.5
"""Where only one of them is out of place, as shards that differ may make it, more is free."""
TAU_NOISE: Final = 1.25
"""What noise may be above that of the neighbourhood before `variance` charges it."""
TAU_SCALED: Final = 4.0
"""What both may be before `scaled` charges: that of an exaggeration by 2."""
TAU_DIRECTION: Final = 4.0
"""Directions differ the most: what is up to 4 times as far away as others are from each other."""
CAP: Final = 50.0
"""Most that a ratio can cost: beside a neighbour that sends next to nothing it grows without end,
and so would an honest bill. What has no end in what it may do is charged by its energy, by
`excess` and `variance`, whose only bound is `payments.credits.PAYMENT_MAX`."""


@dataclass(frozen=True)
class Neighbourhood:
    """What a rule reads of a referee and its neighbours, the members, sorted by id.

    `energies` (..., m) over the charged rounds; `mask` (..., m, W) which rounds those are; `traces`
    (..., m, W, r), zero elsewhere: by these members are compared with each other. `products` (...,
    m, W, W): the exact inner products of a member's own updates in two charged rounds, zero
    elsewhere: of what a member does by itself nothing can be hidden. `referee`: its index among the
    members: it is compared with and never billed. In the run's graph, `degrees` (..., m): how many
    neighbours each member has; `referees` (..., m): how many of these have another neighbour, one
    at least, so that there is somebody to hand a penalty to. `window` (...,): the number of the
    window.
    """

    energies: Floats
    mask: Mask
    traces: Floats
    products: Floats
    referee: int
    degrees: Floats | float = 1.0
    referees: Floats | float = 1.0
    window: NDArray[np.int64] | int = 0

    def present(self) -> Mask:
        """Who has any charged round: (..., m)."""
        return np.asarray(np.asarray(self.mask.any(axis=-1)))

    def billed(self) -> Mask:
        """The neighbours that are present: (..., m)."""
        members = self.present().copy()
        members[..., self.referee] = False
        return members

    def halves(self) -> tuple[Mask, Mask]:
        """The billed members (..., m) in two halves, the first the larger, others in each window.

        Members of a half are compared with each other and with the referee, and those of the other
        half get what they pay: nobody gains by how others look beside it. Of n members in order of
        id, the first half are the ceil(n / 2) from number `window` mod n on, round and round.
        """
        members = self.billed()
        count = members.sum(axis=-1, keepdims=True)
        number = np.asarray(self.window, dtype=np.int64)[..., np.newaxis]
        turned = (np.cumsum(members, axis=-1) - 1 - number) % np.maximum(count, 1)
        first = members & (turned < (count + 1) // 2)
        return first, members & ~first

    def beside(self, half: Mask) -> Self:
        """Only some members (..., m), and the referee."""
        kept = half.copy()
        kept[..., self.referee] = True
        return replace(
            self,
            energies=np.where(kept, self.energies, 0.0),
            mask=self.mask & kept[..., np.newaxis],
            traces=np.where(kept[..., np.newaxis, np.newaxis], self.traces, 0.0),
            products=np.where(kept[..., np.newaxis, np.newaxis], self.products, 0.0),
        )

    @cached_property
    def squares(self) -> Floats:
        """The energy of each round: (..., m, W)."""
        return np.asarray(np.diagonal(self.products, axis1=-2, axis2=-1))

    @cached_property
    def noise(self) -> tuple[Floats, Mask]:
        """V_i (..., m), half the mean square of successive differences, and whose is known.

        The estimator of von Neumann (1941): what changes slowly, such as the gradient's own mean,
        cancels. Successive are charged rounds, whether or not there are others between them.
        """
        mask, squares = self.mask, self.squares
        total, pairs = np.zeros(mask.shape[:-1]), np.zeros(mask.shape[:-1], dtype=np.int64)
        last, seen = np.zeros_like(pairs), np.zeros(mask.shape[:-1], dtype=np.bool_)
        for t in range(mask.shape[-1]):
            here = mask[..., t]
            place = last[..., np.newaxis]
            product = np.take_along_axis(self.products[..., t, :], place, axis=-1)[..., 0]
            before = np.take_along_axis(squares, place, axis=-1)[..., 0]
            change = (before - product) + (squares[..., t] - product)
            total = total + np.where(here & seen, np.maximum(change, 0.0), 0.0)
            pairs = pairs + (here & seen)
            last, seen = np.where(here, t, last), seen | here
        return total / np.maximum(2 * pairs, 1), pairs > 0


@dataclass(frozen=True)
class Part:
    """One thing that a rule looks at, with what it asks for it: arrays (..., m), of each member.

    `penalty`: its part of the charge. `value`: what the member shows, free from `low` to `high`,
    which is where an honest agent is taken to be; infinite where there is no such end.
    """

    name: str
    penalty: Floats
    value: Floats
    low: Floats
    high: Floats


def part(
    name: str, penalty: Floats, value: Floats, low: Floats | float, high: Floats | float
) -> Part:
    """A part whose ends may be the same for all members."""
    shape = penalty.shape
    return Part(name, penalty, value, np.broadcast_to(low, shape), np.broadcast_to(high, shape))


class OfParts(ABC):
    """A rule that charges the sum of its parts."""

    @abstractmethod
    def parts(self, neighbourhood: Neighbourhood) -> tuple[Part, ...]:
        """What it looks at: one part or several."""

    def charges(self, neighbourhood: Neighbourhood) -> Floats:
        """The penalties of the parts, added in their order: (..., m)."""
        first, *others = (one.penalty for one in self.parts(neighbourhood))
        return sum(others, first)


def with_hidden(
    energies: Floats, mask: Mask, products: Floats, hidden: Floats
) -> tuple[Floats, Floats]:
    """Energies (...,) and products (..., W, W) with what sketches do not show of the energy of the
    rounds in `mask` (..., W): `hidden` (...,), 0 of who hides nothing.

    It counts as noise, as much of it in each of the rounds: of what nobody sees nobody can say that
    it goes anywhere.
    """
    each = hidden / np.maximum(mask.sum(axis=-1), 1)
    added = np.where(mask, each[..., np.newaxis], 0.0)  # (..., W)
    return energies + hidden, products + added[..., np.newaxis] * np.eye(mask.shape[-1])


def ordered_sum(values: Floats, axis: int) -> Floats:
    """Sum one axis in ascending order, one addition after the other, on every machine alike."""
    rows = np.moveaxis(values, axis, 0)
    flat = np.ascontiguousarray(rows.reshape(len(rows), -1))
    if flat.shape[1] == 1:
        flat = np.repeat(flat, 2, axis=1)  # a single column would be summed pairwise
    # Reducing the leading axis of a contiguous array adds whole rows in order.
    total: Floats = np.add.reduce(flat, axis=0)
    count = int(np.prod(rows.shape[1:]))
    return total[:count].reshape(rows.shape[1:])


def lower_median(values: Floats, known: Mask) -> Floats:
    """The lower median over the last axis of those `known`; 0 where none is."""
    return _ranked(values, known, (known.sum(axis=-1) - 1) // 2)


def upper_median(values: Floats, known: Mask) -> Floats:
    """The upper median over the last axis of those `known`; 0 where none is."""
    return _ranked(values, known, known.sum(axis=-1) // 2)


def _ranked(values: Floats, known: Mask, rank: NDArray[np.int64]) -> Floats:
    """The value of a rank (...) from 0 among those `known`; 0 where none is."""
    some = known.any(axis=-1)
    ordered = np.sort(np.where(known, values, np.inf), axis=-1)
    at = np.where(some, rank, 0)[..., np.newaxis]
    return np.where(some, np.take_along_axis(ordered, at, axis=-1)[..., 0], 0.0)


class Norm(OfParts):
    """`norm`: each member is charged its energy, so an edge settles C (E_i - E_j)."""

    edge_local = True

    def parts(self, neighbourhood: Neighbourhood) -> tuple[Part, ...]:
        """The energies themselves: none is free."""
        return (part("energy", neighbourhood.energies, neighbourhood.energies, 0.0, 0.0),)


class PeerPrediction(OfParts):
    """`peer-prediction`: the squared distance to the neighbourhood's mean, round by round.

    Dorner et al., equation (10), with the closed neighbourhood in place of the server's clients and
    traces in place of the updates, but for a member's own energy, which is exact: what it hides
    from its trace is far from the mean. The mean is that of the members present in the round.
    """

    edge_local = False

    def parts(self, neighbourhood: Neighbourhood) -> tuple[Part, ...]:
        """sum_t ||u_i,t||^2 - 2 <u_i,t, mean_t> + ||mean_t||^2: (..., m), none of it free."""
        mask, traces = neighbourhood.mask[..., np.newaxis], neighbourhood.traces
        count = np.maximum(mask.sum(axis=-3, keepdims=True), 1)
        mean = ordered_sum(traces, -3)[..., np.newaxis, :, :] / count  # (..., 1, W, r)
        beside = ordered_sum(mean * mean - 2.0 * traces * mean, -1)  # (..., m, W)
        apart = np.where(neighbourhood.mask, neighbourhood.squares + beside, 0.0)
        distance = np.maximum(ordered_sum(apart, -1), 0.0)
        return (part("squared distance from the mean", distance, distance, 0.0, 0.0),)


class Variance(OfParts):
    """`variance`: noise beyond that of the neighbourhood, the rest is free.

    p_i = n_i (V_i - `TAU_NOISE` upper median of V_k)+ over the other members k. Who scales its
    updates by a has a^2 times the noise, as it has a^2 times the energy that `norm` charges; but
    shards that differ have noise alike, and energies not. One-sided: less noise than the others'
    earns nothing, or smoothing and conforming would pay. The upper median, so that on a ring, where
    there are two others, one that sends nothing does not make honest noise look like an excess. It
    does not see who exaggerates the mean of more samples than the others draw: beside it there has
    to be a rule that looks at energies.
    """

    edge_local = False

    def parts(self, neighbourhood: Neighbourhood) -> tuple[Part, ...]:
        """Penalties (..., m); 0 for who has only one charged round, or nobody to compare with."""
        noise, known = neighbourhood.noise
        others = pairs_of(known)
        around = np.broadcast_to(noise[..., np.newaxis, :], others.shape)
        free = np.where(others.any(axis=-1), TAU_NOISE * upper_median(around, others), np.inf)
        rounds = neighbourhood.mask.sum(axis=-1)
        excess = np.maximum(noise - free, 0.0) * rounds
        return (part("noise, over all its rounds", excess, noise, 0.0, free),)


class Excess(OfParts):
    """`excess`: energy beyond that of the neighbourhood, the rest is free.

    p_i = n_i (E_i / n_i - `TAU_ALONE` upper median of E_k / n_k)+ over the other members k. Who
    keeps a direction has no noise for `variance`, and pays here for what is beyond the free part,
    all of it, however much. In energy, not in ratios: so an honest agent pays at most the price of
    what it injects, whatever its neighbours do.
    """

    edge_local = False

    def parts(self, neighbourhood: Neighbourhood) -> tuple[Part, ...]:
        """Penalties (..., m); 0 for who has nobody to compare with."""
        rounds = neighbourhood.mask.sum(axis=-1)
        energy = neighbourhood.energies / np.maximum(rounds, 1)
        others = pairs_of(neighbourhood.present())
        around = np.broadcast_to(energy[..., np.newaxis, :], others.shape)
        free = np.where(others.any(axis=-1), TAU_ALONE * upper_median(around, others), np.inf)
        penalty = np.maximum(energy - free, 0.0) * rounds
        return (part("energy, over all its rounds", penalty, energy, 0.0, free),)


class Scaled(OfParts):
    """`scaled`: energy and noise that are both beyond those of the neighbourhood.

    p_i = n_i min((E_i / n_i - tau M_E)+, (V_i - tau M_V)+), tau = `TAU_SCALED`, M the upper medians
    over the other members that have noise. Who scales its updates by a has a^2 times both, and pays
    as by `excess`; a shard that differs has the one or the other, and seldom both. The one that is
    less beyond counts, so that an honest agent pays at most what either rule would ask.
    """

    edge_local = False

    def parts(self, neighbourhood: Neighbourhood) -> tuple[Part, ...]:
        """Penalties (..., m); 0 for who has only one charged round, or nobody to compare with."""
        noise, known = neighbourhood.noise
        rounds = neighbourhood.mask.sum(axis=-1)
        energy = neighbourhood.energies / np.maximum(rounds, 1)
        others = pairs_of(known)

        def free(values: Floats) -> Floats:
            around = np.broadcast_to(values[..., np.newaxis, :], others.shape)
            some = others.any(axis=-1)
            return np.where(some, TAU_SCALED * upper_median(around, others), np.inf)

        of_energy, of_noise = free(energy), free(noise)
        less = np.minimum(energy - of_energy, noise - of_noise)
        penalty = np.maximum(less, 0.0) * rounds
        # The one that is shown is the one that is less beyond.
        by_noise = noise - of_noise <= energy - of_energy
        value, high = np.where(by_noise, noise, energy), np.where(by_noise, of_noise, of_energy)
        return (part("noise or energy, the less beyond", penalty, value, 0.0, high),)


class Band(OfParts):
    """`band`: noise, energies and directions near what the neighbourhood shows are free.

    p_i = v_i + e_i + d_i. Where shards differ, so do the lengths and directions of gradients, and
    less so their noise from one batch to the next. Whoever scales its update, sends nothing or an
    average of others' changes both, and v_i is what both noise and energy are beyond a factor of
    `TAU`, up or down: one alone may be the data's doing. e_i is an energy that is high whatever the
    noise, d_i a direction that is not the others', such as a flipped one. Noise and energies are
    those of a mean round, so that whoever was away for some rounds of a window is not charged.
    """

    edge_local = False

    def parts(self, neighbourhood: Neighbourhood) -> tuple[Part, ...]:
        """Penalties (..., m), each at most `CAP`."""
        present = neighbourhood.present()
        noise, known = neighbourhood.noise
        energy = neighbourhood.energies / np.maximum(neighbourhood.mask.sum(axis=-1), 1)
        energies, noises = _ratios(energy), _ratios(noise)
        # Of the two, the one that is less out of place beside a neighbour.
        lesser = np.where(_outside(noises) <= _outside(energies), noises, energies)
        both = _median_by(_outside(lesser), lesser, pairs_of(known))
        alone = lower_median(energies, pairs_of(present))
        direction = _direction(neighbourhood, present)
        ratio = "times a neighbour's"
        return (
            part(f"noise and energy, {ratio}", _outside(both), both, 1.0 / TAU, TAU),
            part(f"energy, {ratio}", _beyond(alone, TAU_ALONE), alone, 0.0, TAU_ALONE),
            part(
                "distance of directions, times that of others",
                _beyond(direction, TAU_DIRECTION), direction, 0.0, TAU_DIRECTION,
            ),
        )  # fmt: skip


def _median_by(key: Floats, values: Floats, known: Mask) -> Floats:
    """The value (...) whose key is the lower median over the last axis of those `known`; 1, which
    is in place, where none is."""
    order = np.argsort(np.where(known, key, np.inf), axis=-1, kind="stable")
    rank = np.maximum(known.sum(axis=-1) - 1, 0)[..., np.newaxis] // 2
    at = np.take_along_axis(order, rank, axis=-1)
    found = np.take_along_axis(values, at, axis=-1)[..., 0]
    return np.asarray(np.where(known.any(axis=-1), found, 1.0))


def pairs_of(present: Mask) -> Mask:
    """(..., m, m): whom each present member is compared with."""
    both = present[..., :, np.newaxis] & present[..., np.newaxis, :]
    return both & ~np.eye(present.shape[-1], dtype=np.bool_)


def _ratios(values: Floats) -> Floats:
    """Each member's value over each other's (..., m, m): 1 where both are 0."""
    one, other = values[..., :, np.newaxis], values[..., np.newaxis, :]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratios: Floats = np.where((one == 0) & (other == 0), 1.0, one / other)
    return ratios


def _beyond(ratio: Floats, tau: float) -> Floats:
    """(r - tau)+, capped."""
    return np.asarray(np.minimum(np.maximum(ratio - tau, 0.0), CAP))


def _outside(ratio: Floats) -> Floats:
    """h(r) = (r - tau)+ + (1/r - tau)+, capped."""
    with np.errstate(divide="ignore", over="ignore"):
        beyond = np.maximum(ratio - TAU, 0.0) + np.maximum(1.0 / ratio - TAU, 0.0)
    return np.asarray(np.minimum(beyond, CAP))


def _direction(neighbourhood: Neighbourhood, present: Mask) -> Floats:
    """Lower median over the others of rho_ik, over what pairs without i show."""
    rho, known = _distances(neighbourhood, present)
    m = present.shape[-1]
    usual = []
    for i in range(m):
        apart = np.ones((m, m), dtype=np.bool_)
        apart[i, :] = apart[:, i] = False
        flat = (*rho.shape[:-2], m * m)
        usual.append(lower_median(rho.reshape(flat), (known & apart).reshape(flat)))
    # Without the 1, a copy would make the others look far.
    floor = np.maximum(1.0, np.stack(usual, axis=-1))
    return np.asarray(lower_median(rho, known) / floor)


def squared_sum(neighbourhood: Neighbourhood, member: int, rounds: Mask) -> Floats:
    """||sum of u_t||^2 of a member over some `rounds` (..., W), from its exact products: (...); or
    over several sets of them (..., sets, W): (..., sets)."""
    both = rounds[..., :, np.newaxis] & rounds[..., np.newaxis, :]
    own = neighbourhood.products[..., member, :, :]
    own = own[..., np.newaxis, :, :] if both.ndim > own.ndim else own
    products = np.where(both, own, 0.0)
    return np.maximum(ordered_sum(ordered_sum(products, -1), -1), 0.0)


def _distances(neighbourhood: Neighbourhood, present: Mask) -> tuple[Floats, Mask]:
    """rho_ik = ||U_i - U_k||^2 / (E_i + E_k) over common rounds (..., m, m), and where there is
    one. About 1 for independent noise around one direction.

    Of the distance only the product <U_i, U_k> is by traces: what is hidden from them is a
    direction that nobody shares. By Cauchy and Schwarz it is at most the product of the lengths.
    """
    mask, traces, squares = neighbourhood.mask, neighbourhood.traces, neighbourhood.squares
    rho = np.zeros((*present.shape, present.shape[-1]))
    known = pairs_of(present)
    for i in range(present.shape[-1]):
        for k in range(i):
            common = mask[..., i, :] & mask[..., k, :]  # (..., W)
            one, two = (squared_sum(neighbourhood, a, common) for a in (i, k))
            totals = (
                ordered_sum(np.where(common[..., np.newaxis], traces[..., a, :, :], 0.0), -2)
                for a in (i, k)
            )  # (..., r)
            product = np.minimum(ordered_sum(np.multiply(*totals), -1), np.sqrt(one) * np.sqrt(two))
            both = ordered_sum(np.where(common, squares[..., i, :] + squares[..., k, :], 0.0), -1)
            distance = np.maximum(one + two - 2.0 * product, 0.0)
            there = both > 0
            value = np.where(there, distance / np.where(there, both, 1.0), 0.0)
            rho[..., i, k] = rho[..., k, i] = value
            known[..., i, k] &= there
            known[..., k, i] &= there
    return rho, known
