"""Receive slots hold two rounds a neighbour and reuse their buffers, whatever is sent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.network.errors import RemoteProtocolError
from candor.network.slots import SLOTS_PER_NEIGHBOUR, BufferPool, Inbox

DIM = 8
PAYLOAD = np.arange(DIM, dtype=np.float32).tobytes()
BYTES = len(PAYLOAD)


@pytest.fixture
def pool() -> BufferPool:
    return BufferPool(DIM, spare_max=4)


@pytest.fixture
def inbox(pool: BufferPool) -> Inbox[str, str]:
    return Inbox(pool, BYTES)


@given(st.lists(st.integers(1, BYTES), min_size=1, max_size=12))
def test_a_payload_arrives_in_chunks_of_any_size(sizes: list[int]) -> None:
    slot = Inbox[str, str](BufferPool(DIM, 4), BYTES).announce(1, "statement", BYTES)
    at = 0
    for number, size in enumerate(sizes):
        piece = PAYLOAD[at : at + size]
        if not piece:
            break
        assert not slot.complete
        slot.write(at, memoryview(piece) if number % 2 else piece)
        at += len(piece)
    assert slot.received_bytes == at
    assert slot.complete == (at == BYTES)
    assert slot.buffer.tobytes()[:at] == PAYLOAD[:at]


def test_the_earliest_slot_of_which_all_is_there_is_the_next(inbox: Inbox[str, str]) -> None:
    first, second = (inbox.announce(step, "statement", BYTES) for step in (1, 2))
    assert inbox.complete is None
    second.write(0, PAYLOAD)
    assert inbox.complete is second
    first.write(0, PAYLOAD)
    assert inbox.complete is first
    inbox.take(1)
    assert inbox.complete is second


@pytest.mark.parametrize(
    ("offset", "data", "code"),
    [
        (0, PAYLOAD[:4], "chunk-order"),  # again
        (7, PAYLOAD[:4], "chunk-order"),
        (9, PAYLOAD[:4], "chunk-order"),
        (BYTES, PAYLOAD[:4], "chunk-order"),
        (2**53, PAYLOAD[:4], "chunk-order"),
        (8, b"", "chunk-size"),
        (8, PAYLOAD[: BYTES - 7], "chunk-size"),
        (8, bytes(2**20), "chunk-size"),
    ],
)
def test_a_chunk_out_of_order_empty_or_too_long_changes_nothing(
    inbox: Inbox[str, str], offset: int, data: bytes, code: str
) -> None:
    slot = inbox.announce(1, "statement", BYTES)
    slot.write(0, PAYLOAD[:8])
    before = slot.buffer.tobytes()
    with pytest.raises(RemoteProtocolError) as caught:
        slot.write(offset, data)
    assert caught.value.code == code
    assert (slot.received_bytes, slot.buffer.tobytes()) == (8, before)
    slot.write(8, PAYLOAD[8:])
    assert slot.complete


def test_nothing_follows_a_complete_payload(inbox: Inbox[str, str]) -> None:
    slot = inbox.announce(1, "statement", BYTES)
    slot.write(0, PAYLOAD)
    for data in (b"", b"x"):
        with pytest.raises(RemoteProtocolError, match=r"^chunk-size"):
            slot.write(BYTES, data)


@pytest.mark.parametrize("size", [0, BYTES - 1, BYTES + 1, 2**53])
def test_a_payload_of_another_size_is_refused_and_costs_nothing(
    inbox: Inbox[str, str], size: int
) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^payload-size"):
        inbox.announce(1, "statement", size)
    assert inbox.slot(1) is None
    assert inbox.latest_step == 0
    assert inbox.announce(1, "statement", BYTES).statement == "statement"


def test_a_round_is_announced_once_and_rounds_go_forward(inbox: Inbox[str, str]) -> None:
    inbox.announce(5, "first", BYTES)
    for number in (5, 4, 1, 0):
        with pytest.raises(RemoteProtocolError, match=r"^round-order"):
            inbox.announce(number, "again", BYTES)
    slot = inbox.slot(5)
    assert slot is not None
    assert slot.statement == "first"
    assert inbox.latest_step == 5


def test_no_round_is_announced_twice_in_two_sessions_either(inbox: Inbox[str, str]) -> None:
    """A second model for a round whose first one was measured would be mixed unmeasured."""
    inbox.announce(5, "first", BYTES).write(0, PAYLOAD)
    inbox.take(5)
    inbox.restart()
    with pytest.raises(RemoteProtocolError, match=r"^round-order"):
        inbox.announce(5, "second", BYTES)
    assert inbox.announce(6, "next", BYTES).step == 6


def test_a_new_session_forgets_what_was_half_sent(inbox: Inbox[str, str], pool: BufferPool) -> None:
    slot = inbox.announce(5, "half", BYTES)
    slot.write(0, PAYLOAD[:8])
    inbox.restart()
    assert inbox.slot(5) is None
    assert pool.take() is slot.buffer


def test_a_third_round_displaces_the_oldest(inbox: Inbox[str, str], pool: BufferPool) -> None:
    first = inbox.announce(1, "a", BYTES)
    inbox.announce(2, "b", BYTES)
    inbox.announce(9, "c", BYTES)
    assert inbox.slot(1) is None
    assert [number for number in range(12) if inbox.slot(number)] == [2, 9]
    assert pool.take() is first.buffer


@given(st.lists(st.integers(1, 40), max_size=60))
def test_announcements_alone_never_hold_more_than_two_buffers(rounds: list[int]) -> None:
    taken: set[int] = set()

    class Counting(BufferPool):
        def take(self) -> np.ndarray:
            buffer = super().take()
            taken.add(id(buffer))
            return buffer

    inbox = Inbox[int, str](Counting(DIM, 4), BYTES)
    for number in rounds:
        try:
            inbox.announce(number, number, BYTES)
        except RemoteProtocolError:
            continue
    held = [slot for number in range(41) if (slot := inbox.slot(number))]
    assert len(held) <= SLOTS_PER_NEIGHBOUR
    assert len({id(slot.buffer) for slot in held}) == len(held)
    assert len(taken) <= SLOTS_PER_NEIGHBOUR + 1


def test_a_slot_that_is_taken_keeps_its_buffer_from_others(
    inbox: Inbox[str, str], pool: BufferPool
) -> None:
    slot = inbox.announce(1, "a", BYTES)
    slot.write(0, PAYLOAD)
    assert inbox.take(1) is slot
    assert inbox.take(1) is None
    inbox.drop(1)
    assert inbox.slot(1) is None
    other = inbox.announce(2, "b", BYTES)
    assert other.buffer is not slot.buffer
    other.write(0, bytes(BYTES))
    assert slot.buffer.tobytes() == PAYLOAD


def test_what_is_written_is_a_copy(inbox: Inbox[str, str]) -> None:
    data = bytearray(PAYLOAD)
    slot = inbox.announce(1, "a", BYTES)
    slot.write(0, memoryview(data))
    data[:] = bytes(BYTES)
    assert slot.buffer.tobytes() == PAYLOAD


def test_rounds_before_a_round_are_dropped(inbox: Inbox[str, str], pool: BufferPool) -> None:
    slot = inbox.announce(4, "a", BYTES)
    inbox.announce(5, "b", BYTES)
    inbox.drop_before(4)
    assert inbox.slot(4) is slot
    inbox.drop_before(5)
    assert inbox.slot(4) is None
    assert inbox.slot(5) is not None
    assert pool.take() is slot.buffer
    inbox.drop(77)  # never announced
    assert inbox.latest_step == 5


def test_only_the_witnesses_that_the_row_names_are_kept(inbox: Inbox[str, str]) -> None:
    slot = inbox.announce(2, "a", BYTES, frozenset({"a0", "a1"}))
    slot.add_witness("a0", "first")
    slot.add_witness("a0", "second")
    for stranger in ("a2", "", "x" * 32):
        with pytest.raises(RemoteProtocolError, match=r"^witness-unnamed"):
            slot.add_witness(stranger, "unasked")
    assert slot.witnesses == {"a0": "second"}


def test_a_pool_reuses_buffers_up_to_its_bound() -> None:
    pool = BufferPool(DIM, spare_max=2)
    buffers = [pool.take() for _ in range(4)]
    assert len({id(buffer) for buffer in buffers}) == 4
    assert all(b.shape == (DIM,) and b.dtype == np.float32 for b in buffers)
    for buffer in buffers:
        pool.give(buffer)
    again = [pool.take() for _ in range(3)]
    assert {id(buffer) for buffer in again[:2]} == {id(buffer) for buffer in buffers[:2]}
    assert all(again[2] is not buffer for buffer in buffers)
