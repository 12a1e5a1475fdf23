"""A disk in memory: what `Store` keeps, with commits that are atomic, and copies."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from candor.agent.algorithms.effects import State
from candor.agent.core.earlier import Checkpoint
from candor.agent.core.effects import PutValue, StoreOperation
from candor.mechanisms.ledger.channel import (
    ChannelState,
    Pending,
    Record,
    StorePayment,
    StorePending,
    StoreRecord,
    StoreRefusal,
    StoreStatus,
)


@dataclass(slots=True)
class Disk:
    """One agent's database, the snapshot of its window, which is the `newest` unless a backup was
    put back, and what it has kept of its training: a step, the vector of it, and the state."""

    values: dict[str, bytes] = field(default_factory=dict)
    chains: dict[bytes, list[Record]] = field(default_factory=dict)
    states: dict[bytes, ChannelState] = field(default_factory=dict)
    snapshot: bytes | None = None
    newest: bool = True
    kept: tuple[Checkpoint, State] | None = None

    def commit(self, operations: Sequence[StoreOperation]) -> None:
        """Perform all of them."""
        for operation in operations:
            self._perform(operation)

    def value(self, key: str) -> bytes | None:
        """A value as last put."""
        return self.values.get(key)

    def channel_state(self, channel_id: bytes) -> ChannelState:
        """What a channel is rebuilt from."""
        chain = self.chains.get(channel_id, [])
        state = self.states.get(channel_id, ChannelState())
        heads = tuple(record.head for record in chain)
        return replace(state, heads=heads, last=chain[-1] if chain else None)

    def records(self, channel_id: bytes, first: int = 0, count: int | None = None) -> list[Record]:
        """The records of a channel from `first` on, `count` at most."""
        chain = self.chains.get(channel_id, [])
        return chain[first : None if count is None else first + count]

    def copy(self) -> Self:
        """A backup, to be restored later."""
        chains = {channel: list(chain) for channel, chain in self.chains.items()}
        return type(self)(
            dict(self.values), chains, dict(self.states), self.snapshot, self.newest, self.kept
        )

    def replace(self, backup: "Disk") -> None:
        """Restore a backup."""
        again = backup.copy()
        self.values, self.chains, self.states = again.values, again.chains, again.states
        self.snapshot, self.newest, self.kept = again.snapshot, again.newest, again.kept

    def _perform(self, operation: StoreOperation) -> None:
        match operation:
            case PutValue(key, value):
                self.values[key] = value
            case StorePending(channel_id, body, sig_p, evidence):
                self._set(channel_id, pending=Pending(body, sig_p, evidence))
            case StoreRecord(channel_id, seq, body, sig_p, sig_a, evidence):
                chain = self.chains.setdefault(channel_id, [])
                assert seq == len(chain)
                chain.append(Record(body, sig_p, sig_a, evidence))
                self._clear(channel_id, operation.paid)
            case StoreRefusal(channel_id, refusal, status, reason):
                refusals = self.states.get(channel_id, ChannelState()).refusals
                self._set(channel_id, refusals=(*refusals, refusal), status=status, reason=reason)
                self._clear(channel_id, operation.paid)
            case StorePayment(channel_id, delta):
                self._set(channel_id, payment=delta)
            case StoreStatus(channel_id, status, reason):
                self._set(channel_id, status=status, reason=reason)

    def _clear(self, channel_id: bytes, paid: int) -> None:
        """What is answered waits no longer."""
        payment = self.states.get(channel_id, ChannelState()).payment
        self._set(channel_id, pending=None, payment=0 if payment == paid else payment)

    def _set(self, channel_id: bytes, **changes: object) -> None:
        state = self.states.get(channel_id, ChannelState())
        self.states[channel_id] = replace(state, **changes)  # type: ignore[arg-type]
