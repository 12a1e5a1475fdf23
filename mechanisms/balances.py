"""Everyone's balance when all agents hear all their neighbours: the bills of a whole graph at once.

For runtimes that hold every agent as a row. It gives the integers that claims, bills and channels
give, without any of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mechanisms.credits import total_energy
from mechanisms.rules import Neighbourhood, Payments

Floats = NDArray[np.float64]


def windows_of(
    round_energies: Floats, round_traces: Floats, window_rounds: int
) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Energies (rounds, agents) and traces (rounds, agents, r) by window, as claims hold them.

    Returns:
        energies (windows, agents), summed exactly as bills sum them; which rounds there are
        (windows, W), the last window may be short; traces (windows, agents, W, r).
    """
    rounds, agents = round_energies.shape
    count = -(-rounds // window_rounds)
    energies = np.zeros((count, agents))
    mask = np.zeros((count, window_rounds), dtype=np.bool_)
    traces = np.zeros((count, agents, window_rounds, round_traces.shape[-1]))
    for w in range(count):
        block = slice(w * window_rounds, min(rounds, (w + 1) * window_rounds))
        held = block.stop - block.start
        energies[w] = [total_energy(round_energies[block, a].tolist()) for a in range(agents)]
        mask[w, :held] = True
        traces[w, :, :held] = np.swapaxes(round_traces[block], 0, 1)
    return energies, mask, traces


def paid(
    payments: Payments,
    referee: int,
    neighbours: Sequence[int],
    windows: tuple[Floats, NDArray[np.bool_], Floats],
) -> NDArray[np.int64]:
    """What each of a referee's neighbours pays it by window: (windows, neighbours) micro-credits.

    `neighbours` in ascending order of id, as indices of agents; `windows` as of `windows_of`.

    Raises:
        AmountError: a charge is no amount.
    """
    energies, mask, traces = windows
    members = sorted([referee, *neighbours])
    at = members.index(referee)
    rounds = np.repeat(mask[:, np.newaxis], len(members), axis=1)
    transfers, charges = payments.rows(
        Neighbourhood(energies[:, members], rounds, traces[:, members], at)
    )
    return np.delete(transfers + charges, at, axis=1)


def net_balances(
    payments: Payments,
    neighbours: Mapping[int, Sequence[int]],
    windows: tuple[Floats, NDArray[np.bool_], Floats],
) -> NDArray[np.int64]:
    """What every agent received, net: (agents,) micro-credits, which sum to exactly 0.

    `neighbours` of each agent, as indices whose order is that of the ids.

    Raises:
        AmountError: a charge is no amount.
    """
    balances = np.zeros(windows[0].shape[-1], dtype=np.int64)
    if not payments.settles:
        return balances
    for referee, around in neighbours.items():
        if not around:
            continue
        amounts = paid(payments, referee, sorted(around), windows).sum(axis=0)
        balances[referee] += amounts.sum()
        balances[sorted(around)] -= amounts
    return balances
