"""Everyone's balance when all agents hear all their neighbours: the bills of a whole graph at once.

For runtimes that hold every agent as a row. It gives the integers that claims, bills and channels
give, without any of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.evidence.fresh import Fresh
from candor.mechanisms.payments.band import with_hidden
from candor.mechanisms.payments.credits import total_energy
from candor.mechanisms.payments.rules import Floats, Neighbourhood, Payments, referees_of

BATCH_BYTES: Final = 2**22  # of traces billed together: a few megabytes stay in the cache


class Windows(NamedTuple):
    """What all agents injected, by window: `energies` (windows, agents), summed exactly as bills
    sum them; `mask` (windows, W), which rounds there are, the last window may be short; `traces`
    (windows, agents, W, r); `products` (windows, agents, W, W) of rounds."""

    energies: Floats
    mask: NDArray[np.bool_]
    traces: Floats
    products: Floats


def windows_of(
    round_energies: Floats,
    round_traces: Floats,
    round_products: Floats,
    window_rounds: int,
    whole: tuple[Floats, Fresh] | None = None,
) -> Windows:
    """Energies (rounds, agents), traces (rounds, agents, r) and inner products (rounds, agents, W)
    by window, as claims hold them: of a round those with the rounds of its window up to itself.
    `whole`: the energies (rounds, agents) that fresh sketches show, where there are any, and how
    the two are compared."""
    rounds, agents = round_energies.shape
    count = -(-rounds // window_rounds)
    energies = np.zeros((count, agents))
    mask = np.zeros((count, window_rounds), dtype=np.bool_)
    traces = np.zeros((count, agents, window_rounds, round_traces.shape[-1]))
    products = np.zeros((count, agents, window_rounds, window_rounds))
    hidden = np.zeros((count, agents))
    for w in range(count):
        block = slice(w * window_rounds, min(rounds, (w + 1) * window_rounds))
        held = block.stop - block.start
        energies[w] = [total_energy(round_energies[block, a].tolist()) for a in range(agents)]
        mask[w, :held] = True
        traces[w, :, :held] = np.swapaxes(round_traces[block], 0, 1)
        for t, row in enumerate(round_products[block]):
            products[w, :, t, : t + 1] = products[w, :, : t + 1, t] = row[:, : t + 1]
        if whole is not None:
            pairs = zip(round_energies[block].T.tolist(), whole[0][block].T.tolist(), strict=True)
            hidden[w] = [whole[1].hidden(shown, found) for shown, found in pairs]
    rounds_of_all = np.broadcast_to(mask[:, np.newaxis], (*hidden.shape, window_rounds))
    energies, products = with_hidden(energies, rounds_of_all, products, hidden)
    return Windows(energies, mask, traces, products)


def net_balances(
    payments: Payments,
    neighbours: Mapping[int, Sequence[int]],
    windows: Windows,
    first: int = 0,
) -> NDArray[np.int64]:
    """What every agent received, net, in each window: (agents, windows) micro-credits, of which
    those of a window sum to exactly 0.

    `neighbours` of each agent, as indices whose order is that of the ids; `windows` as of
    `windows_of`, the first of them number `first`. Referees that stand at the same place among as
    many members are billed together: rules are batch-first.

    Raises:
        AmountError: a charge is no amount.
    """
    energies, mask = windows.energies, windows.mask
    traces, products = windows.traces, windows.products
    balances = np.zeros(energies.T.shape, dtype=np.int64)
    if not payments.settles:
        return balances
    near = [neighbours[a] for a in range(len(balances))]
    degrees = np.array([float(len(around)) for around in near])
    referees = np.array([float(referees_of(around, neighbours)) for around in near])
    numbers = np.arange(first, first + len(mask))[:, np.newaxis]
    for at, members in _alike(neighbours):
        together = max(1, BATCH_BYTES // (traces[:, 0].nbytes * members.shape[1]))
        for low in range(0, len(members), together):
            some = members[low : low + together]  # (referees, m)
            rounds = np.broadcast_to(
                mask[:, np.newaxis, np.newaxis], (len(mask), *some.shape, mask.shape[1])
            )
            transfers, charges = payments.rows(
                Neighbourhood(
                    energies[:, some],
                    rounds,
                    traces[:, some],
                    products[:, some],
                    at,
                    degrees[some],
                    referees[some],
                    numbers,
                )
            )
            # (referees, m, windows), 0 of the referee itself
            amounts = np.moveaxis(transfers + charges, 0, -1)
            np.subtract.at(balances, some, amounts)
            np.add.at(balances, some[:, at], amounts.sum(axis=1))
    return balances


def _alike(neighbours: Mapping[int, Sequence[int]]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Referees with their neighbours, in ascending order: by the place `at` of the referee in it,
    and by size, rows (referees, m)."""
    groups: dict[tuple[int, int], list[list[int]]] = {}
    for referee, around in neighbours.items():
        members = sorted([referee, *around])
        if around:
            groups.setdefault((members.index(referee), len(members)), []).append(members)
    for (at, _), rows in sorted(groups.items()):
        yield at, np.array(rows)
