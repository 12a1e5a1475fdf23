"""What a sketch hides: a vector that is farther away than its sketch says.

Signs are known before sending. So a modified client can add a poison h with S h = 0 to its vector,
which no sketch shows, and rules that derive rows from sketches take the vector for an innocent one.
A receiver holds the vectors themselves: its own and the neighbour's. With u their difference, d =
||u||^2 and s = ||S u||^2, it refuses what has d - s beyond what the signs of an honest run explain.

**The bound.** Let e_b be the energy of u in bucket b, u_1, u_2, u_3 its largest coordinates there,
largest first, v_b = e_b^2 - sum u_i^4. As signs are independent of an honest u, s is the sum of
X_b^2 with X_b = sum e_i u_i, E s = d, and Y_b = e_b - X_b^2 = -sum_{i != j} e_i e_j u_i u_j. For
every l > 0 a bucket has E exp(l Y_b) <= exp(psi_b(l)), psi_b the least of

    (a)  l^2 v_b / (1 - 2 l u_2^2)                               where 2 l u_2^2 < 1
    (b)  l e_b
    (c)  2 l |u_1 u_2| + l^2 (v_b - 2 u_1^2 u_2^2) / (1 - 2 l u_3^2)
                                 where 2 l u_3^2 < 1 and l (e_b - u_1^2 - u_2^2) <= 1 - 2 l u_3^2

and so, by Chernoff, P(d - s > t) <= delta for t = min over l of (ln(1/delta) + sum_b psi_b(l)) / l.

(a): given the sign of u_1, Y_b is of degree one in every other sign, and E exp(a e_i) = cosh a <=
exp(a^2 / 2), which is that of a Gaussian: so each may be replaced by one, sign by sign. What is
left is a Gaussian quadratic form in A = diag(u_i^2) - u u^T without u_1, A <= u_2^2, plus a linear
one: E exp <= exp((l^2 (r^4 - sum' u_i^4) + 2 l^2 u_1^2 r^2) / (1 - 2 l u_2^2)), r^2 = e_b - u_1^2,
which is (a), since -ln(1 - x) - x <= x^2 / (2 (1 - max(x, 0))) and A has no trace. (b): X_b^2 >= 0.
(c): as (a), with the signs of both u_1 and u_2 kept: their product adds -2 l u_1 u_2 outright and
(u_1 +- u_2)^2 to the linear form, which together have the factor cosh(2 u_1 u_2 (l - c)), c =
2 l^2 (e_b - u_1^2 - u_2^2) / (1 - 2 l u_3^2); that c is at most 2 l makes it exp(2 l |u_1 u_2|).

Spread evenly over many coordinates, t is near 2 sqrt(ln(1/delta) / k) d. The plain bound by fourth
moments, E X_b^4 <= 3 e_b^2, gives sqrt(6 ln(1/delta) sum e_b^2): of use only where no coordinate
stands out, which biases do.

**The cap.** Who puts a poison into two coordinates of a bucket has a t above d: honest differences
of that shape would look the same. t is capped at 2 sqrt(C ln(1/delta) / k) d. Whatever is accepted
is then at most 1 / sqrt(1 - 2 sqrt(C ln(1/delta) / k)) times as far as its sketch says.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.evidence.statements import EvidenceError

Floats = NDArray[np.float64]
Vector = NDArray[np.float32]

HIDDEN: Final = "distance-hidden"
# A round of an agent with 1,000 neighbours raises a false alarm with a probability below 1e-6.
LOG_FALSE_ALARM: Final = math.log(1e9)
# C: on digits, MNIST and Fashion-MNIST, on skewed data, the t of honest neighbours' differences
# was below that of 6 but in the first rounds of one model.
CONCENTRATION: Final = 6.0
# Shorter sketches hide everything.
SIZE_LEAST: Final = math.floor(4.0 * CONCENTRATION * LOG_FALSE_ALARM) + 1
# Values of u at a time, which stay in a core's cache.
BLOCK: Final = 2**15
# A sum of so many float32 squares, in whatever order, is off by less than this, relatively.
SUMMATION: Final = 2.0**-9
# l of the bound, times d: powers around that of an even spread, sqrt(k ln(1/delta)).
FACTORS: Final = 2.0 ** np.arange(-2, 13, 0.5)
COLUMNS: Final = 64  # buckets at a time
# Rounding that neighbours' float32 arithmetic adds to that of a codec: some operations of it.
ARITHMETIC: Final = 2.0**-20


def cap(size: int) -> float:
    """The largest share of d that a sketch of `size` values may hide; with 1 or more it hides
    everything."""
    return 2.0 * math.sqrt(CONCENTRATION * LOG_FALSE_ALARM / size)


def reach(size: int) -> float:
    """How many times as far as its sketch says an accepted vector may be; inf where anything is."""
    return math.inf if cap(size) >= 1.0 else 1.0 / math.sqrt(1.0 - cap(size))


def rounding(relative: float, absolute: float, dim: int, *sketches: Floats) -> float:
    """The energy of a difference of two vectors that a codec, which moves a value by `relative` of
    it or by `absolute`, and the arithmetic before it may make of none; by their sketches (k,)."""
    lengths = sum(math.sqrt(float(np.dot(sketch, sketch))) for sketch in sketches)
    moved = max(relative, ARITHMETIC) * lengths + len(sketches) * absolute * math.sqrt(dim)
    return (2.0 * moved) ** 2


def check_hidden(
    own: Vector,
    theirs: Vector,
    own_sketch: Floats,
    their_sketch: Floats,
    floor: float = 0.0,
    *,
    capped: bool = True,
) -> None:
    """Refuse a neighbour's vector (dim,) that is farther from the own one than its sketch shows.

    Args:
        own, theirs: finite vectors.
        own_sketch, their_sketch: theirs (k,), under the same signs.
        floor: an energy that may be hidden anyway, see `rounding`.
        capped: whether no more than the cap may be hidden, also where honest signs may do that.

    Raises:
        EvidenceError: with the code `distance-hidden`.
    """
    size = len(own_sketch)
    if len(own) <= size:
        return  # the sketch is the vector
    shown = their_sketch - own_sketch
    s = float(np.dot(shown, shown))
    d = distance(own, theirs)
    excess = d * (1.0 - SUMMATION) - s - floor
    if excess <= 2.0 * math.sqrt(LOG_FALSE_ALARM / size) * d:
        return  # as an even spread of honest differences may have: not worth a closer look
    within = not capped or excess <= cap(size) * d
    if within and excess <= explained(own, theirs, size):
        return
    far, seen = math.sqrt(d), math.sqrt(s)
    raise EvidenceError(HIDDEN, f"{far:g} from the own vector where the sketches show {seen:g}")


def far_apart(
    own: Vector, theirs: Vector, own_sketches: Floats, their_sketches: Floats
) -> NDArray[np.bool_]:
    """Which of some vectors (pairs, dim), by sketches (pairs, k), need a closer look: the others
    are not refused by `check_hidden`, whatever its floor. What is not finite does."""
    d = np.zeros(len(own))
    with np.errstate(over="ignore", invalid="ignore"):
        shown = their_sketches - own_sketches
        s = np.einsum("pk,pk->p", shown, shown)
        for low in range(0, own.shape[1], BLOCK):
            apart = theirs[:, low : low + BLOCK] - own[:, low : low + BLOCK]
            d += np.einsum("pi,pi->p", apart, apart)
        # Rounded in other orders than there, so that none is near by rounding alone.
        even = 2.0 * math.sqrt(LOG_FALSE_ALARM / own_sketches.shape[1]) * d
        near: NDArray[np.bool_] = d * (1.0 + SUMMATION) - s <= even * (1.0 - 4.0 * SUMMATION)
    return ~near


def distance(own: Vector, theirs: Vector) -> float:
    """||theirs - own||^2 in one pass, relatively exact to `SUMMATION`."""
    total = 0.0
    with np.errstate(over="ignore"):
        for low in range(0, len(own), BLOCK):
            apart = theirs[low : low + BLOCK] - own[low : low + BLOCK]
            total += float(np.dot(apart, apart))
    if math.isfinite(total):
        return total
    return float(np.square(theirs - own.astype(np.float64)).sum())


def explained(
    own: Vector, theirs: Vector, size: int, log_false_alarm: float = LOG_FALSE_ALARM
) -> float:
    """t: how much of the energy of theirs - own honest signs hide with a probability of at most
    exp(-log_false_alarm), for sketches of `size` values."""
    with np.errstate(all="ignore"):
        energies, fourths, tops = _buckets(own, theirs, size)
        total = float(energies.sum())
        if not 0.0 < total < math.inf:
            return 0.0
        steps = (FACTORS / total)[:, None]  # l, (steps, 1)
        mixed = np.maximum(np.square(energies) - fourths, 0.0)  # v_b, (k,)
        first, second, third = tops
        pair = np.sqrt(first * second)
        rest = np.maximum(energies - first - second, 0.0)
        left = 1.0 - 2.0 * steps * second
        a = np.where(left > 0.0, np.square(steps) * mixed / left, np.inf)
        left = 1.0 - 2.0 * steps * third
        others = np.maximum(mixed - 2.0 * np.square(pair), 0.0)
        c = 2.0 * steps * pair + np.square(steps) * others / left
        c = np.where((left > 0.0) & (steps * rest <= left), c, np.inf)
        psi = np.minimum(np.minimum(a, c), steps * energies).sum(axis=1)  # (steps,)
        return float(((log_false_alarm + psi) / steps[:, 0]).min())


def effective_size(own: Vector, theirs: Vector, size: int) -> float:
    """How many values a sketch of `size` has in effect for theirs - own: 2 over the variance that
    independent signs give ||S u||^2 / ||u||^2. Fewer than `size` where rows of a weight matrix,
    whose length divides it, meet in the same buckets; inf where no two coordinates meet."""
    energies, fourths, _ = _buckets(own, theirs, size)
    meeting = float((np.square(energies) - fourths).sum())
    return float(energies.sum()) ** 2 / meeting if meeting > 0.0 else math.inf


def _buckets(own: Vector, theirs: Vector, size: int) -> tuple[Floats, Floats, Floats]:
    """Of u = theirs - own by bucket: energies (k,), sums of fourth powers (k,), and the three
    largest squares, (3, k), largest first."""
    energies, fourths, tops = np.zeros(size), np.zeros(size), np.zeros((3, size))
    rows, rest = divmod(len(own), size)
    whole = rows * size
    mine, given = (vector[:whole].reshape(rows, size) for vector in (own, theirs))
    for low in range(0, size, COLUMNS):
        high = min(low + COLUMNS, size)
        squares = np.zeros((rows + 3, high - low))  # at least three of them
        np.subtract(given[:, low:high], mine[:, low:high], out=squares[:rows])
        if low < rest:
            last = slice(whole + low, whole + min(high, rest))
            np.subtract(theirs[last], own[last], out=squares[rows, : last.stop - last.start])
        np.square(squares, out=squares)
        energies[low:high] = squares.sum(axis=0)
        tops[:, low:high] = np.partition(squares, (-3, -2, -1), axis=0)[:-4:-1]
        fourths[low:high] = np.square(squares, out=squares).sum(axis=0)
    return energies, fourths, tops
