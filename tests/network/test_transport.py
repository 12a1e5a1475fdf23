"""Outbox, freezing and the in-memory network: no socket, no clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.network.errors import LocalProtocolError
from candor.network.transport import (
    Delivery,
    LinkStats,
    MemoryNetwork,
    Outbox,
    OutboxEntry,
    TransportLimits,
    freeze,
)

SMALL = TransportLimits(
    chunk_bytes=100, header_bytes_max=20, outbox_control_messages_max=3, outbox_bulk_messages_max=4
)


def _control(name: bytes) -> OutboxEntry:
    return OutboxEntry((name,), None)


def _bulk(round_number: int, name: bytes = b"chunk") -> OutboxEntry:
    return OutboxEntry((name,), round_number)


def _drain(outbox: Outbox) -> list[OutboxEntry]:
    drained = []
    while len(outbox):
        drained.append(outbox.first())
        outbox.remove_first()
    return drained


def test_bulk_of_a_newer_round_displaces_older_bulk_and_leaves_control_in_order() -> None:
    outbox = Outbox(SMALL)
    for entry in (_bulk(1), _control(b"x"), _bulk(1), _control(b"y"), _bulk(2)):
        outbox.put(entry)
    assert _drain(outbox) == [_control(b"x"), _control(b"y"), _bulk(2)]
    assert outbox.dropped == 2


def test_bulk_of_an_older_round_than_the_newest_is_not_queued() -> None:
    outbox = Outbox(SMALL)
    for entry in (_bulk(2), _bulk(1), _bulk(2)):
        outbox.put(entry)
    assert _drain(outbox) == [_bulk(2), _bulk(2)]
    assert outbox.dropped == 1


@pytest.mark.parametrize(("count", "dropped"), [(2, 0), (3, 0), (4, 1)])
def test_control_overflow_drops_the_oldest_control_message(count: int, dropped: int) -> None:
    outbox = Outbox(SMALL)
    outbox.put(_bulk(1))
    for number in range(count):
        outbox.put(_control(b"%d" % number))
    assert _drain(outbox) == [_bulk(1), *(_control(b"%d" % n) for n in range(dropped, count))]
    assert outbox.dropped == dropped


@pytest.mark.parametrize(("count", "dropped"), [(3, 0), (4, 0), (6, 2)])
def test_bulk_overflow_within_a_round_drops_the_oldest_chunk(count: int, dropped: int) -> None:
    outbox = Outbox(SMALL)
    outbox.put(_control(b"x"))
    for number in range(count):
        outbox.put(_bulk(1, b"%d" % number))
    assert _drain(outbox) == [_control(b"x"), *(_bulk(1, b"%d" % n) for n in range(dropped, count))]


@given(st.lists(st.none() | st.integers(1, 5), max_size=60), st.integers(0, 3))
def test_the_outbox_is_bounded_and_counts_everything(rounds: list[int | None], taken: int) -> None:
    outbox, removed = Outbox(SMALL), 0
    for number in rounds:
        outbox.put(OutboxEntry((b"x",), number))
        for _ in range(min(taken, len(outbox))):
            outbox.remove_first()
            removed += 1
        assert len(outbox) <= 7
    waiting = [entry.bulk_round for entry in _drain(outbox)]
    assert len(waiting) + removed + outbox.dropped == len(rounds)
    assert len({number for number in waiting if number is not None}) <= 1


def test_writable_buffers_are_copied_and_read_only_ones_kept() -> None:
    storage = bytearray(b"before")
    constant = memoryview(b"constant")
    writable, kept = freeze([memoryview(storage), constant], SMALL)
    storage[:] = b"after!"
    assert bytes(writable) == b"before"
    assert kept.obj is constant.obj


def test_a_link_that_was_never_dialled_has_counted_nothing() -> None:
    assert LinkStats() == LinkStats(0, 0, 0, 0, 0, False, None)


def test_a_view_with_gaps_is_sent_without_them() -> None:
    strided = memoryview(b"a-b-c-")[::2]
    assert strided.readonly
    (frozen,) = freeze([strided], SMALL)
    assert memoryview(frozen).c_contiguous
    assert bytes(frozen) == b"abc"


def test_a_frame_is_measured_in_bytes_at_and_above_its_limit() -> None:
    floats = memoryview(bytes(120)).cast("f")  # 30 items of 4 bytes
    assert freeze([floats], SMALL) == (floats,)
    with pytest.raises(LocalProtocolError, match="124 bytes"):
        freeze([memoryview(bytes(124)).cast("f")], SMALL)


@pytest.mark.parametrize("count", [0, 5])
def test_a_message_has_one_frame_to_the_limit(count: int) -> None:
    assert len(freeze([b"x"] * 4, SMALL)) == 4
    with pytest.raises(LocalProtocolError, match=f"{count} frames"):
        freeze([b"x"] * count, SMALL)


def test_a_high_water_mark_with_which_the_library_delivers_nothing_is_refused() -> None:
    assert TransportLimits(high_water_mark=2).high_water_mark == 2
    with pytest.raises(LocalProtocolError, match="at least 2"):
        TransportLimits(high_water_mark=1)


def _exchange(network: MemoryNetwork) -> list[tuple[float, str, bytes]]:
    arrived = []
    for number in range(100):
        network.post("a", "b", [b"%d" % number], now_s=float(number))
        for receiver, delivery in network.deliver(now_s=float(number)):
            arrived.append((float(number), receiver, bytes(delivery.frames[0])))
    arrived += [(1e9, receiver, bytes(d.frames[0])) for receiver, d in network.deliver(1e9)]
    return arrived


def _lossy(seed: int) -> MemoryNetwork:
    return MemoryNetwork(seed, loss=0.2, duplicate=0.2, delay_s=(0.0, 10.0), reorder=True)


def test_the_same_seed_gives_the_same_deliveries_and_another_seed_others() -> None:
    assert _exchange(_lossy(1)) == _exchange(_lossy(1))
    assert _exchange(_lossy(1)) != _exchange(_lossy(2))


def test_a_lossy_network_loses_repeats_and_reorders() -> None:
    numbers = [int(frame) for _, _, frame in _exchange(_lossy(7))]
    assert 0 < len(set(range(100)) - set(numbers)) < 50
    assert len(numbers) > len(set(numbers))
    assert numbers != sorted(numbers)


def test_without_reorder_a_link_keeps_its_order() -> None:
    network = MemoryNetwork(3, duplicate=0.3, delay_s=(0.0, 10.0))
    numbers = [int(frame) for _, _, frame in _exchange(network)]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(100))


def test_without_delay_a_message_is_due_when_it_is_posted() -> None:
    network = MemoryNetwork(0)
    network.post("a", "b", [b"x"], now_s=1.0)
    assert network.next_delivery_s == 1.0
    assert network.deliver(1.0) == [("b", Delivery("a", (b"x",)))]


def test_a_message_arrives_when_it_is_due_and_not_before() -> None:
    network = MemoryNetwork(0, delay_s=(2.0, 2.0))
    network.post("a", "b", [b"x"], now_s=1.0)
    assert network.next_delivery_s == 3.0
    assert network.deliver(2.999) == []
    assert network.deliver(3.0) == [("b", Delivery("a", (b"x",)))]
    assert network.next_delivery_s is None


def test_a_partition_cuts_between_groups_and_in_flight_until_healed() -> None:
    network = MemoryNetwork(0, delay_s=(1.0, 1.0))
    network.post("a", "b", [b"in flight"], now_s=0.0)
    network.partition([{"a", "c"}])
    network.post("a", "b", [b"across"], now_s=0.0)
    network.post("a", "c", [b"inside"], now_s=0.0)
    network.post("b", "d", [b"the others"], now_s=0.0)
    frames = [(receiver, delivery.frames[0]) for receiver, delivery in network.deliver(5.0)]
    assert frames == [("c", b"inside"), ("d", b"the others")]
    network.heal()
    network.post("a", "b", [b"again"], now_s=5.0)
    assert network.deliver(6.0) == [("b", Delivery("a", (b"again",)))]


def test_what_a_network_in_memory_carries_is_frozen_when_posted() -> None:
    network, storage = MemoryNetwork(0), bytearray(b"before")
    network.post("a", "b", [memoryview(storage)], now_s=0.0)
    storage[:] = b"after!"
    [(_, delivery)] = network.deliver(0.0)
    assert bytes(delivery.frames[0]) == b"before"


@pytest.mark.parametrize(("size", "kept"), [(33, 3), (34, 2), (101, 1)])
def test_control_messages_are_bounded_in_bytes_and_the_newest_stays(size: int, kept: int) -> None:
    limits = TransportLimits(outbox_control_bytes_max=100)
    outbox = Outbox(limits)
    outbox.put(_bulk(1))
    for number in range(3):
        outbox.put(_control(bytes([number]) * size))
    assert len(outbox) == kept + 1
    assert outbox.dropped == 3 - kept
    assert _drain(outbox)[-1] == _control(b"\2" * size)
    outbox.put(_control(bytes(size)))  # what left no longer counts
    outbox.put(_control(bytes(min(size, 50))))
    assert len(outbox) == 2 - (size > 100)
